"""The training step compiled for TPUs that are not here, by libtpu: the program's text and the bytes that it takes.

`Topology.environment` must be in place before jax meets a device.
"""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from bert_jax.config import Config, max_predictions
from bert_jax.data.load import ROW_ARRAYS
from bert_jax.data.plan import RowSettings
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.sharding import batch_sharding, state_shardings
from bert_jax.topology import Topology
from bert_jax.train_state import abstract_state
from bert_jax.train_step import make_train_step
from data_prep.errors import InputError


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step.

    Attributes:
      text: of the optimised program; None where it does not fit the device's memory.
      device_bytes: what a device needs: arguments, results, temporaries, code.
      temporary_bytes: of these, what is neither argument nor result; None where it does not fit.
    """

    text: str | None
    device_bytes: int
    temporary_bytes: int | None = None


def absent_devices(topology: Topology, single_cores: bool = False) -> list[jax.Device]:
    """The devices of a topology, to compile for.

    Args:
      topology: the hardware.
      single_cores: every core of a chip as a device of its own, as no run has them; else as `Generation.devices` says.

    Raises:
      InputError: libtpu knows no such topology.
    """
    joined = topology.generation.cores > topology.generation.devices and not single_cores
    options = {"chip_config_name": "megacore"} if joined else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except Exception as error:  # whatever libtpu says
        raise InputError(f"libtpu knows no {topology.name}: {str(error).splitlines()[0]}") from None
    return list(found.devices)


def lower_step(config: Config, phase_number: int, mesh: jax.sharding.Mesh) -> Any:
    """The step of one phase, traced for arrays that do not exist.

    Args:
      config: with a vocabulary's size in it.
      phase_number: which phase.
      mesh: of real or absent devices.

    Returns:
      jax's Lowered.
    """
    phase = config.phases()[phase_number]
    settings = RowSettings.of(config.data, phase.seq_len)
    specials, vocabulary = np.arange(5, dtype=np.int32), config.model.vocab_size  # which ids they are costs nothing
    masks = MaskSettings(
        config.data.masking,
        config.data.mask_prob,
        max_predictions(config.data, phase.seq_len),
        4,
        specials,
        np.arange(5, vocabulary, dtype=np.int32),
    )
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
    step: Any = make_train_step(config, mesh, make_mask_fn(masks))
    return step.lower(state, batch)


def compile_step(lowered: Any) -> Program:
    """Compiles what `lower_step` gives."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = bytes_wanted(str(error))
        if needed is None:
            raise
        return Program(None, needed)
    memory = compiled.memory_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Program(compiled.as_text(), used, memory.temp_size_in_bytes)


def bytes_wanted(message: str) -> int | None:
    """How much memory a program would take, by the compiler's refusal (`Used 20.33G of 15.75G hbm`)."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    return round(float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")) if found else None
