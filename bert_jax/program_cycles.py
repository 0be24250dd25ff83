"""Cycles of a program that the TPU's compiler has optimised, from the estimates in its text.

The compiler notes for nearly every operation how many cycles it will take. A program takes their sum, a loop's body
once for each trip, of a conditional the dearest branch. Operations that it has no estimate for count nothing, but for
Pallas kernels: those count twice what their FLOPs take at peak, or their bytes at the memory's full rate, whichever is
more. So a good kernel is charged about what the compiler charges for its own code.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

from bert_jax import hlo

_NO_ESTIMATE = 2**62  # the compiler's "unknown" lies near 2**63
_KERNEL_FACTOR = 2  # what a Pallas kernel takes over its bound


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a device does in a cycle at most: bfloat16 FLOPs, and bytes to and from its memory."""

    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of the program.

    Attributes:
      name, opcode, shape: as in the text (the shape without layout).
      source: the traced name, as jit(train_step)/transpose(jvp())/dot_general.
      cycles: of one execution.
      times: how often it is executed.
    """

    name: str
    opcode: str
    shape: str
    source: str
    cycles: int
    times: int

    @property
    def total(self) -> int:
        """Cycles of all executions."""
        return self.cycles * self.times


def program_cycles(text: str, rates: Rates) -> int:
    """Cycles of an optimised program: the sum over its `operations`."""
    return sum(operation.total for operation in operations(text, rates))


def operations(text: str, rates: Rates) -> list[Operation]:
    """Every operation that takes cycles, in the text's order.

    Args:
      text: `compiled.as_text()`.
      rates: of the device, by which Pallas kernels are counted.

    Raises:
      ValueError: a loop whose number of trips cannot be read, or a Pallas kernel without a cost estimate.
    """
    program = hlo.read(text)
    return list(_inside(program.entry, 1, program, rates))


def _inside(name: str, times: int, program: hlo.Program, rates: Rates) -> Iterator[Operation]:
    for line in program.computations[name]:
        loop = hlo.loop(line)
        if loop:
            rounds = times * hlo.trips(program, line)
            for part in loop:
                yield from _inside(part, rounds, program, rates)
            continue
        cycles = _cycles(line, rates)
        if cycles:
            yield _operation(line, cycles, times)
        elif hlo.is_call(line):
            ways = [list(_inside(called, times, program, rates)) for called in hlo.called(line)]
            yield from max(ways, key=lambda way: sum(operation.total for operation in way), default=[])


def _cycles(line: str, rates: Rates) -> int:
    estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
    if estimate and int(estimate[1]) < _NO_ESTIMATE:
        return int(estimate[1])
    if 'custom_call_target="tpu_custom_call"' in line:
        return _kernel_cycles(line, rates)
    return 0


def _kernel_cycles(line: str, rates: Rates) -> int:
    found = re.search(r'"cost_estimate":(\{[^}]*\})', line)
    if not found:
        raise ValueError(f"a Pallas kernel without a cost estimate: {line.strip()[:200]}")
    cost = json.loads(found[1])
    bound = max(float(cost["flops"]) / rates.flops, float(cost["bytes_accessed"]) / rates.bytes)
    return math.ceil(_KERNEL_FACTOR * bound)


def _operation(line: str, cycles: int, times: int) -> Operation:
    found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(", line)
    name, shape, opcode = found.groups() if found else (line.strip()[:40], "", "")
    source = re.search(r'op_name="([^"]*)"', line)
    return Operation(name, opcode, re.sub(r"\{[^{}]*\}", "", shape), source[1] if source else "", cycles, times)
