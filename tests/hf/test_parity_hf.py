"""Training is what PyTorch computes: gradients of the first step tensor by tensor, losses of a hundred steps.

Packed rows are compared with transformers' own forward on every example alone in a row: it knows nothing of packing.
The families differ in heads, token types and positions; RoBERTa's [PAD] is 1, and its positions are counted by it.
"""

import jax
import numpy as np
import pytest
import torch
import transformers
from small_bert import already_masked, model_config, norm, packed_batch
from transformers_rows import alone

from bert_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.importing import read_hf
from bert_jax.convert.mapping import to_tensors
from bert_jax.finetune.classification import cross_entropy
from bert_jax.finetune.train import _make_step
from bert_jax.losses import mlm_loss, nsp_loss
from bert_jax.model.bert import bind
from bert_jax.model.classifier import classifier_logits
from bert_jax.optimizer import learning_rate, make_optimizer
from bert_jax.sharding import make_mesh
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step

STEPS, TUNING_STEPS, ROWS, LENGTH, SLOTS, VOCABULARY = 100, 20, 8, 32, 6, 211
PAD = {"bert": 0, "roberta": 1}
OBJECTIVES = {"bert": "nsp", "roberta": "mlm"}
KINDS = {"bert": transformers.BertForPreTraining, "roberta": transformers.RobertaForMaskedLM}


