"""Examples of a plan, laid into the arrays of rows."""

import numpy as np

from bert_jax.data.plan import IGNORED, BlockPlan, RowSettings, inner_borders
from data_prep.corpus_split import ranges
from data_prep.tokenizer import Tokenizer

Arrays = dict[str, np.ndarray]
ROW_ARRAYS = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "word_starts")


def lay_tokens(
    plan: BlockPlan,
    examples: np.ndarray,
    row: np.ndarray,
    num_rows: int,
    tokens: np.ndarray,
    settings: RowSettings,
    tokenizer: Tokenizer,
) -> Arrays:
    """Lays examples of a plan into rows.

    Args:
      plan: gives each example's parts, offset and label.
      examples: [E] which examples, sorted by row and place.
      row: [E] the row, from 0, of each.
      num_rows: R.
      tokens: [block tokens] ids of the block's records, where loaded.
      settings: give S and K.
      tokenizer: gives the special ids and the table of word starts.

    Returns:
      int32 arrays: `ROW_ARRAYS` [R, S]; `cls_positions`, `next_sentence_labels` [R, K].
    """
    seq_len, slots = settings.seq_len, settings.max_examples
    a_start, a_length = plan.a_start[examples], plan.a_length[examples]
    b_start, b_length = plan.b_start[examples], plan.b_length[examples]
    borders, inside_a = inner_borders(plan.token_offsets, a_start, a_length)
    separators = inside_a[:, 1] - inside_a[:, 0]
    begin = row * seq_len + plan.offset[examples]
    first_sep = begin + 1 + a_length + separators
    paired = b_length > 0
    last = first_sep + np.where(paired, b_length + 1, 0)
    length = last + 1 - begin
    first_of_row = np.searchsorted(row, np.arange(num_rows))
    slot = np.arange(len(row)) - first_of_row[row]

    flat = {name: np.zeros(num_rows * seq_len, np.int32) for name in ROW_ARRAYS}
    inside = ranges(begin, length)
    flat["position_ids"][inside] = inside - np.repeat(begin, length)
    flat["segment_ids"][inside] = np.repeat(slot + 1, length)
    flat["token_type_ids"][inside] = inside > np.repeat(first_sep, length)

    # The stretches of text: an A is one for each record that it takes part of, a B is one.
    owner = np.repeat(np.arange(len(row)), separators + 1)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(separators + 1) - separators - 1, separators + 1)
    border = inside_a[owner, 0] + nth
    start = np.where(nth == 0, a_start[owner], borders[border - 1])
    stop = np.where(
        nth == separators[owner], (a_start + a_length)[owner], borders[np.minimum(border, len(borders) - 1)]
    )
    to = begin[owner] + 1 + start - a_start[owner] + nth
    sizes = np.concatenate([stop - start, b_length[paired]])
    targets = np.concatenate([to, first_sep[paired] + 1])
    text = tokens[ranges(np.concatenate([start, b_start[paired]]), sizes)]
    where = ranges(targets, sizes)
    ids = flat["input_ids"]
    ids[:] = tokenizer.pad_id
    ids[where] = text
    flat["word_starts"][where] = tokenizer.word_start_table[text]
    for separator in (to[nth > 0] - 1, first_sep, last[paired]):
        ids[separator] = tokenizer.sep_id
        flat["word_starts"][separator] = 1
    ids[begin] = tokenizer.cls_id
    flat["word_starts"][begin] = 1
    flat["word_starts"][targets] = 1

    cls_positions = np.zeros((num_rows, slots), np.int32)
    labels = np.full((num_rows, slots), IGNORED, np.int32)
    cls_positions[row, slot] = plan.offset[examples]
    labels[row, slot] = plan.label[examples]
    arrays = {name: values.reshape(num_rows, seq_len) for name, values in flat.items()}
    return arrays | {"cls_positions": cls_positions, "next_sentence_labels": labels}


def empty_rows(count: int, settings: RowSettings, tokenizer: Tokenizer) -> Arrays:
    """Rows of padding, which count for nothing; shapes as `lay_tokens` gives."""
    arrays = {name: np.zeros((count, settings.seq_len), np.int32) for name in ROW_ARRAYS}
    arrays["input_ids"][:] = tokenizer.pad_id
    arrays["cls_positions"] = np.zeros((count, settings.max_examples), np.int32)
    arrays["next_sentence_labels"] = np.full((count, settings.max_examples), IGNORED, np.int32)
    return arrays
