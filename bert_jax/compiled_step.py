"""The real training step, compiled ahead of time for devices that need not exist, and the compiler's account of it."""

import dataclasses
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from bert_jax.config import Config, max_predictions
from bert_jax.data.lay import ROW_ARRAYS
from bert_jax.data.plan import RowSettings
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.sharding import batch_sharding, state_shardings
from bert_jax.train_state import abstract_state
from bert_jax.train_step import make_train_step
from data_prep.errors import InputError


class NoFastMemory(InputError):
    """A part of the program does not fit the chip's vector memory, whatever its main memory holds."""


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of a step.

    Attributes:
      bytes_per_device: that the program needs at once.
      memory: of these, bytes a device by what they hold: parameters, optimizer, batch, temporary (activations,
        gradients and all that lives within a step) and program; empty where the compiler refused.
      text: the optimised program, None where the compiler refused it for want of memory.
    """

    bytes_per_device: int
    memory: dict[str, int]
    text: str | None


def compile_step(config: Config, number: int, mesh: jax.sharding.Mesh) -> CompiledStep:
    """Compiles the step of phase `number` for the devices of a mesh.

    Args:
      config: the run's, with the vocabulary's size in it.
      number: of the phase.
      mesh: of devices that are here, or of a topology that is not.
    """
    phase = config.phases()[number]
    state, batch = abstract_arguments(config, number, mesh)
    with _progress(f"compiling rows of {phase.seq_len} for {mesh.size} devices"):
        lowered = jitted_step(config, number, mesh).lower(state, batch)
        compiled, needed = compile_or_size(lowered)
    if compiled is None:
        return CompiledStep(needed, {}, None)
    account = compiled.memory_analysis()
    results = account.output_size_in_bytes - account.alias_size_in_bytes
    memory = {
        "parameters": _bytes_a_device(state.params),
        "optimizer": _bytes_a_device(state.opt_state),
        "batch": _bytes_a_device(batch),
        "temporary": account.temp_size_in_bytes + results,
        "program": account.generated_code_size_in_bytes,
    }
    used = account.argument_size_in_bytes + memory["temporary"] + memory["program"]
    return CompiledStep(used, memory, compiled.as_text())


def compile_or_size(lowered: Any) -> tuple[Any, int]:
    """A lowered program compiled, and 0; or None where it does not fit, and the bytes that it would take.

    Raises:
      NoFastMemory: one of its operations does not fit the chip's own memory.
    """
    try:
        return lowered.compile(), 0
    except jax.errors.JaxRuntimeError as error:
        if "memory space vmem" in str(error):
            raise NoFastMemory(
                f"the compiler has not enough fast memory (vmem): {str(error).splitlines()[0][:300]}; more "
                "config.train.accumulation means fewer rows at once, and config.model.attention=einsum does without a "
                "kernel"
            ) from None
        needed = bytes_wanted(str(error))
        if needed is None:
            raise
        return None, needed


def bytes_wanted(message: str) -> int | None:
    """How much memory a program would take, by the compiler's refusal (`Used 20.33G of 15.75G hbm`)."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    return round(float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")) if found else None


def jitted_step(config: Config, number: int, mesh: jax.sharding.Mesh) -> Any:
    """The step of phase `number`, with any vocabulary of the config's size."""
    specials, vocabulary = np.arange(5, dtype=np.int32), config.model.vocab_size  # which ids they are costs nothing
    masks = MaskSettings(
        config.data.masking,
        config.data.mask_prob,
        max_predictions(config.data, config.phases()[number].seq_len),
        4,
        specials,
        np.arange(5, vocabulary, dtype=np.int32),
    )
    return make_train_step(config, mesh, make_mask_fn(masks))


def abstract_arguments(config: Config, number: int, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """State and batch of arrays that do not exist, each with its place on the mesh: what the step of a phase takes."""
    phase = config.phases()[number]
    settings = RowSettings.of(config.data, phase.seq_len)
    rows, where = phase.global_batch_size, batch_sharding(mesh)
    shapes: dict[str, tuple[int, ...]] = {name: (rows, phase.seq_len) for name in ROW_ARRAYS}
    shapes |= {name: (rows, settings.max_examples) for name in ("cls_positions", "next_sentence_labels")}
    shapes["rows"] = (rows,)
    batch = {name: jax.ShapeDtypeStruct(shape, np.int32, sharding=where) for name, shape in shapes.items()}
    abstract = abstract_state(config)
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_shardings(mesh, abstract),
    )
    return state, batch


def _bytes_a_device(tree: Any) -> int:
    def size(leaf: Any) -> int:
        return int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


@contextmanager
def _progress(what: str, every: float = 15.0) -> Iterator[None]:
    """A line on stderr when it begins and from time to time, for the compiler itself says nothing for minutes."""
    begin, done = time.monotonic(), threading.Event()

    def tell() -> None:
        print(f"{what} ...", file=sys.stderr, flush=True)
        while not done.wait(every):
            print(f"{what} ... {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
