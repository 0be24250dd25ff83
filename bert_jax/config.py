"""Config at the edge: an ml_collections.ConfigDict becomes frozen dataclasses once, and is checked once.

A recipe in `configs/` starts from `default_config()` and changes fields; `config_check.parse` turns the
result (with the command line's overrides in it) into a `Config`.
"""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any

import ml_collections

from data_prep.errors import InputError

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
OFFSET_FAMILIES = ("roberta", "xlm-roberta")  # their position tables begin with rows that no token has
OBJECTIVES = ("nsp", "sop", "mlm")
MASKINGS = ("token", "whole_word", "span")
MLM_DOCUMENTS = ("within", "across")
OPTIMIZERS = ("adamw", "lamb")
SCHEDULES = ("linear", "cosine", "wsd", "constant")
ATTENTIONS = ("auto", "einsum", "pallas", "cudnn")
LAYERS = ("auto", "scan", "unroll")
REMATS = ("none", "dots", "full")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The encoder. Sizes are numbers of features, layers, heads, positions; rates are probabilities."""

    family: str = "bert"
    vocab_size: int = 0  # 0: the corpus's
    hidden_size: int = 768
    embedding_size: int = 0  # of words, positions and types, projected to hidden_size; 0: hidden_size
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    position_offset: int = 0  # row of the position table that is position 0; 0: in roberta's families, [PAD]'s id + 1
    type_vocab_size: int = 2  # 0: no table of token types
    hidden_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True  # else the decoder of masked words has a table of its own
    dtype: str = "bfloat16"  # of the large products; parameters, norms, softmax and losses stay float32
    attention: str = "auto"
    layers: str = "auto"
    remat: str = "none"

    @property
    def head_size(self) -> int:
        """Features a head."""
        return self.hidden_size // self.num_heads

    @property
    def word_size(self) -> int:
        """Features a word has before any projection, E."""
        return self.embedding_size or self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table inside: a multiple of 128, so that it tiles and shards; exports are unpadded."""
        return math.ceil(self.vocab_size / 128) * 128


@dataclasses.dataclass(frozen=True)
class ExtendConfig:
    """In what the run's model may be larger than that of `config.init`."""

    vocabulary: bool = False  # the corpus's tokenizer has more tokens: each begins as the mean of the old ones
    positions: bool = False  # max_position_embeddings is larger: the learned ones are repeated


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What an example is and how rows are made of examples."""

    corpus: Any = ""  # a path, or a list of {path, weight}
    seq_len: int = 128
    objective: str = "nsp"
    mlm_documents: str = "within"  # objective mlm: a chunk ends with its document, or goes on in the next one
    packing: bool = True
    short_seq_prob: float = 0.1
    masking: str = "token"
    mask_prob: float = 0.15
    max_predictions: int = 0  # a row; 0: mask_prob * seq_len rounded up
    block_tokens: int = 2**20  # about how many tokens are shuffled, paired and packed together


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training with its own rows and batch; `learning_rate` 0 follows the run's one schedule.

    With a learning rate of its own it has its own warm-up and its own decay, of the run's kind.
    """

    num_steps: int = 0
    seq_len: int = 0
    global_batch_size: int = 0
    learning_rate: float = 0.0
    warmup_steps: int = 0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Steps are optimizer updates; batch sizes are rows over all devices and accumulation."""

    num_steps: int = 1000
    global_batch_size: int = 256
    accumulation: int = 1
    log_every: int = 10
    eval_every: int = 0  # 0: only at the end
    checkpoint_every: int = 1000
    max_skipped: int = 5  # updates in a row with a loss or gradient that is no number, then back to the last checkpoint
    phases: tuple[PhaseConfig, ...] = ()


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """As in torch.optim.AdamW; `lamb` scales its steps by a trust ratio. Every schedule begins with linear warm-up."""

    name: str = "adamw"
    learning_rate: float = 1e-4
    warmup_steps: int = 100
    schedule: str = "linear"
    decay_share: float = 0.1  # schedule wsd: the share of the steps, at the end, that decay to zero
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    max_grad_norm: float = 1.0  # 0: no clipping


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices an axis; -1 takes what the other axes leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    dcn: int = 1  # slices of TPUs, or hosts of GPUs, joined by the data centre's network; `data` runs over them first


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """`keep` newest checkpoints stay, and those of steps divisible by `keep_every` (0: none); step 0 and the one with
    the best held-out loss stay and never count."""

    keep: int = 3
    keep_every: int = 0


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """Seconds: of one stage of a step until a warning and until the process ends with 75 (0: never), both five times as
    long while compiling; and of silence until another process counts as dead."""

    warn_seconds: float = 300.0
    stop_seconds: float = 3600.0
    peer_seconds: int = 100


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = 0
    init: str = ""  # a directory to start from: a run, or a Hugging Face one
    extend: ExtendConfig = ExtendConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    watchdog: WatchdogConfig = WatchdogConfig()

    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases of the run, one where none are given."""
        if not self.train.phases:
            return (PhaseConfig(self.train.num_steps, self.data.seq_len, self.train.global_batch_size),)
        return self.train.phases

    def num_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return sum(phase.num_steps for phase in self.phases())


