"""The tokenizer that lies with a model, if it belongs to it."""

from bert_jax.checkpoint import SavedModel
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer, load_tokenizer


def own_tokenizer(model: SavedModel) -> Tokenizer:
    """The tokenizer of a model's directory.

    Raises:
      InputError: there is none, it is damaged, or it is another model's: an id would have no row in the embeddings, or
        positions would begin elsewhere than behind its [PAD].
    """
    tokenizer, config = load_tokenizer(model.tokenizer_dir), model.config
    advice = "use the tokenizer that belongs to the model"
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{model.tokenizer_dir}: the tokenizer has {tokenizer.vocab_size} entries, the embeddings "
            f"{config.vocab_size}; {advice}"
        )
    if config.position_offset and tokenizer.pad_id != config.position_offset - 1:
        raise InputError(
            f"{model.tokenizer_dir}: positions begin after id {config.position_offset - 1} (pad_token_id in the "
            f"model's config), and the tokenizer's [PAD] is {tokenizer.pad_id}; {advice}"
        )
    return tokenizer