def make_batch(seed):
    """One example a row: two texts, padding, masked slots of which some are unused, and a label that is absent.

    No token is [PAD] (0 or 1): transformers gives its embedding no gradient as an input.
    """
    draw = np.random.default_rng(seed)
    lengths = draw.integers(LENGTH // 2, LENGTH + 1, ROWS)
    places = np.arange(LENGTH)[None]
    segments = (places < lengths[:, None]).astype(np.int32)
    positions = np.stack([np.sort(draw.choice(LENGTH // 2, SLOTS, replace=False)) for _ in range(ROWS)])
    labels = draw.integers(0, VOCABULARY, (ROWS, SLOTS))
    labels[:, -1] = np.where(np.arange(ROWS) % 2, -100, labels[:, -1])
    next_labels = draw.integers(0, 2, (ROWS, 1))
    next_labels[0] = -100
    batch = {
        "input_ids": draw.integers(2, VOCABULARY, (ROWS, LENGTH)) * segments,
        "token_type_ids": (places >= lengths[:, None] // 2) * segments,
        "position_ids": np.broadcast_to(places, segments.shape),
        "segment_ids": segments,
        "word_starts": segments,
        "cls_positions": np.zeros((ROWS, 1)),
        "next_sentence_labels": next_labels,
        "masked_lm_positions": positions,
        "masked_lm_labels": labels,
        "rows": np.arange(ROWS),
    }
    return {name: np.ascontiguousarray(value, np.int32) for name, value in batch.items()}


def make_packed_batch(seed):
    """One to three examples a row; no token is [PAD], as above."""
    batch = packed_batch(model_config(vocab_size=VOCABULARY), ROWS, LENGTH, SLOTS, seed)
    return batch | {"input_ids": np.maximum(batch["input_ids"], 2)}


def examples(batch, family):
    """Every example of a batch in a row of its own, as the family's class takes it."""
    inputs = alone(batch, PAD[family])
    if family != "bert":
        del inputs["token_type_ids"], inputs["next_sentence_label"]
    return inputs


def torch_loss(model, batch):
    return model(**examples(batch, model.config.model_type)).loss


def torch_optimizer(model, settings):
    """Decay on matrices and embeddings only."""
    groups = {0.0: [], settings.weight_decay: []}
    for name, parameter in model.named_parameters():
        groups[0.0 if name.endswith("bias") or "norm" in name.lower() else settings.weight_decay].append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for decay, params in groups.items()],
        betas=(settings.b1, settings.b2),
        eps=settings.eps,
    )


def hf_config(family, **changes):
    sizes = dict(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    if family == "bert":
        return transformers.BertConfig(**sizes, max_position_embeddings=LENGTH, **changes)
    return transformers.RobertaConfig(**sizes, max_position_embeddings=LENGTH + 2, type_vocab_size=1, **changes)


def both(tmp_path, kind, family="bert", **changes):
    """A model of transformers as initialised there, and the same in our tree."""
    torch.manual_seed(0)
    theirs = kind(hf_config(family, **changes)).train()
    theirs.save_pretrained(tmp_path / "theirs")
    return theirs, read_hf(tmp_path / "theirs")


def run_config(saved, steps=STEPS) -> Config:
    model = type(saved.config)(**{**vars(saved.config), "dtype": "float32"})
    settings = OptimizerConfig(learning_rate=1e-3, warmup_steps=5)
    return Config(
        model=model,
        data=DataConfig(objective=OBJECTIVES[model.family], seq_len=LENGTH),
        train=TrainConfig(num_steps=steps, global_batch_size=ROWS),
        optimizer=settings,
    )


BATCHES = {"unpacked": make_batch, "packed": make_packed_batch}


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("rows", BATCHES)
def test_gradients_of_the_first_step(tmp_path, rows, family):
    theirs, saved = both(tmp_path, KINDS[family], family)
    config, batch = run_config(saved).model, BATCHES[rows](0)
    expected = torch_loss(theirs, batch)
    expected.backward()

    def loss_fn(params, batch):
        model = bind(config, OBJECTIVES[family], params)
        hidden = model.encode(batch)
        words = mlm_loss(model.mlm_logits(hidden, batch["masked_lm_positions"]), batch["masked_lm_labels"])
        if family == "roberta":
            return words[0] / words[1]
        pairs = nsp_loss(model.nsp_logits(model.pool(hidden, batch["cls_positions"])), batch["next_sentence_labels"])
        return words[0] / words[1] + pairs[0] / pairs[1]

    with jax.default_matmul_precision("highest"):
        loss, grads = jax.jit(jax.value_and_grad(loss_fn))(saved.params, batch)
    assert float(loss) == pytest.approx(expected.item(), abs=1e-5)
    ours = {name: tensor.make() for name, tensor in to_tensors(FAMILIES[family], config, grads).items()}
    gradients = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    assert ours.keys() == gradients.keys()
    whole = norm([norm(gradient) for gradient in gradients.values()])
    differences = {}
    for name, gradient in gradients.items():
        scale = whole if name.endswith("self.key.bias") else norm(gradient)
        difference = norm(ours[name].astype(np.float64) - gradient)
        differences[name] = difference / scale
    worst = max(differences, key=differences.__getitem__)
    print(f"{family}, {rows}: gradients differ most in {worst}, by {differences[worst]:.2e} of its norm")
    assert differences[worst] <= 1e-5, f"{worst}: {differences[worst]}"


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("rows", BATCHES)
def test_losses_of_a_hundred_steps(tmp_path, rows, family):
    theirs, saved = both(tmp_path, KINDS[family], family)
    config = run_config(saved)
    optimizer, rate = torch_optimizer(theirs, config.optimizer), learning_rate(config)
    mesh = make_mesh(MeshConfig())
    state = create_state(config, mesh, saved.params)
    step_fn = make_train_step(config, mesh, already_masked)
    ours, expected = [], []
    for step in range(STEPS):
        batch = BATCHES[rows](step % 5)
        with jax.default_matmul_precision("highest"):
            state, metrics = step_fn(state, batch)
        ours.append(float(metrics["loss"]))
        loss = torch_loss(theirs, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.optimizer.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.step()
        expected.append(loss.item())
    assert expected[-1] < expected[0] - 1
    differences = np.abs(np.subtract(ours, expected))
    first, all_of_them = differences[:20].max(), differences.max()
    print(f"{family}, {rows}: losses differ by {first:.2e} in 20 steps, by {all_of_them:.2e} in {STEPS}")
    assert differences[:20].max() <= 1e-4
    assert differences.max() <= 2e-3


def test_fine_tuning_is_the_same_training(tmp_path):
    theirs, saved = both(tmp_path, transformers.BertForSequenceClassification, num_labels=3)
    config = run_config(saved, TUNING_STEPS)
    optimizer, rate = torch_optimizer(theirs, config.optimizer), learning_rate(config)
    ours_optimizer = make_optimizer(config)
    params = jax.tree.map(jax.numpy.array, saved.params)
    opt_state = ours_optimizer.init(params)
    step_fn = _make_step(classifier_logits, cross_entropy, config.model, ours_optimizer, 0)
    draw = np.random.default_rng(0)
    ours, expected = [], []
    for step in range(TUNING_STEPS):
        batch = make_batch(step % 5)
        truth = draw.integers(0, 3, ROWS).astype(np.int32)
        extra = {"truth": truth, "weights": np.ones(ROWS, np.float32)}
        with jax.default_matmul_precision("highest"):
            params, opt_state, (total, count) = step_fn(params, opt_state, np.int32(step), batch | extra)
        ours.append(float(total / count))
        t = {name: torch.from_numpy(value).long() for name, value in batch.items()}
        loss = theirs(
            input_ids=t["input_ids"],
            attention_mask=t["segment_ids"],
            token_type_ids=t["token_type_ids"],
            labels=torch.from_numpy(truth).long(),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.optimizer.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
