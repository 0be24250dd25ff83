"""A trained model in a user's own JAX program: a pure description, and params as a plain nested dict."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.convert.importing import open_model
from bert_jax.model.bert import Params, bind, bind_encoder
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

Batch = Mapping[str, jax.Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Model:
    """What `load` gives beside the params; its methods are pure functions of them, to be jitted and differentiated.

    Shapes: B texts, S positions, D hidden size, V vocabulary.
    """

    config: ModelConfig
    objective: str
    tokenizer: Tokenizer

    def batch(self, texts: Sequence[str], length: int | None = None) -> dict[str, np.ndarray]:
        """Texts as int32 arrays [B,S], cut at `length` tokens (the longest text's, unless given) and padded.

        "[MASK]" in a text means itself. `segment_ids` is 1 for tokens and 0 for padding.

        Raises:
          InputError: no texts, or a length that the model has no positions for.
        """
        tokenizer, most = self.tokenizer, self.config.max_position_embeddings
        if not texts or not 3 <= (length or most) <= most:
            raise InputError(f"give one text or more, and a length from 3 to {most} (not {length})")
        rows = [tokenizer.encode_with_specials(text)[: (length or most) - 2] for text in texts]
        rows = [[tokenizer.cls_id, *row, tokenizer.sep_id] for row in rows]
        length = length or max(map(len, rows))
        ids = np.full((len(rows), length), tokenizer.pad_id, np.int32)
        segments = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], segments[i, : len(row)] = row, 1
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
        types = np.zeros_like(ids)
        return {"input_ids": ids, "token_type_ids": types, "position_ids": positions, "segment_ids": segments}

    def hidden_states(self, params: Params, batch: Batch) -> jax.Array:
        """Hidden states of the last layer, [B,S,D], in `config.dtype`; a task's head has no part in them."""
        return bind_encoder(self.config, "mlm", {name: params[name] for name in ("embeddings", "layers")}).encode(batch)

    def word_logits(self, params: Params, batch: Batch) -> jax.Array:
        """Logits of the masked-word head at every position, float32 [B,S,V].

        Raises:
          InputError: the model has no such head.
        """
        if "mlm" not in params:
            raise InputError(
                f"a {self.objective} model predicts no words; its hidden states are there, and for a task's answers "
                "there is bert-jax predict"
            )
        bert = bind(self.config, self.objective, params)
        hidden = bert.encode(batch)
        everywhere = jnp.broadcast_to(jnp.arange(hidden.shape[1]), hidden.shape[:2])
        return bert.mlm_logits(hidden, everywhere)[..., : self.config.vocab_size]


def load(directory: str | Path, step: int | None = None, dtype: str = "float32") -> tuple[Model, Params]:
    """A model and its params, float32: of a run, a fine-tuning, an import, or a Hugging Face directory.

    Args:
      directory: on this machine.
      step: checkpoint of a run; the newest where None.
      dtype: of the large products, "float32" or "bfloat16".

    Raises:
      InputError: no model there.
    """
    saved = open_model(directory, step)
    config = dataclasses.replace(saved.config, dtype=dtype)
    return Model(config, saved.objective, own_tokenizer(saved)), jax.tree.map(jnp.asarray, saved.params)
