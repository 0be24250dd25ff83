"""Cycles of an optimised TPU program, by the compiler's own estimates in its text.

A fusion, a copy or a product carries `estimated_cycles` where it stands; what runs inside a fusion is part of that. A
loop's body counts once for each trip. Where the compiler knows nothing it writes a number near 2**63, which counts as
nothing, as do collective operations (`collectives.py` tells of those).
"""

import re

from bert_jax import hlo

_NO_ESTIMATE = 2**62  # the compiler's "unknown" lies near 2**63


def program_cycles(text: str) -> int:
    """Cycles of one run of an optimised program's entry.

    Raises:
      ValueError: a loop whose number of trips cannot be read.
    """
    program = hlo.read(text)
    known: dict[str, int] = {}

    def cycles(name: str) -> int:
        if name not in known:
            known[name] = sum(instruction(line) for line in program.computations[name])
        return known[name]

    def instruction(line: str) -> int:
        found = hlo.loop(line)
        if found:
            return hlo.trips(program, line) * sum(cycles(name) for name in found)
        estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
        if estimate and int(estimate[1]) < _NO_ESTIMATE:
            return int(estimate[1])
        sides = [cycles(name) for name in hlo.called(line)] if hlo.is_call(line) else []
        return max(sides, default=0)  # of a branch the dearer side

    return cycles(program.entry)
