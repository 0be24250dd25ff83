"""An independent forward pass over a Hugging Face directory of BERT's kin, in NumPy and float64.

It knows nothing but the files: tensors by their Hugging Face names and the fields of config.json, with the meaning that
transformers gives them. It shares neither the mapping table nor the model's code, so a mistake in either shows as a
difference. It is written for clarity and probes of a few rows.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
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


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What the tensors of a layer are called, below `above` and the layer's number."""

    above: str
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attended: str = "attention.output.dense"
    attended_norm: str = "attention.output.LayerNorm"
    wide: str = "intermediate.dense"
    narrow: str = "output.dense"
    norm: str = "output.LayerNorm"


_ROBERTA = _Layer("roberta.encoder.layer")
_DISTILBERT = _Layer(
    "distilbert.transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
    "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip
_LAYERS = {
    "bert": _Layer("bert.encoder.layer"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": _DISTILBERT,
    "electra": _Layer("electra.encoder.layer"),
}
# DistilBERT's names of what the others call so.
_OTHER_FIELDS = {
    "hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
    "intermediate_size": "hidden_dim", "hidden_act": "activation",
}  # fmt: skip


def _read_config(directory: Path) -> dict:
    config = json.loads((directory / "config.json").read_text())
    if config.get("model_type") not in _LAYERS:
        raise InconsistentFiles(f"model_type {config.get('model_type')} is not known")
    if config["model_type"] == "distilbert":
        config |= {ours: config[theirs] for ours, theirs in _OTHER_FIELDS.items()} | {"layer_norm_eps": 1e-12}
    return config


def _positions(config: dict, ids: Array) -> Array:
    """RoBERTa counts the tokens that are not padding, from padding's own number on; the others count places."""
    if "roberta" not in config["model_type"]:
        return np.arange(ids.shape[1])[None]
    tokens = ids != config["pad_token_id"]
    return np.cumsum(tokens, axis=1) * tokens + config["pad_token_id"]


def _embed(t: _Tensors, config: dict, inputs: Mapping[str, Array], above: str) -> Array:
    ids, below = inputs["input_ids"], f"{above}.embeddings"
    size = config.get("embedding_size", config["hidden_size"])
    positions = inputs["position_ids"] if "position_ids" in inputs else _positions(config, ids)
    x = t(f"{below}.word_embeddings.weight", config["vocab_size"], size)[ids]
    x = x + t(f"{below}.position_embeddings.weight", config["max_position_embeddings"], size)[positions]
    if config["model_type"] != "distilbert":
        x = x + t(f"{below}.token_type_embeddings.weight", config["type_vocab_size"], size)[inputs["token_type_ids"]]
    x = t.norm(x, f"{below}.LayerNorm", config["layer_norm_eps"])
    return x if size == config["hidden_size"] else t.dense(x, f"{above}.embeddings_project", config["hidden_size"])


def _encode(t: _Tensors, config: dict, inputs: Mapping[str, Array]) -> Array:
    size, heads, eps = config["hidden_size"], config["num_attention_heads"], config["layer_norm_eps"]
    activation, names = _ACTIVATIONS[config["hidden_act"]], _LAYERS[config["model_type"]]
    x = _embed(t, config, inputs, names.above.split(".")[0])
    rows, length = x.shape[:2]
    for i in range(config["num_hidden_layers"]):
        layer = f"{names.above}.{i}"

        def project(name: str, x: Array = x, layer: str = layer) -> Array:
            return t.dense(x, f"{layer}.{name}", size).reshape(rows, length, heads, size // heads).transpose(0, 2, 1, 3)

        query, key, value = project(names.query), project(names.key), project(names.value)
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(size // heads)
        scores = np.where(inputs["attention_mask"][:, None, None, :] > 0, scores, -np.inf)
        context = (_softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(rows, length, size)
        x = t.norm(x + t.dense(context, f"{layer}.{names.attended}", size), f"{layer}.{names.attended_norm}", eps)
        wide = activation(t.dense(x, f"{layer}.{names.wide}", config["intermediate_size"]))
        x = t.norm(x + t.dense(wide, f"{layer}.{names.narrow}", size), f"{layer}.{names.norm}", eps)
    return x


# The head for masked words: dense, norm, decoder, the word embedding it is tied to, the bias of a tied one.
_WORDS = {
    "BertForPreTraining": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm",
                           "cls.predictions.decoder", "bert", "cls.predictions.bias"),
    "RobertaForMaskedLM": ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "roberta", "lm_head.bias"),
    "DistilBertForMaskedLM": ("vocab_transform", "vocab_layer_norm", "vocab_projector", "distilbert",
                              "vocab_projector.bias"),
    "ElectraForMaskedLM": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head",
                           "electra", "generator_lm_head.bias"),
}  # fmt: skip
_WORDS["BertForMaskedLM"] = _WORDS["BertForPreTraining"]
_WORDS["XLMRobertaForMaskedLM"] = _WORDS["RobertaForMaskedLM"]
# The head for a text: dense on its first token, activation, logits.
_TEXTS: dict[str, tuple[str, Callable[[Array], Array], str]] = {
    "BertForSequenceClassification": ("bert.pooler.dense", np.tanh, "classifier"),
    "RobertaForSequenceClassification": ("classifier.dense", np.tanh, "classifier.out_proj"),
    "XLMRobertaForSequenceClassification": ("classifier.dense", np.tanh, "classifier.out_proj"),
    "DistilBertForSequenceClassification": ("pre_classifier", lambda x: np.maximum(x, 0.0), "classifier"),
    "ElectraForSequenceClassification": ("classifier.dense", _gelu, "classifier.out_proj"),
    "BertForPreTraining": ("bert.pooler.dense", np.tanh, "cls.seq_relationship"),
}


def _word_logits(t: _Tensors, config: dict, architecture: str, hidden: Array) -> Array:
    dense, norm, decoder, above, bias = _WORDS[architecture]
    size, vocab = config.get("embedding_size", config["hidden_size"]), config["vocab_size"]
    activation = _gelu if config["model_type"] in ("roberta", "xlm-roberta", "electra") else None
    activation = activation or _ACTIVATIONS[config["hidden_act"]]
    x = t.norm(activation(t.dense(hidden, dense, size)), norm, config["layer_norm_eps"])
    own_bias = t(bias, vocab)
    if config["tie_word_embeddings"]:
        return x @ t(f"{above}.embeddings.word_embeddings.weight", vocab, size).T + own_bias
    return x @ t(f"{decoder}.weight", vocab, size).T + t(f"{decoder}.bias", vocab)


def _text_logits(t: _Tensors, config: dict, architecture: str, hidden: Array, count: int) -> Array:
    dense, activation, logits = _TEXTS[architecture]
    return t.dense(activation(t.dense(hidden[:, 0], dense, config["hidden_size"])), logits, count)


def _outputs(t: _Tensors, config: dict, architecture: str, hidden: Array) -> dict[str, Array]:
    if architecture == "BertForPreTraining":
        return {
            "prediction_logits": _word_logits(t, config, architecture, hidden),
            "seq_relationship_logits": _text_logits(t, config, architecture, hidden, 2),
        }
    if architecture in _WORDS:
        return {"logits": _word_logits(t, config, architecture, hidden)}
    if architecture in _TEXTS:
        return {"logits": _text_logits(t, config, architecture, hidden, len(config.get("id2label", "01")))}
    if architecture.endswith("ForTokenClassification"):
        return {"logits": t.dense(hidden, "classifier", len(config.get("id2label", "01")))}
    if architecture.endswith("ForQuestionAnswering"):
        ends = t.dense(hidden, "qa_outputs", 2)
        return {"start_logits": ends[..., 0], "end_logits": ends[..., 1]}
    if architecture == "ElectraForPreTraining":
        x = _ACTIVATIONS[config["hidden_act"]](
            t.dense(hidden, "discriminator_predictions.dense", config["hidden_size"])
        )
        return {"logits": t.dense(x, "discriminator_predictions.dense_prediction", 1)[..., 0]}
    raise InconsistentFiles(f"architecture {architecture} is not known")


def forward(directory: str | Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the model in a directory, by the names that transformers gives them.

    Args:
      directory: with config.json, and model.safetensors or its shards and their index.
      inputs: input_ids, attention_mask (1 for tokens, 0 for padding), token_type_ids where the family has them, and
        position_ids (rows of their table) where they are not what the family makes of input_ids; integers [B,S].

    Returns:
      float64; for BertForPreTraining `prediction_logits` [B,S,V] and `seq_relationship_logits` [B,2], for a class
      for masked words `logits` [B,S,V], for sequence classification `logits` [B, labels], for tokens [B,S, labels],
      for a discriminator [B,S], for question answering `start_logits` and `end_logits` [B,S]; and `pooler_output` [B,D]
      of a pooler that the class does not use.

    Raises:
      InconsistentFiles: the files do not fit together.
    """
    directory = Path(directory)
    config = _read_config(directory)
    (architecture,) = config["architectures"]
    t = _Tensors(directory)
    hidden = _encode(t, config, inputs)
    outputs = _outputs(t, config, architecture, hidden)
    above = _LAYERS[config["model_type"]].above.split(".")[0]
    if f"{above}.pooler.dense.weight" in t.left:  # beside a class that does not use it
        outputs["pooler_output"] = np.tanh(t.dense(hidden[:, 0], f"{above}.pooler.dense", config["hidden_size"]))
    if t.left:
        raise InconsistentFiles(f"tensor {min(t.left)} belongs to nothing in {architecture}")
    return outputs
