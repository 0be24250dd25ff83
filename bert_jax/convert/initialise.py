"""The parameters that a run starts from, where it does not start from nothing."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoint import SavedModel
from bert_jax.config import Config, ModelConfig
from bert_jax.convert.extending import extend
from bert_jax.convert.importing import open_model
from bert_jax.convert.mapping import Params
from bert_jax.convert.reading import fresh_parts
from bert_jax.model.bert import abstract_params
from bert_jax.own_tokenizer import own_tokenizer
from bert_jax.run_copy import local_run
from data_prep.errors import InputError
from data_prep.grown_tokenizer import difference, new_ids
from data_prep.tokenizer import Tokenizer

_SIZES = (
    "family",
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

    Heads that the run's objective needs and the directory lacks are drawn from `config.seed`, those that it does not
    need are left out; both are said on stderr. Where
    `config.extend` allows it, tokens and positions that the run has more than the directory are added.
    Embeddings past the tokenizer's last entry (many published ones are padded) are left out.

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
    _check_sizes(saved.config, config)
    new = _new_tokens(own_tokenizer(saved), tokenizer, saved, config)
    asked, has = config.model, saved.config
    if has.vocab_size != asked.vocab_size or len(new) or has.max_position_embeddings != asked.max_position_embeddings:
        params = extend(saved.params, has, asked.vocab_size, new, asked.max_position_embeddings)
        saved = dataclasses.replace(saved, params=params)
    expected = abstract_params(config.model, config.data.objective)
    fresh = [part for part in expected if part not in saved.params]
    if fresh and jax.process_index() == 0:
        print(f"{config.init} has no {', '.join(fresh)} head: started fresh", file=sys.stderr)
    lost = sorted({*saved.params, *saved.carried} - expected.keys())
    if lost and jax.process_index() == 0:
        those = f"{', '.join(lost)} left out, which objective {config.data.objective} has no use for"
        print(f"{config.init}: its {those}", file=sys.stderr)
    parts: dict[str, Any] = saved.params | fresh_parts(config.model, config.data.objective, fresh, config.seed)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), {name: parts[name] for name in expected})


def _check_sizes(has: ModelConfig, config: Config) -> None:
    wrong = [name for name in _SIZES if getattr(has, name) != getattr(config.model, name)]
    if "max_position_embeddings" in wrong and has.max_position_embeddings < config.model.max_position_embeddings:
        if config.extend.positions:
            wrong.remove("max_position_embeddings")
        elif len(wrong) == 1:
            raise InputError(
                f"config.init={config.init} has max_position_embeddings={has.max_position_embeddings}, the run asks "
                f"for config.model.max_position_embeddings={config.model.max_position_embeddings}; give the run the "
                "size of the model, or --config.extend.positions=True to repeat the learned ones"
            )
    if wrong:
        asked = ", ".join(f"config.model.{name}={getattr(config.model, name)}" for name in wrong)
        held = ", ".join(f"{name}={getattr(has, name)}" for name in wrong)
        raise InputError(
            f"config.init={config.init} has {held}, the run asks for {asked}; give the run the sizes of the model"
        )


def _new_tokens(old: Tokenizer, new: Tokenizer, saved: SavedModel, config: Config) -> np.ndarray:
    """Ids of the corpus's tokens that the model has no learned rows for."""
    if old.fingerprint == new.fingerprint:
        return np.zeros(0, np.int32)
    advice = f"build the corpus with --tokenizer {saved.tokenizer_dir}"
    differs = difference(old, new)
    if differs:
        raise InputError(f"config.init={config.init} has another tokenizer than the corpus: {differs}; {advice}")
    added = new_ids(old, new)
    if not config.extend.vocabulary:
        raise InputError(
            f"config.init={config.init} lacks {len(added)} tokens of the corpus's tokenizer; {advice}, or give "
            "--config.extend.vocabulary=True to begin them as the mean of the others"
        )
    if jax.process_index() == 0:
        some = " ".join(new.tokens(added[:5])) + (" ..." if len(added) > 5 else "")
        print(f"{config.init} lacks {len(added)} tokens ({some}): started as the mean of the others", file=sys.stderr)
    return added
