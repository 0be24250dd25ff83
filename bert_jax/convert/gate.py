"""The gate of an export: what the written files compute must be what the trainer's model computes.

The model itself runs on a probe, which is stored beside it for anybody to check. That is not enough: a model after few
steps has biases near 0 and norms near 1, behind which a swapped or dropped tensor hides. So two stand-ins of the same
shapes, all their numbers random, go through the same code, with a probe that visits the whole position table: a broad
one, whose activations lie where the forms of gelu differ, and a narrow one, whose norms see variances so small that
their epsilon shows. A key's bias changes no attention probability, so no logit can tell when it is lost; therefore the
gate also counts that every number of the stand-ins is in the file.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.checkpoint import SavedModel
from bert_jax.config import ModelConfig
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_files import open_tensors
from bert_jax.convert.mapping import Params, leaves, nest
from bert_jax.convert.reference import InconsistentFiles, forward
from bert_jax.model.bert import bind, bind_encoder
from bert_jax.model.classifier import classifier_logits
from bert_jax.model.token_heads import token_logits

ABSOLUTE, RELATIVE = 2e-5, 1e-5  # of the largest logit
_ROWS, _LENGTH = 4, 16
_STAND_IN_ROWS, _STAND_IN_LENGTH = 2, 48
_NARROW = 0.003
_ALIGNMENT = 64  # bytes, of memory that XLA shares

_A_TOKEN = ("prediction_logits", "start_logits", "end_logits")  # outputs for each position, as are `logits` [B,S,V]

Probe = dict[str, np.ndarray]


class ConversionMismatch(Exception):
    """The written files do not compute what the model computes; the message says which output differs by how much."""


def allowed(largest: float) -> float:
    """By how much an output may differ whose largest number is `largest`."""
    return ABSOLUTE + RELATIVE * largest


def probe_inputs(config: ModelConfig, seed: int = 0) -> Probe:
    """Random rows, int64 [B,S]: one text, two texts, each with and without padding.

    input_ids, attention_mask and, where there are any, token_type_ids, as transformers takes them; positions count up.
    Only padding is [PAD] where positions are counted by it.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    rows, length = _ROWS, min(_LENGTH, config.max_position_embeddings)
    ids = draw.integers(0, config.vocab_size, (rows, length))
    used = np.array([length, length, max(1, length - 3), max(1, length // 2)])
    second = np.array([length, length // 2, length // 3, length])  # where the second text begins
    places = np.arange(length)[None]
    mask = (places < used[:, None]).astype(np.int64)
    types = ((places >= second[:, None]) & (mask > 0)).astype(np.int64)
    pad = max(config.position_offset - 1, 0)
    if config.position_offset:
        ids = np.where(ids == pad, pad + 1, ids)
    probe = {"input_ids": np.where(mask > 0, ids, pad), "attention_mask": mask}
    if config.type_vocab_size:
        probe["token_type_ids"] = np.minimum(types, config.type_vocab_size - 1)
    return probe


@functools.lru_cache(maxsize=4)
def _outputs(config: ModelConfig, objective: str) -> Callable[[Params, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Jitted: arrays and a batch to the outputs under transformers' names, with that of a pooler that is carried."""

    def outputs(arrays: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        params = {name: part for name, part in arrays.items() if name != "carried"}
        found = of_class(params, batch)
        if "pooler" in arrays.get("carried", {}):
            parts = {
                "embeddings": params["embeddings"],
                "layers": params["layers"],
                "pooler": arrays["carried"]["pooler"],
            }
            bert = bind_encoder(config, "nsp", parts)
            first = jnp.zeros((batch["input_ids"].shape[0], 1), jnp.int32)
            found["pooler_output"] = bert.pool(bert.encode(batch), first)[:, 0]
        return found

    def of_class(params: Params, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        if objective == "tagging":
            return {"logits": token_logits(config, params, batch)}
        if objective == "qa":
            logits = token_logits(config, params, batch)
            return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        if objective not in ("nsp", "sop", "mlm", "rtd"):
            return {"logits": classifier_logits(config, params, batch)}
        bert = bind(config, objective, params)
        hidden = bert.encode(batch)
        if objective == "rtd":
            return {"logits": bert.discriminator(hidden)}
        everywhere = jnp.broadcast_to(jnp.arange(hidden.shape[1]), hidden.shape[:2])
        words = bert.mlm_logits(hidden, everywhere)[..., : config.vocab_size]
        if objective == "mlm":
            return {"logits": words}
        pairs = bert.nsp_logits(bert.pool(hidden, everywhere[:, :1]))[:, 0]
        return {"prediction_logits": words, "seq_relationship_logits": pairs}

    return jax.jit(outputs)


def on_device(array: np.ndarray) -> jax.Array:
    """An array of a model on the device.

    Where the device is the host, jax would copy behind one's back, and hold the original until Python next looks for
    cycles: of a large model there were two. It shares memory that begins where it wants it.
    """
    if jax.default_backend() != "cpu":
        return jnp.asarray(array)
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    shared = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    shared[...] = array
    return jnp.from_dlpack(shared)


def model_outputs(model: SavedModel, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the trainer's model says, float32 with full products, under transformers' names; as `reference.forward`."""
    ids, offset = inputs["input_ids"], model.config.position_offset
    counting = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    batch = {
        "input_ids": ids,
        "token_type_ids": inputs.get("token_type_ids", np.zeros_like(ids)),
        "position_ids": inputs["position_ids"] - offset if "position_ids" in inputs else counting,
        "segment_ids": inputs["attention_mask"],
    }
    run = _outputs(dataclasses.replace(model.config, dtype="float32"), model.objective)
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(
            np.asarray, run(model.arrays, {k: jax.numpy.asarray(v, np.int32) for k, v in batch.items()})
        )


def check(directory: Path, model: SavedModel, inputs: Probe) -> dict[str, np.ndarray]:
    """Compares the files in a directory with the model on a probe.

    Returns:
      the outputs, float32: the model's; at padding, where transformers' attention differs from ours, the reference's.

    Raises:
      ConversionMismatch: they differ by more than 2e-5 and 1e-5 of the largest logit.
    """
    expected = model_outputs(model, inputs)
    try:
        computed = forward(directory, inputs)
    except InconsistentFiles as error:
        raise ConversionMismatch(f"the written files are inconsistent: {error}") from None
    if computed.keys() != expected.keys():
        raise ConversionMismatch(f"the files give {', '.join(computed)}; the model gives {', '.join(expected)}")
    outputs = {}
    for name, ours in expected.items():
        theirs = computed[name]
        if theirs.shape != ours.shape:
            raise ConversionMismatch(f"{name} has shape {theirs.shape} from the files; the model's is {ours.shape}")
        of_tokens = ours.ndim == 3 or name in _A_TOKEN or model.objective == "rtd"
        compared = inputs["attention_mask"] > 0 if of_tokens else np.ones(ours.shape[:1], bool)
        largest = float(np.abs(theirs[compared]).max())
        difference = float(np.abs(theirs[compared] - ours[compared]).max())
        if not difference <= allowed(largest):  # a NaN is no agreement
            raise ConversionMismatch(
                f"{name} of the written files differs from the model's by {difference:.3g} "
                f"(largest logit {largest:.3g}, allowed {allowed(largest):.3g}); nothing was written"
            )
        outputs[name] = np.where(compared.reshape(compared.shape + (1,) * (ours.ndim - compared.ndim)), ours, theirs)
    return {name: value.astype(np.float32) for name, value in outputs.items()}


def stand_in(model: SavedModel, narrow: bool, seed: int = 0) -> SavedModel:
    """A model of the same shapes whose every number is random; nothing of it is 0 or 1 by convention.

    Args:
      model: whose shapes it takes.
      narrow: hidden states and what goes into norms are about 0.003, whose square is near enough to 1e-6 for an
        epsilon of that size to show; otherwise about 1.
      seed: of the numbers.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    size = _NARROW if narrow else 1.0
    weight = model.config.hidden_size**-0.5

    def numbers(path: str, shape: tuple[int, ...]) -> jax.Array:
        values = draw.standard_normal(shape, np.float32)
        if path.endswith("/embedding"):
            values *= _NARROW if narrow else 0.1
        elif path.endswith("/kernel"):
            values *= weight / size if "pooler/" in path else weight
        else:
            values *= 0.2
            values += 1.0 if path.endswith("/scale") else 0.0
            values *= size if path.startswith(("embeddings/", "layers/", "mlm/transform/")) else 1.0
        return on_device(values)

    params = nest((path, numbers(path, leaf.shape)) for path, leaf in leaves(model.arrays))
    carried = params.pop("carried", {})
    return dataclasses.replace(model, params=params, carried=carried)


def stand_in_inputs(config: ModelConfig, seed: int = 1) -> Probe:
    """Rows whose positions are spread over the whole table, from the first to the last."""
    draw = np.random.Generator(np.random.Philox(seed))
    rows, length = _STAND_IN_ROWS, min(_STAND_IN_LENGTH, config.max_position_embeddings)
    places = np.linspace(0, config.max_position_embeddings - 1, rows * length).round().astype(np.int64)
    mask = np.ones((rows, length), np.int64)
    mask[1:, length - length // 4 :] = 0
    probe = {
        "input_ids": draw.integers(0, config.vocab_size, (rows, length)),
        "attention_mask": mask,
        "position_ids": places.reshape(length, rows).T + config.position_offset,
    }
    if config.type_vocab_size:
        probe["token_type_ids"] = draw.integers(0, config.type_vocab_size, (rows, length))
    return probe


def check_nothing_lost(directory: Path, model: SavedModel) -> None:
    """Every number but the padded vocabulary's is in the files, wherever: count and sum of magnitudes agree.

    Raises:
      ConversionMismatch: they do not.
    """
    vocab, family = model.config.vocab_size, FAMILIES[model.config.family]
    size, expected = 0, 0.0
    for row, leaf in family.rows(model.arrays):
        whole = np.asarray(leaf)
        for part in whole if row.stacked else [whole[:vocab] if row.vocabulary else whole]:
            size, expected = size + part.size, expected + _magnitude(part)
    tensors = open_tensors(directory, family.prefix, family.heads, family.renamed)
    written_twice = {} if "decoder_bias" in model.carried else family.copies(tensors.names())
    names = set(tensors.names()).difference(written_twice)
    count, total = 0, 0.0
    for name in names:
        tensor = tensors.read(name)
        count, total = count + tensor.size, total + _magnitude(tensor)
    if count != size or not abs(total - expected) <= 1e-9 * expected:
        raise ConversionMismatch(
            f"the files hold {count} numbers with magnitudes of sum {total:.12g}; the model has {size} "
            f"of sum {expected:.12g}; nothing was written"
        )


def _magnitude(array: np.ndarray) -> float:
    return float(np.abs(array).sum(dtype=np.float64))
