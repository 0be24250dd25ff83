"""How long a step takes a GPU at least, by what it computes and what a program for the CPU moves.

There is no compiler for GPUs that works without one and says what its program costs. What is known without it: the
FLOPs of the model, and the arrays of the program that XLA makes of the same step for CPUs, each taken as written once
and read once. A GPU's program fuses otherwise and has other types in places, so this is a rule of thumb, and nothing
more; kernels are never as fast as the peaks.
"""

import re
from collections.abc import Iterator

from bert_jax import hlo
from bert_jax.collectives import array_bytes

_NOTHING_MOVES = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(")


def moved_bytes(text: str) -> int:
    """Bytes that a device's optimised program writes and reads again, a loop's body once for each trip."""
    program = hlo.read(text)
    return 2 * sum(_written(program.entry, 1, program))


def _written(name: str, times: int, program: hlo.Program) -> Iterator[int]:
    """What the instructions of a computation write; those inside fusions write nothing."""
    for line in program.computations[name]:
        loop = hlo.loop(line)
        if loop:
            rounds = times * hlo.trips(program, line)
            for part in loop:
                yield from _written(part, rounds, program)
        elif hlo.is_call(line):
            for called in hlo.called(line):
                yield from _written(called, times, program)
        found = _INSTRUCTION.match(line)
        if found and found[2] not in _NOTHING_MOVES:
            yield times * sum(array_bytes(found[1]))


def computing_seconds(flops: float, text: str, peak: float, bandwidth: float) -> float:
    """The longer of computing at peak and moving at the memory's full rate.

    Args:
      flops: of a device's share of the step.
      text: of its program, compiled for CPUs.
      peak: FLOP/s.
      bandwidth: bytes/s.
    """
    return max(flops / peak, moved_bytes(text) / bandwidth)
