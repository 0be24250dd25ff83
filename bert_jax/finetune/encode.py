"""Texts and pairs as token ids, and ids as batches of few shapes."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.data import keyed
from data_prep.tokenizer import Tokenizer

_SHAPES = 4  # lengths to compile for
_POOL = 16  # batches among which rows are sorted by length


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Rows as `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]` (with as many [SEP] between as the tokenizer puts there): ids,
    and how many of them are of token type 0."""

    ids: list[list[int]]
    first: list[int]
    pad_id: int

    def lengths(self) -> np.ndarray:
        """Tokens a row; int64 [n]."""
        return np.array([len(row) for row in self.ids], np.int64)


def encode(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], max_seq_len: int, token_types: bool = True
) -> Encoded:
    """Encodes rows of one or two texts, cut at the end to max_seq_len tokens in all; the longer one is cut first.

    An empty second text is none, as in transformers. Without `token_types` both texts are of type 0.
    """
    parts = [tokenizer.encode_batch([row[i] for row in texts]) for i in range(len(texts[0]))]
    ids, first = [], []
    for words, row in zip(texts, zip(*parts, strict=True), strict=True):
        row = row[:1] if words[-1] == "" else row
        separators = tokenizer.pair_separators if len(row) == 2 else 1
        kept = _cut([len(part) for part in row], max_seq_len - len(row) - separators)
        tokens = [tokenizer.cls_id, *row[0][: kept[0]]]
        if len(row) == 2:
            tokens += [*[tokenizer.sep_id] * separators, *row[1][: kept[1]]]
        ids.append([*tokens, tokenizer.sep_id])
        first.append(kept[0] + 1 + separators if token_types else len(ids[-1]))
    return Encoded(ids, first, tokenizer.pad_id)


def _cut(lengths: list[int], room: int) -> list[int]:
    """How much of one or two texts fits; two share the room evenly, and what the shorter leaves is the longer's."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    if sum(lengths) <= room:
        return lengths
    short, long = sorted(lengths)
    short = min(short, room // 2)
    long = room - short
    return [long, short] if lengths[0] > lengths[1] else [short, long]


def bucket_lengths(lengths: np.ndarray, most: int) -> list[int]:
    """A few lengths to pad to, so that little is padded and little is compiled: quantiles, up to multiples of 8.

    Args:
      lengths: tokens a row.
      most: no bucket is longer; at least the longest row.
    """
    ordered = np.sort(lengths)
    picked = [ordered[-(-len(ordered) * (i + 1) // _SHAPES) - 1] for i in range(_SHAPES)]
    return sorted({min(most, -(-int(length) // 8) * 8) for length in picked})


def batch(encoded: Encoded, rows: np.ndarray, batch_size: int, buckets: Sequence[int]) -> dict[str, np.ndarray]:
    """These rows as int32 arrays [batch_size, shortest bucket that holds them]; rows past them are padding."""
    longest = max(len(encoded.ids[row]) for row in rows)
    length = next(bucket for bucket in buckets if bucket >= longest)
    ids = np.full((batch_size, length), encoded.pad_id, np.int32)
    types, segments = np.zeros_like(ids), np.zeros_like(ids)
    for place, row in enumerate(rows):
        tokens = encoded.ids[row]
        ids[place, : len(tokens)] = tokens
        types[place, encoded.first[row] : len(tokens)] = 1
        segments[place, : len(tokens)] = 1
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    return {"input_ids": ids, "token_type_ids": types, "position_ids": positions, "segment_ids": segments}


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Rows of the batches of an epoch, a function of (seed, epoch): shuffled, then alike in length within a batch.

    Every row is in one batch; all batches but one are full.
    """
    order = keyed.permute(np.arange(len(lengths)), len(lengths), keyed.draw(seed, epoch))
    pools = [order[i : i + _POOL * batch_size] for i in range(0, len(order), _POOL * batch_size)]
    batches = []
    for pool in pools:
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    for i in keyed.permute(np.arange(len(batches)), len(batches), keyed.draw(seed, epoch, 1)):
        yield batches[i]
