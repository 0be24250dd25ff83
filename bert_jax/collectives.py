"""What a compiled step sends between devices: read from the program's text, in bytes and, by a rule of thumb, seconds.

A device's share of a ring algorithm over g devices, with n the bytes of the whole array: all-gather and
reduce-scatter send n (g - 1) / g, an all-reduce is both after one another, an all-to-all sends n (g - 1) / g, a
permutation n (Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", 2005).
"""

import dataclasses
import math
import re
from collections.abc import Iterable

from bert_jax import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}
_SCATTERED = "all-reduce-scatter"  # as libtpu names a fusion of an all-reduce with the slice that each device keeps


@dataclasses.dataclass(frozen=True)
class Collective:
    """One of a step's collective operations.

    Attributes:
      kind: of `KINDS`.
      bytes: of the whole array: gathered, to be reduced, or sent.
      group: devices that take part together.
      times: how often a step does it.
      overlaps: whether it is started and waited for apart, so that the device may compute meanwhile.
    """

    kind: str
    bytes: int
    group: int
    times: int
    overlaps: bool

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        if self.kind == "collective-permute":
            return float(self.bytes * self.times)
        ways = 2 if self.kind == "all-reduce" else 1
        return self.times * ways * self.bytes * (self.group - 1) / self.group


def collectives(text: str) -> list[Collective]:
    """Every collective operation of an optimised program, once for each that differs.

    A compiler that overlaps an operation with others may print it in each of the computations that drive it; its
    channel says that they are one. Groups of one device send nothing and are left out.

    Args:
      text: of a compiled step.
    """
    program = hlo.read(text)
    times = hlo.executions(program)
    found: dict[str, Collective] = {}
    for name, lines in program.computations.items():
        if not times[name]:
            continue
        for line in lines:
            one = _collective(line, name, times[name])
            if one is None or one.group < 2:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = channel[1] if channel else f"{name} {line}"
            before = found.get(key)
            if before is not None:
                one = dataclasses.replace(
                    before, overlaps=before.overlaps or one.overlaps, times=max(before.times, one.times)
                )
            found[key] = one
    return list(found.values())


def sent_by_kind(operations: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """For each kind that occurs: how often a step does it, and the bytes that a device sends."""
    told: dict[str, dict[str, float]] = {}
    for one in operations:
        entry = told.setdefault(one.kind, {"operations": 0, "bytes_sent": 0.0})
        entry["operations"] += one.times
        entry["bytes_sent"] += one.sent
    return told


def _collective(line: str, computation: str, times: int) -> Collective | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    _, shape, kind, start, rest = match.groups()
    arrays = array_bytes(shape)
    group = _group_size(rest)
    if kind == "all-reduce" and computation.startswith(_SCATTERED):
        kind = "reduce-scatter"
        size = sum(arrays)  # the all-reduce inside has the whole array
    elif kind == "reduce-scatter":
        size = sum(arrays) * group  # the result is a device's share
    elif start and kind in ("all-gather", "collective-permute"):
        size = max(arrays)  # a pair of operand and result
    else:
        size = sum(arrays)
    return Collective(kind, size, group, times, bool(start) or computation.startswith("async_collective"))


def array_bytes(shape: str) -> list[int]:
    """Bytes of each array of a shape as the text has it: `f32[8,16]{1,0}`, or a tuple of such."""
    return [_elements(sizes) * _bits(element) // 8 for element, sizes in _ARRAY.findall(shape)]


def array_sizes(shape: str) -> list[int]:
    """Elements of each array of such a shape."""
    return [_elements(sizes) for _, sizes in _ARRAY.findall(shape)]


def _elements(sizes: str) -> int:
    return math.prod(int(size) for size in sizes.split(",") if size)


def _bits(element: str) -> int:
    if element in _BITS:
        return _BITS[element]
    number = re.search(r"\d+", element)
    return int(number[0]) if number else 0


def _group_size(rest: str) -> int:
    """Devices a group, in any of the ways XLA writes groups; of a permutation 2 when it moves anything."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    if pairs:
        return 2 if any(a != b for a, b in re.findall(r"\{(\d+),(\d+)", pairs[0])) else 1
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest)
    if tiled:
        return int(tiled[2])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return len(listed[1].split(","))
    axes = re.search(r"replica_groups=mesh\[(.*?)\].*?\{((?:'[^']*'(?:, ?)?)+)\}", rest)
    if axes:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", axes[2]))
    raise ValueError(f"groups of devices that cannot be read: {rest[:200]}")
