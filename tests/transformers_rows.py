"""Packed, masked rows as transformers takes them: every example alone in a row of its own."""

import numpy as np
import torch

IGNORED = -100


def alone(batch, pad_id: int) -> dict[str, torch.Tensor]:
    """Inputs and labels of every example of a batch, padded to the longest.

    Args:
      batch: masked, arrays as `inspect --npz` names them, without the axis of steps.
      pad_id: of the tokenizer; RoBERTa counts positions by it.
    """
    words = np.full(batch["input_ids"].shape, IGNORED, np.int64)
    for row, places in enumerate(batch["masked_lm_positions"]):
        used = batch["masked_lm_labels"][row] >= 0
        words[row, places[used]] = batch["masked_lm_labels"][row, used]
    examples = [
        (row, np.flatnonzero(batch["segment_ids"][row] == number))
        for row in range(len(words))
        for number in range(1, batch["segment_ids"][row].max() + 1)
    ]
    longest = max(len(own) for _, own in examples)

    def cut(values, padding):
        rows = np.full((len(examples), longest), padding, np.int64)
        for out, (row, own) in zip(rows, examples, strict=True):
            out[: len(own)] = values[row, own]
        return torch.from_numpy(rows)

    labels = [batch["next_sentence_labels"][row, batch["segment_ids"][row, own[0]] - 1] for row, own in examples]
    return {
        "input_ids": cut(batch["input_ids"], pad_id),
        "attention_mask": cut(np.ones_like(words), 0),
        "token_type_ids": cut(batch["token_type_ids"], 0),
        "labels": cut(words, IGNORED),
        "next_sentence_label": torch.from_numpy(np.array(labels, np.int64)),
    }


def held_out_losses(model, batch, pad_id: int) -> dict[str, float]:
    """Means over all predictions of a batch by a model of transformers with pretraining heads."""
    inputs = alone(batch, pad_id)
    labels, decisions = inputs.pop("labels"), inputs.pop("next_sentence_label")
    if model.config.model_type != "bert":
        del inputs["token_type_ids"]
    model.eval()
    with torch.no_grad():
        outputs = model(**inputs)
    words = outputs["prediction_logits" if "prediction_logits" in outputs else "logits"]
    loss = torch.nn.functional.cross_entropy
    found = {"mlm_loss": loss(words.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).item()}
    if "seq_relationship_logits" in outputs:
        found["nsp_loss"] = loss(outputs["seq_relationship_logits"], decisions, ignore_index=IGNORED).item()
    return found


def masked_validation_rows(config, tokenizer) -> dict[str, np.ndarray]:
    """The whole validation split of a config's corpus, with the masks that its evaluation has."""
    import jax
    import jax.numpy as jnp

    from bert_jax.data.plan import RowSettings
    from bert_jax.data.read import validation_batches
    from bert_jax.masking import MaskSettings, make_mask_fn
    from data_prep.corpus import Corpus

    length = config.data.seq_len
    split = Corpus.open(config.data.corpus).split("validation")
    settings = RowSettings.of(config.data, length)
    clean = next(validation_batches(split, settings, config.seed, tokenizer, 4096, np.arange))
    rows = int((clean["segment_ids"] > 0).any(axis=1).sum())
    assert 10 < rows < 4096
    mask = make_mask_fn(MaskSettings.of(config.data, length, tokenizer))
    batch = mask({name: jnp.asarray(values[:rows]) for name, values in clean.items()}, np.uint32(config.seed), 0)
    return jax.tree.map(np.asarray, batch)