def max_predictions(data: DataConfig, seq_len: int) -> int:
    """Prediction slots a row, P."""
    return data.max_predictions or math.ceil(data.mask_prob * seq_len - 1e-9)


def corpus_weights(corpus: Any) -> list[tuple[str, float]]:
    """`config.data.corpus` as (path, weight) pairs.

    Raises:
      InputError: neither a path nor a list of {path, weight} with positive weights.
    """
    if isinstance(corpus, str) and corpus:
        return [(corpus, 1.0)]
    if not isinstance(corpus, list) or not corpus:
        raise InputError(f"config.data.corpus is {corpus!r}; give the path of a corpus, or a list of {{path, weight}}")
    pairs = []
    for i, item in enumerate(corpus):
        if not isinstance(item, dict) or set(item) != {"path", "weight"} or not _is_weight(item["weight"]):
            raise InputError(f"config.data.corpus[{i}] is {item!r}; give {{'path': ..., 'weight': a positive number}}")
        pairs.append((str(item["path"]), float(item["weight"])))
    return pairs


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def has_token_types(model: ModelConfig) -> bool:
    """Whether the second text of a pair has a token type of its own."""
    return model.family not in (*OFFSET_FAMILIES, "distilbert")


def with_vocabulary(model: ModelConfig, size: int, pad_id: int) -> ModelConfig:
    """The encoder with what it takes from a vocabulary: its size and, in roberta's families, where positions begin."""
    offset = pad_id + 1 if model.family in OFFSET_FAMILIES else 0
    return dataclasses.replace(model, vocab_size=size, position_offset=model.position_offset or offset)


def default_config() -> ml_collections.ConfigDict:
    """Every field at its default: what a recipe in `configs/` starts from."""
    fields = to_dict(Config())
    config = ml_collections.ConfigDict(fields)
    # A path or a list of {path, weight}; an empty list, or phases: these two change type.
    config.data.unlock().update(corpus=ml_collections.config_dict.placeholder(object))
    config.data.corpus = ""
    config.train.unlock().update(phases=ml_collections.config_dict.placeholder(object))
    config.train.phases = ()
    return config.lock()


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass of this file as plain dicts, lists and scalars (what `config.json` holds)."""
    return dataclasses.asdict(config, dict_factory=lambda items: {key: _plain(value) for key, value in items})


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """The sentence that names the nearest known name, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def from_dict(kind: type, fields: Any, where: str = "config") -> Any:
    """Builds dataclass `kind` from a mapping, strictly.

    Raises:
      InputError: an unknown field (names the nearest right one) or a value of the wrong type.
    """
    if not hasattr(fields, "items"):
        raise InputError(f"{where} is {fields!r}; it must be a group of fields")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in fields.items():
        if name not in hints:
            raise InputError(f"{where}.{name} is not a field; {nearest(name, [f'{where}.{known}' for known in hints])}")
        values[name] = _convert(hints[name], value, f"{where}.{name}")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if hint is Any:
        return _unwrap(value)
    if isinstance(hint, types.GenericAlias):  # tuple[PhaseConfig, ...]
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}; it must be a list")
        return tuple(from_dict(hint.__args__[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{where} is {value!r}; it must be of type {hint.__name__}")
    return value


def _unwrap(value: Any) -> Any:
    """ConfigDicts and tuples as plain dicts and lists."""
    if hasattr(value, "items"):
        return {key: _unwrap(item) for key, item in value.items()}
    return [_unwrap(item) for item in value] if isinstance(value, list | tuple) else value
