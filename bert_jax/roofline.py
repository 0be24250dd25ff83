"""About how long a step takes a GPU, by what it computes and what a program for the CPU moves.

There is no compiler for GPUs that works without one and says what its program costs. What is known without it: the
FLOPs of the model, and the arrays of the program that XLA makes of the same step for CPUs, each taken as written once
and read once. A GPU's program fuses otherwise and has bfloat16 where a CPU's has float32, so it moves less; and kernels
are never as fast as the peaks. So this is a rule of thumb, and no bound on either side.
"""

import re
from collections.abc import Iterator

from bert_jax import hlo
from bert_jax.collectives import array_bytes, array_sizes

_NOTHING_MOVES = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "call", "conditional")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([\w\-]+)\(")


def moved_bytes(text: str) -> int:
    """Bytes that a device's optimised program writes and reads again, a loop's body once for each trip; of an array
    that is updated in place, the part that is new."""
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
            yield times * _result(line, found[1], found[2], name, program)


def _result(line: str, shape: str, opcode: str, name: str, program: hlo.Program) -> int:
    """What one instruction of a computation writes.

    A scan keeps what its steps give in arrays of all steps, of which each step writes a slice: alone, or at the end of
    a fusion, there with a conversion around it where a CPU has no such type.
    """
    if opcode == "fusion":
        (name,) = hlo.called(line)
        updates = [each for each in program.computations[name] if " dynamic-update-slice(" in each]
    else:
        updates = [line] if opcode == "dynamic-update-slice" else []
    new = dict(_update(each, program.computations[name]) for each in updates)
    sizes = zip(array_bytes(shape), array_sizes(shape), strict=True)
    return sum(size * new.get(elements, elements) // max(1, elements) for size, elements in sizes)


def _update(line: str, computation: list[str]) -> tuple[int, int]:
    """Of a dynamic-update-slice the elements of the array, and of the part that is new."""
    result, _, operands = line.partition(" dynamic-update-slice(")
    update = re.findall(r"%([\w.\-]+)", operands)[1]
    (given,) = (each for each in computation if re.match(rf"\s*%{re.escape(update)} = ", each))
    return array_sizes(result)[0], array_sizes(given)[0]


def computing_seconds(flops: float, text: str, peak: float, bandwidth: float) -> float:
    """The longer of computing at peak and moving at the memory's full rate.

    Args:
      flops: of a device's share of the step.
      text: of its program, compiled for CPUs.
      peak: FLOP/s.
      bandwidth: bytes/s.
    """
    return max(flops / peak, moved_bytes(text) / bandwidth)
