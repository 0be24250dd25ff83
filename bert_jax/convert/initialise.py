"""The parameters that a run starts from, where it does not start from nothing."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.config import Config, ModelConfig
from bert_jax.convert.importing import fresh_parts, open_model
from bert_jax.convert.mapping import Params
from bert_jax.model.bert import abstract_params
from bert_jax.run_copy import local_run
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer, load_tokenizer

_SIZES = (
    "family",
    "vocab_size",
    "hidden_size",
    "embedding_size",
    "num_layers",
    "num_heads",
    "intermediate_size",
    "max_position_embeddings",
    "position_offset",
    "type_vocab_size",
    "layer_norm_eps",
    "tie_word_embeddings",
)


def initial_params(config: Config, tokenizer: Tokenizer) -> Params | None:
    """Host arrays in the tree of the run's model, from the directory or URL `config.init`; None where it is empty.

    Heads that the run's objective needs and the directory lacks are drawn from `config.seed` and said on stderr.

    Args:
      config: the run's, `model.vocab_size` filled in.
      tokenizer: the corpus's.

    Raises:
      InputError: the directory's sizes or its tokenizer are not the run's.
    """
    if not config.init:
        return None
    with local_run(config.init) as directory:
        return _params_of(directory, config, tokenizer)


def _params_of(directory: Path, config: Config, tokenizer: Tokenizer) -> Params:
    saved = open_model(directory)
    if saved.objective == "rtd":
        raise InputError(
            f"config.init={config.init} is a discriminator, which has no head for masked words; fine-tune it, or start "
            "from its generator"
        )
    wrong = {name: getattr(saved.config, name) for name in _SIZES if _differs(saved.config, config.model, name)}
    if wrong:
        asked = ", ".join(f"config.model.{name}={getattr(config.model, name)}" for name in wrong)
        has = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise InputError(
            f"config.init={config.init} has {has}, the run asks for {asked}; give the run the sizes of the model"
        )
    if load_tokenizer(saved.tokenizer_dir).fingerprint != tokenizer.fingerprint:
        raise InputError(
            f"config.init={config.init} has another tokenizer than the corpus; build the corpus with --tokenizer "
            f"{saved.tokenizer_dir}"
        )
    expected = abstract_params(config.model, config.data.objective)
    fresh = [part for part in expected if part not in saved.params]
    if fresh and jax.process_index() == 0:
        print(f"{config.init} has no {', '.join(fresh)} head: started fresh", file=sys.stderr)
    parts: dict[str, Any] = saved.params | fresh_parts(config.model, config.data.objective, fresh, config.seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), {name: parts[name] for name in expected})


def _differs(saved: ModelConfig, asked: ModelConfig, name: str) -> bool:
    return getattr(saved, name) != getattr(asked, name)
