"""Rows that several families' tables have in common."""

from bert_jax.convert.mapping import LAYER, Row

# Endings of tensor names that old checkpoints have.
RENAMED = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


def dense(ours: str, theirs: str, inputs: int = 1) -> tuple[Row, Row]:
    """Weight and bias of a dense product; `inputs` as in `Row`."""
    return Row(f"{ours}/kernel", f"{theirs}.weight", "dense", inputs), Row(f"{ours}/bias", f"{theirs}.bias", "vector")


def norm(ours: str, theirs: str) -> tuple[Row, Row]:
    """Scale and bias of a layer norm."""
    return Row(f"{ours}/scale", f"{theirs}.weight", "vector"), Row(f"{ours}/bias", f"{theirs}.bias", "vector")


def embeddings(prefix: str) -> tuple[Row, ...]:
    """The tables and the norm below `prefix`, under the names that transformers has in all its families."""
    below = f"{prefix}.embeddings"
    return (
        Row("embeddings/word/embedding", f"{below}.word_embeddings.weight", "table", vocabulary=True),
        Row("embeddings/position/embedding", f"{below}.position_embeddings.weight", "table"),
        Row("embeddings/token_type/embedding", f"{below}.token_type_embeddings.weight", "table"),
        *norm("embeddings/norm", f"{below}.LayerNorm"),
    )


def bert_layers(prefix: str) -> tuple[Row, ...]:
    """The layers below `prefix`, under the names of BERT, which most families copy."""
    layer = f"{prefix}.encoder.layer.{LAYER}"
    return (
        *dense("layers/attention/query", f"{layer}.attention.self.query"),
        *dense("layers/attention/key", f"{layer}.attention.self.key"),
        *dense("layers/attention/value", f"{layer}.attention.self.value"),
        *dense("layers/attention/output", f"{layer}.attention.output.dense", inputs=2),
        *norm("layers/attention_norm", f"{layer}.attention.output.LayerNorm"),
        *dense("layers/mlp/up", f"{layer}.intermediate.dense"),
        *dense("layers/mlp/down", f"{layer}.output.dense"),
        *norm("layers/mlp_norm", f"{layer}.output.LayerNorm"),
    )
