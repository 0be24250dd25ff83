"""Names of hardware that is not here, as `v5e:16x16` or `h100:8`, and what is known of it."""

import dataclasses
import math
import re

from bert_jax.config import nearest
from bert_jax.metrics import PEAK_FLOPS
from bert_jax.program_cycles import Rates
from data_prep.errors import InputError

PRICES = (
    "on demand in the cheapest region of the United States: v5e and v5p as a guide of January 2026 has them "
    "(artificial-intelligence-wiki.com, Google TPU v5 Guide), v4 and v6e by hearsay; Google's own list was not seen, "
    "and prices change: give yours with --price"
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation of TPU, or a kind of GPU.

    Memory and networks are those of Google's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e"
    (docs.cloud.google.com/tpu/docs), as read in November 2026.

    Attributes:
      kind: as jax names the device.
      accelerator: what TPU_ACCELERATOR_TYPE and gcloud call a slice, without its number.
      cores: by which that number counts, a chip.
      devices: of jax, a chip (the cores of v4 and v5p work as one device).
      memory: bytes a device, nearly all of which a program may have.
      dimensions: of a topology.
      hertz: of its clock, by which the compiler's cycles become seconds: peak FLOP/s over those of a cycle.
      bandwidth: bytes/s of the chip's memory, from the data sheet.
      ring: bytes a second between neighbours along one dimension of the interconnect, both ways around together: the
        published bidirectional bandwidth of a chip (v5e 400 GB/s, v5p 1200, v6e 800) over twice its dimensions. For v4
        it follows from a pod's bisection: 24 TB/s over the 512 links that cross the middle of 16x16x16, both ways.
      dcn: bytes a second of a chip's share of the data centre's network, one way: v5p 50 Gbit/s a chip; v5e 6.4 and v6e
        25.6 Tbit/s a pod of 256. For v4 nothing is published; v5p's is assumed.
      dollars: a chip-hour, as `PRICES` says; None where nothing is assumed.
    """

    kind: str
    accelerator: str
    cores: int
    devices: int
    memory: int
    dimensions: int
    hertz: float
    bandwidth: float
    ring: float
    dcn: float
    dollars: float | None

    @property
    def rates(self) -> Rates:
        """What a device does in a cycle at most."""
        return Rates(PEAK_FLOPS[self.kind] / self.hertz, self.bandwidth / self.hertz / self.devices)


GENERATIONS = {
    "v4": Generation("TPU v4", "v4", 2, 1, 32 * 2**30, 3, 1.05e9, 1.228e12, 100e9, 6.25e9, 3.22),
    "v5e": Generation("TPU v5 lite", "v5litepod", 1, 1, 16 * 2**30, 2, 1.50e9, 0.819e12, 100e9, 3.125e9, 1.20),
    "v5p": Generation("TPU v5", "v5p", 2, 1, 95 * 2**30, 3, 1.75e9, 2.765e12, 200e9, 6.25e9, 4.20),
    "v6e": Generation("TPU v6 lite", "v6e", 1, 1, 32 * 2**30, 2, 1.75e9, 1.640e12, 200e9, 12.5e9, 2.70),
}


# SXM modules: memory and its rate as resellers' comparisons give them; `ring` is NVLink's bandwidth of a GPU, both ways
# together (600 and 900 GB/s); `dcn`, a GPU's share of the network between hosts, is assumed to be 200 and 400 Gbit/s. A
# cycle is a second here: `bert_jax/roofline.py` knows no other clock. No prices are assumed.
GPUS = {
    "a100": Generation("NVIDIA A100", "a100", 1, 1, 80 * 10**9, 1, 1.0, 2.039e12, 600e9, 25e9, None),
    "h100": Generation("NVIDIA H100", "h100", 1, 1, 80 * 10**9, 1, 1.0, 3.35e12, 900e9, 50e9, None),
    "h200": Generation("NVIDIA H200", "h200", 1, 1, 141 * 10**9, 1, 1.0, 4.8e12, 900e9, 50e9, None),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of some generation: `shape` chips along each dimension of a slice's interconnect. Of GPUs a slice is a
    host."""

    name: str
    generation: Generation
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def is_gpu(self) -> bool:
        """Whether it is made of GPUs."""
        return self.generation in GPUS.values()

    @property
    def chips(self) -> int:
        """How many in all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """How many there are at most: a host has four chips in the smallest machines that make up slices."""
        return self.slices if self.is_gpu else max(1, self.chips // 4)

    @property
    def devices(self) -> int:
        """How many jax sees."""
        return self.chips * self.generation.devices

    @property
    def environment(self) -> dict[str, str]:
        """What jax and libtpu read when they start: libtpu is not to look for chips, nor for a metadata server. GPUs
        are pretended by as many devices of the CPU."""
        if self.is_gpu:
            return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}"}
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": self.accelerator_type,
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is opened, so several may compile at once
        }

    @property
    def accelerator_type(self) -> str:
        """As gcloud names a slice: v5litepod-256."""
        return f"{self.generation.accelerator}-{math.prod(self.shape) * self.generation.cores}"


def parse_topology(name: str, slices: int = 1) -> Topology:
    """`v5e:16x16` or `v4:4x4x8` as a topology, of so many slices; `h100:8` as a host of GPUs, `h100:4x8` as four.

    Raises:
      InputError: an unknown generation, or no such form.
    """
    generation, _, shape = name.partition(":")
    if generation in GPUS:
        if not re.fullmatch(r"([1-9]\d*x)?[1-9]\d*", shape):
            raise InputError(
                f"{name!r} names no GPUs; write {generation}:8 for a host of eight, {generation}:4x8 for four"
            )
        hosts, gpus = ([1, *map(int, shape.split("x"))])[-2:]
        return Topology(name, GPUS[generation], (gpus,), hosts)
    if generation not in GENERATIONS:
        known_names = (*GENERATIONS, *GPUS)
        raise InputError(
            f"{name!r} is no known hardware, such as v5e:16x16 or h100:8; {nearest(generation, known_names)}"
        )
    known = GENERATIONS[generation]
    if not re.fullmatch("x".join([r"[1-9]\d*"] * known.dimensions), shape):
        example = "x".join(["4"] * known.dimensions)
        raise InputError(f"{name!r} has no shape of {known.dimensions} dimensions; write {generation}:{example}")
    return Topology(name, known, tuple(int(size) for size in shape.split("x")), slices)
