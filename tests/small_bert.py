"""Small models and packed batches with everything in them that a mistake could hide behind."""

import jax
import numpy as np

from bert_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.model.bert import abstract_params


def model_config(**changes) -> ModelConfig:
    fields = dict(
        vocab_size=150,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        max_position_embeddings=20,
        dtype="float32",
    )
    return ModelConfig(**fields | changes)


def run_config(objective="nsp", rows=8, accumulation=1, **model_changes) -> Config:
    return Config(
        model=model_config(**model_changes),
        data=DataConfig(objective=objective, seq_len=16),
        train=TrainConfig(num_steps=20, global_batch_size=rows, accumulation=accumulation),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    )


def random_params(config: ModelConfig, objective: str, seed: int = 0):
    """Every array random, norm scales and biases off 1 and 0, so that no swap or transposition goes unseen."""
    draw = np.random.default_rng(seed)

    def leaf(path, shape):
        values = draw.normal(0.0, 0.3, shape.shape)
        return (values + 1.0 if path[-1].key == "scale" else values).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, abstract_params(config, objective))


def packed_batch(config: ModelConfig, rows: int, length: int = 16, predictions: int = 4, seed: int = 0):
    """Rows of one to three examples and padding at the end; some slots are unused."""
    draw = np.random.default_rng(seed)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("token_type_ids", "position_ids", "segment_ids")}
    batch["input_ids"] = draw.integers(0, config.vocab_size, (rows, length)).astype(np.int32)
    batch["word_starts"] = np.ones((rows, length), np.int32)
    batch["cls_positions"] = np.zeros((rows, 3), np.int32)
    batch["next_sentence_labels"] = np.full((rows, 3), -100, np.int32)
    batch["masked_lm_positions"] = np.zeros((rows, predictions), np.int32)
    batch["masked_lm_labels"] = np.full((rows, predictions), -100, np.int32)
    batch["rows"] = np.arange(rows, dtype=np.int32) + 1000
    for row in range(rows):
        ends = np.sort(draw.choice(np.arange(3, length), draw.integers(1, 4), replace=False))
        start = 0
        for number, end in enumerate(ends):
            span = slice(start, end)
            batch["segment_ids"][row, span] = number + 1
            batch["position_ids"][row, span] = np.arange(end - start)
            batch["token_type_ids"][row, span] = np.arange(end - start) > (end - start) // 2
            batch["cls_positions"][row, number] = start
            batch["next_sentence_labels"][row, number] = draw.choice([0, 1, -100], p=[0.45, 0.45, 0.1])
            start = end
        used = min(draw.integers(1, predictions + 1), start)
        batch["masked_lm_positions"][row, :used] = np.sort(draw.choice(start, used, replace=False))
        batch["masked_lm_labels"][row, :used] = draw.integers(0, config.vocab_size, used)
    return batch


def already_masked(batch, seed, step):
    """A mask function for batches that carry their predictions."""
    return batch


def norm(x) -> float:
    return float(np.linalg.norm(np.asarray(x, np.float64)))


def assert_same_gradients(grads, expected, tolerance: float) -> None:
    """Tensor by tensor, norm of the difference against the norm; a tensor that is zero in theory against the whole's
    norm."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(expected)
    whole = norm([norm(leaf) for _, leaf in leaves])
    for (path, want), got in zip(leaves, jax.tree.leaves(grads), strict=True):
        name = jax.tree_util.keystr(path)
        scale = whole if norm(want) < 1e-5 * whole else norm(want)
        difference = norm(np.asarray(got, np.float64) - np.asarray(want, np.float64))
        assert difference <= tolerance * scale, f"{name}: {difference} of {scale}"
