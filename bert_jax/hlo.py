"""The text of an optimised program, read: its computations, and how often each runs in one step.

XLA prints a program as named computations, one an entry; a loop, a fusion, a call or a branch names the computations
it runs. What is here reads just that, the same for every backend.
"""

import dataclasses
import re

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_ONE = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_SEVERAL = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Program:
    """The lines of every computation by its name, and which one is the entry."""

    computations: dict[str, list[str]]
    entry: str


def read(text: str) -> Program:
    """Cuts a program's text into its computations."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    return Program(computations, entry)


def loop(line: str) -> tuple[str, str] | None:
    """The condition and the body of a loop, None if the instruction is none."""
    found = _LOOP.search(line)
    return (found[1], found[2]) if found else None


def called(line: str) -> list[str]:
    """What an instruction that is no loop runs: of a branch every side."""
    names = _ONE.findall(line)
    for group in _SEVERAL.findall(line):
        names += [name.strip().lstrip("%") for name in group.split(",") if name.strip()]
    return names


def is_call(line: str) -> bool:
    """Whether the instruction is a plain call or a branch, whose computations run as they stand."""
    return re.search(r" (?:call|conditional)\(", line) is not None


def trips(program: Program, line: str) -> int:
    """How often a loop's body runs.

    A scan counts from 0 to a constant, which the compiler notes at the loop or leaves in its condition.

    Raises:
      ValueError: neither is there.
    """
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    if noted:
        return int(noted[1])
    found = loop(line)
    condition = program.computations[found[0]] if found else []
    constants = [
        number[1] for number in (re.search(r"s32\[\].* constant\((\d+)\)", each) for each in condition) if number
    ]
    if len(constants) != 1:
        raise ValueError(f"a loop of unknown length: {line.strip()[:200]}")
    return int(constants[0])


def executions(program: Program) -> dict[str, int]:
    """How often each computation runs in one run of the entry; every side of a branch counts."""
    times = dict.fromkeys(program.computations, 0)

    def run(name: str, count: int) -> None:
        times[name] += count
        for line in program.computations[name]:
            found = loop(line)
            if found:
                rounds = trips(program, line)
                for each in found:
                    run(each, count * rounds)
                continue
            for each in called(line):
                if each in program.computations:
                    run(each, count)

    run(program.entry, 1)
    return times
