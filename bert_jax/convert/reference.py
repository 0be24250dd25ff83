"""An independent forward pass over a Hugging Face BERT directory, in NumPy and float64.

It knows nothing but the files: tensors by their Hugging Face names and the fields of config.json, with the meaning that
transformers gives them. It shares neither the mapping table nor the model's code, so a mistake in either shows as a
difference. It is written for clarity and probes of a few rows.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

Array = np.ndarray


class InconsistentFiles(Exception):
    """The files do not make a model: a tensor is missing, left over, or of another shape than config.json says."""


class _Tensors:
    """Tensors of a directory by name, in float64; remembers which were asked for."""

    def __init__(self, directory: Path):
        whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
        files = [whole] if whole.exists() else [directory / name for name in _shards(index)]
        self._places: dict[str, Path] = {}
        for path in files:
            with safe_open(path, "np") as file:
                self._places |= dict.fromkeys(file.keys(), path)
        self.left = set(self._places)

    def __call__(self, name: str, *shape: int) -> Array:
        if name not in self._places:
            raise InconsistentFiles(f"tensor {name} is missing")
        self.left.discard(name)
        # Opened for each: what a handle has read stays in memory as long as it is open.
        with safe_open(self._places[name], "np") as file:
            tensor = file.get_tensor(name)
        if tensor.shape != shape:
            raise InconsistentFiles(f"tensor {name} has shape {tensor.shape}; config.json says {shape}")
        return tensor.astype(np.float64)

    def dense(self, x: Array, name: str, size: int) -> Array:
        return x @ self(f"{name}.weight", size, x.shape[-1]).T + self(f"{name}.bias", size)

    def norm(self, x: Array, name: str, eps: float) -> Array:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        size = x.shape[-1]
        return (x - mean) / np.sqrt(variance + eps) * self(f"{name}.weight", size) + self(f"{name}.bias", size)


def _shards(index: Path) -> list[str]:
    if not index.exists():
        raise InconsistentFiles(f"there is neither {index.name} nor model.safetensors")
    return sorted(set(json.loads(index.read_text())["weight_map"].values()))


def _erf(x: Array) -> Array:
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


_ACTIVATIONS = {"gelu": _gelu, "gelu_new": _gelu_tanh, "gelu_pytorch_tanh": _gelu_tanh}


def _softmax(x: Array) -> Array:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _encode(t: _Tensors, config: dict, inputs: Mapping[str, Array]) -> Array:
    size, heads, eps = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    activation = _ACTIVATIONS[config["hidden_act"]]
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows, length = ids.shape
    positions = inputs.get("position_ids", np.arange(length)[None])
    word = t("bert.embeddings.word_embeddings.weight", config["vocab_size"], size)
    position = t("bert.embeddings.position_embeddings.weight", config["max_position_embeddings"], size)
    token_type = t("bert.embeddings.token_type_embeddings.weight", config["type_vocab_size"], size)
    x = word[ids] + position[positions] + token_type[inputs["token_type_ids"]]
    x = t.norm(x, "bert.embeddings.LayerNorm", eps)
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"

        def project(name: str, x: Array = x, layer: str = layer) -> Array:
            flat = t.dense(x, f"{layer}.attention.self.{name}", size)
            return flat.reshape(rows, length, heads, size // heads).transpose(0, 2, 1, 3)

        query, key, value = project("query"), project("key"), project("value")
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(size // heads)
        scores = np.where(mask[:, None, None, :] > 0, scores, -np.inf)
        context = (_softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(rows, length, size)
        attended = t.dense(context, f"{layer}.attention.output.dense", size)
        x = t.norm(x + attended, f"{layer}.attention.output.LayerNorm", eps)
        wide = activation(t.dense(x, f"{layer}.intermediate.dense", config["intermediate_size"]))
        x = t.norm(x + t.dense(wide, f"{layer}.output.dense", size), f"{layer}.output.LayerNorm", eps)
    return x


def _predictions(t: _Tensors, config: dict, hidden: Array) -> Array:
    size, head = config["hidden_size"], "cls.predictions"
    x = _ACTIVATIONS[config["hidden_act"]](t.dense(hidden, f"{head}.transform.dense", size))
    x = t.norm(x, f"{head}.transform.LayerNorm", config["layer_norm_eps"])
    vocab = config["vocab_size"]
    bias = t(f"{head}.bias", vocab)
    if config["tie_word_embeddings"]:
        return x @ t("bert.embeddings.word_embeddings.weight", vocab, size).T + bias
    return x @ t(f"{head}.decoder.weight", vocab, size).T + t(f"{head}.decoder.bias", vocab)


def forward(directory: str | Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the model in a directory, by the names that transformers gives them.

    Args:
      directory: with config.json, and model.safetensors or its shards and their index.
      inputs: input_ids, attention_mask (1 for tokens, 0 for padding), token_type_ids, and position_ids where they do
        not count up from 0; integers [B,S].

    Returns:
      float64; for BertForPreTraining `prediction_logits` [B,S,V] and `seq_relationship_logits` [B,2], for
      BertForMaskedLM `logits` [B,S,V], for BertForSequenceClassification `logits` [B, labels].

    Raises:
      InconsistentFiles: the files do not fit together.
    """
    directory = Path(directory)
    config = json.loads((directory / "config.json").read_text())
    (architecture,) = config["architectures"]
    t = _Tensors(directory)
    hidden = _encode(t, config, inputs)

    def pooled() -> Array:
        return np.tanh(t.dense(hidden[:, 0], "bert.pooler.dense", config["hidden_size"]))

    if architecture == "BertForPreTraining":
        outputs = {
            "prediction_logits": _predictions(t, config, hidden),
            "seq_relationship_logits": t.dense(pooled(), "cls.seq_relationship", 2),
        }
    elif architecture == "BertForMaskedLM":
        outputs = {"logits": _predictions(t, config, hidden)}
    elif architecture == "BertForSequenceClassification":
        outputs = {"logits": t.dense(pooled(), "classifier", len(config["id2label"]))}
    else:
        raise InconsistentFiles(f"architecture {architecture} is not known")
    if t.left:
        raise InconsistentFiles(f"tensor {min(t.left)} belongs to nothing in {architecture}")
    return outputs
