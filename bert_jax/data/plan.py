"""The sampler: which sentences make the rows of a block, as a pure function of (seed, epoch, block).

An epoch is a sequence of blocks. A block is a number of records, drawn from the whole split by a keyed permutation of
its kept records. Inside a block every sentence stands once in an A or in a true B; random Bs come on top. Memory and
time depend on the block, never on the corpus. Positions of tokens are counted over the block's records laid end to end.
"""

import bisect
import dataclasses
from typing import Protocol

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data import keyed
from data_prep.corpus import RecordIndex
from data_prep.errors import InputError

IGNORED = -100  # the label of what is not to be predicted, as in torch's cross entropy
_ORDER, _TARGET, _SHORT, _SPLIT, _LABEL, _DONOR, _TIES, _ROWS = range(8)  # what a draw is for
_DONOR_TRIES = 16


class SplitIndex(Protocol):
    """What the sampler needs of a corpus's split (`data_prep.corpus.Split` has it)."""

    num_kept: int
    kept_tokens: int
    kept_documents: int

    def kept_records(self, positions: np.ndarray) -> np.ndarray:
        """Record numbers at these places of the kept records."""
        ...

    def index(self, records: np.ndarray) -> RecordIndex:
        """The index of records, in the order asked for."""
        ...


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """What shapes rows: tokens a row, the objective, whether a row holds several examples, and how a block is cut."""

    seq_len: int
    objective: str
    packing: bool
    short_seq_prob: float
    block_tokens: int
    mlm_documents: str = "within"

    @classmethod
    def of(cls, data: DataConfig, seq_len: int) -> "RowSettings":
        """The settings of a phase with rows of `seq_len` tokens."""
        return cls(seq_len, data.objective, data.packing, data.short_seq_prob, data.block_tokens, data.mlm_documents)

    @property
    def max_examples(self) -> int:
        """Slots for examples in a row, K."""
        return max(1, self.seq_len // 16) if self.packing else 1


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The rows of a block. Examples are sorted by row, then by place in the row; E examples, R rows.

    `records` are the block's records in order, `token_offsets` [records + 1] where each begins in the block. An example
    is `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, with A at `a_start` (block tokens) of `a_length` tokens, and likewise
    B (length 0: none); it lies in row `row` from `offset` on. `label` is 0, 1 or -100. Row r's examples are
    `row_offsets[r]:row_offsets[r + 1]`. `counts` says what was cut or could not be had.

    An A that goes on over the end of a record has a [SEP] between the two that is not in its length (`inner_borders`).
    """

    records: np.ndarray
    token_offsets: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    label: np.ndarray
    row_offsets: np.ndarray
    counts: dict[str, int]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_offsets) - 1

    def row_tokens(self, first: int, last: int) -> np.ndarray:
        """[last - first] positions of rows `first` to `last - 1` that are not padding."""
        final = self.row_offsets[first + 1 : last + 1] - 1
        parts = self.a_length[final] + self.b_length[final]
        return self.offset[final] + parts + 2 + (self.b_length[final] > 0)


def inner_borders(token_offsets: np.ndarray, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of records strictly inside stretches of a block's tokens: where separators stand in an A.

    Args:
      token_offsets: [records + 1] where each record begins in the block.
      start, length: [E] the stretches.

    Returns:
      The distinct places in `token_offsets`, and [E, 2] which of them, from and to, lie inside each stretch.
    """
    borders = _distinct(token_offsets)
    return borders, np.stack(
        [np.searchsorted(borders, start, side="right"), np.searchsorted(borders, start + length, side="left")], axis=1
    )


def _distinct(token_offsets: np.ndarray) -> np.ndarray:
    """Borders between records, ascending; an empty record has none of its own."""
    return token_offsets[np.append(True, np.diff(token_offsets) > 0)]


def num_blocks(split: SplitIndex, settings: RowSettings) -> int:
    """Blocks an epoch: about `block_tokens` tokens each, and at least two records in each."""
    return max(1, min(round(split.kept_tokens / settings.block_tokens), split.num_kept // 2))


def plan_block(split: SplitIndex, settings: RowSettings, seed: int, epoch: int, block: int) -> BlockPlan:
    """Plans one block of one epoch.

    Raises:
      InputError: the split is empty, or has a single document and the objective needs pairs of documents.
    """
    if split.num_kept == 0:
        raise InputError("the corpus's split has no documents; build it from more text")
    if settings.objective == "nsp" and split.kept_documents < 2:
        raise InputError(
            "objective nsp needs at least two documents to draw random next sentences from, and the corpus's split has "
            "one; separate documents by blank lines, or set config.data.objective to sop or mlm"
        )
    key = int(keyed.draw(seed, epoch, block))
    records, index, planned = _block_records(split, settings, seed, epoch, block)
    pieces = _Pieces.of(index, settings.seq_len - 3)
    counts = {"long_sentences_cut": pieces.num_cut}
    if settings.mlm_documents == "across":
        examples = _gather_across(pieces, index.token_offsets, settings, key)
    else:
        examples = _gather(pieces, records, planned, settings, key)
    if settings.objective == "nsp":
        examples = _draw_negatives(examples, pieces, index, key, counts)
    elif settings.objective == "sop":
        examples = _swap(examples)
    return _lay_out(examples, records, index.token_offsets, settings, key, counts)


def _block_records(
    split: SplitIndex, settings: RowSettings, seed: int, epoch: int, block: int
) -> tuple[np.ndarray, RecordIndex, int]:
    """Records of the block, their index, and how many of them are its own: those after only lend random Bs.

    A block all of whose records are pieces of one document borrows the next record of another one.
    """
    blocks, size = num_blocks(split, settings), split.num_kept
    order = keyed.draw(seed, epoch, _ORDER)
    first, last = block * size // blocks, (block + 1) * size // blocks
    records = split.kept_records(keyed.permute(np.arange(first, last), size, order))
    index = split.index(records)
    if settings.objective != "nsp" or (index.document != index.document[0]).any():
        return records, index, len(records)
    for begin in range(last, last + size, 64):
        others = split.kept_records(keyed.permute(np.arange(begin, begin + 64) % size, size, order))
        (other,) = np.nonzero(split.index(others).document != index.document[0])
        if len(other):
            more = np.append(records, others[other[0]])
            return more, split.index(more), len(records)
    return records, index, len(records)


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """Sentences, those that do not fit a row cut at word borders. P pieces lie end to end over the block's tokens."""

    start: np.ndarray  # [P + 1] block tokens; the last is the block's end
    record_offsets: np.ndarray  # [records + 1] into pieces
    word_start: np.ndarray  # [tokens + 1] bool; the end counts as one
    num_cut: int  # sentences that were cut

    @classmethod
    def of(cls, index: RecordIndex, longest: int) -> "_Pieces":
        lengths = index.sentence_lengths.astype(np.int64)
        start = np.concatenate([[0], np.cumsum(lengths)])
        word_start = np.append(index.word_starts, True)
        (long,) = np.nonzero(lengths > longest)
        if not len(long):
            return cls(start, index.sentence_offsets, word_start, 0)
        cuts = [_cut(word_start, start[i], start[i + 1], longest) for i in long]
        places = np.repeat(long + 1, [len(cut) for cut in cuts])
        more = np.zeros(len(lengths) + 1, np.int64)
        np.add.at(more, places, 1)
        record_offsets = index.sentence_offsets + np.cumsum(more)[index.sentence_offsets]
        return cls(np.insert(start, places, np.concatenate(cuts)), record_offsets, word_start, len(long))


def _cut(word_start: np.ndarray, begin: int, end: int, longest: int) -> list[int]:
    """Where the sentence [begin, end) is cut into pieces of at most `longest` tokens: at the last word border that
    fits."""
    cuts = []
    while end - begin > longest:
        borders = np.flatnonzero(word_start[begin + 1 : begin + longest + 1])
        begin += int(borders[-1]) + 1 if len(borders) else longest  # a word longer than a row is cut inside
        cuts.append(begin)
    return cuts


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Columns [E], in block tokens; `record` is a place among the block's records, `turn` the chunk's number in it."""

    record: np.ndarray
    turn: np.ndarray
    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    label: np.ndarray

    def replace(self, **columns: np.ndarray) -> "_Examples":
        return dataclasses.replace(self, **columns)


def _gather(pieces: _Pieces, records: np.ndarray, planned: int, settings: RowSettings, key: int) -> _Examples:
    """Gathers sentences into chunks and splits chunks into pairs, for all records side by side.

    Where an example is to have a random B, its true B's sentences begin the next chunk; its B columns keep the length
    asked for, to be filled by `_draw_negatives`.
    """
    start = pieces.start
    cursor, stop = pieces.record_offsets[:planned].copy(), pieces.record_offsets[1 : planned + 1]
    longest, pairs = settings.seq_len - 3, settings.objective != "mlm"
    active = np.flatnonzero(cursor < stop)
    bits = {purpose: keyed.draw(purpose, key, records[:planned]) for purpose in (_SHORT, _TARGET, _SPLIT, _LABEL)}
    columns: list[tuple[np.ndarray, ...]] = []
    turn = 0

    def draw(purpose: int) -> np.ndarray:
        return keyed.draw(turn, after=bits[purpose][active])

    while len(active):
        at = cursor[active]
        target = np.where(
            keyed.chance(draw(_SHORT), settings.short_seq_prob),
            2 + keyed.below(draw(_TARGET), max(1, longest - 1)),
            longest,
        )
        end = np.searchsorted(start, start[at] + target, side="right") - 1
        end = np.clip(end, at + 1, stop[active])
        border, label = end, np.full(len(at), IGNORED, np.int64)
        if pairs:
            several = end - at > 1
            border = np.where(several, at + 1 + keyed.below(draw(_SPLIT), np.maximum(end - at - 1, 1)), end)
            coin = keyed.chance(draw(_LABEL), 0.5).astype(np.int64)
            label = np.where(several, coin, IGNORED)
        columns.append((active, np.full(len(at), turn), start[at], start[border], start[end], label))
        random_next = (label == 1) if settings.objective == "nsp" else np.zeros(len(at), bool)
        cursor[active] = np.where(random_next, border, end)
        active = active[cursor[active] < stop[active]]
        turn += 1
    record, turns, a_start, border, end, label = (np.concatenate(column) for column in zip(*columns, strict=True))
    return _Examples(record, turns, a_start, border - a_start, border, end - border, label)


def _gather_across(pieces: _Pieces, token_offsets: np.ndarray, settings: RowSettings, key: int) -> _Examples:
    """Gathers whole sentences into chunks through the block from end to end, whatever document they are of (RoBERTa's
    FULL-SENTENCES: Liu et al., 2019). A separator between two records takes a token of the chunk's room."""
    longest = settings.seq_len - 3
    borders = _distinct(token_offsets)
    # Places in the block with a separator at every border between records.
    first = pieces.start[:-1] + np.searchsorted(borders, pieces.start[:-1], side="right")
    last = first + np.diff(pieces.start)  # one past the end
    turns = np.arange(len(first))  # more than there are chunks
    target = np.where(
        keyed.chance(keyed.draw(_SHORT, key, turns), settings.short_seq_prob),
        2 + keyed.below(keyed.draw(_TARGET, key, turns), max(1, longest - 1)),
        longest,
    ).tolist()
    firsts, lasts = first.tolist(), last.tolist()
    begins = [0]
    while begins[-1] < len(lasts):
        at = begins[-1]
        room = firsts[at] + target[len(begins) - 1]
        begins.append(max(bisect.bisect_right(lasts, room, at), at + 1))
    begin = pieces.start[np.array(begins)]
    count = len(begin) - 1
    nothing = np.zeros(count, np.int64)
    record = np.searchsorted(token_offsets, begin[:-1], side="right") - 1
    return _Examples(
        record, np.arange(count), begin[:-1], np.diff(begin), begin[1:], nothing, np.full(count, IGNORED, np.int64)
    )


def _swap(examples: _Examples) -> _Examples:
    """Sentence order: where the label is 1, A and B change places."""
    swapped = examples.label == 1
    return examples.replace(
        a_start=np.where(swapped, examples.b_start, examples.a_start),
        a_length=np.where(swapped, examples.b_length, examples.a_length),
        b_start=np.where(swapped, examples.a_start, examples.b_start),
        b_length=np.where(swapped, examples.a_length, examples.b_length),
    )


def _draw_negatives(
    examples: _Examples, pieces: _Pieces, index: RecordIndex, key: int, counts: dict[str, int]
) -> _Examples:
    """Gives every example labelled 1 a B from another document of the block, as long as the B that it replaces.

    A B starts at a sentence that is not its document's first. Among a few draws the first that ends at a word border
    exactly the right number of tokens further is taken, else the longest that fits, cut at a word border. Without
    another document that has a second sentence, the example is left with A alone and no label.
    """
    (negative,) = np.nonzero(examples.label == 1)
    piece_record = np.repeat(np.arange(len(pieces.record_offsets) - 1), np.diff(pieces.record_offsets))
    opens = np.zeros(len(piece_record), bool)
    nonempty = np.diff(pieces.record_offsets) > 0
    opens[pieces.record_offsets[:-1][index.first & nonempty]] = True
    (candidates,) = np.nonzero(~opens)
    documents = index.document[piece_record[candidates]]
    by_document = np.argsort(documents, kind="stable")
    candidates, documents = candidates[by_document], documents[by_document]

    own = index.document[examples.record[negative]]
    left, right = np.searchsorted(documents, own, "left"), np.searchsorted(documents, own, "right")
    others = len(candidates) - (right - left)
    has_donor = others > 0
    wanted = examples.b_length[negative]
    b_start, b_length = np.zeros(len(negative), np.int64), np.zeros(len(negative), np.int64)
    word_borders = np.append(0, np.flatnonzero(pieces.word_start))
    for attempt in range(_DONOR_TRIES):
        (open_,) = np.nonzero(has_donor & (b_length < wanted))
        if not len(open_):
            break
        bits = keyed.draw(_DONOR, key, examples.record[negative[open_]], examples.turn[negative[open_]], attempt)
        place = keyed.below(bits, others[open_])
        place = np.where(place < left[open_], place, place + right[open_] - left[open_])
        piece = candidates[place]
        begin = pieces.start[piece]
        room = index.token_offsets[piece_record[piece] + 1] - begin
        end = begin + np.minimum(wanted[open_], room)
        fitting = word_borders[np.searchsorted(word_borders, end, side="right") - 1]
        end = np.where(fitting > begin, fitting, end)  # a first word that is too long is cut inside
        better = end - begin > b_length[open_]
        b_start[open_[better]], b_length[open_[better]] = begin[better], (end - begin)[better]
    counts["negatives"] = int(has_donor.sum())
    counts["negatives_shortened"] = int((has_donor & (b_length < wanted)).sum())
    counts["negatives_without_donor"] = int((~has_donor).sum())
    end = b_start + b_length
    ends = pieces.start[np.searchsorted(pieces.start, end)] == end
    counts["negatives_cut_inside_a_sentence"] = int((has_donor & ~ends).sum())

    starts, lengths, labels = examples.b_start.copy(), examples.b_length.copy(), examples.label.copy()
    starts[negative], lengths[negative] = b_start, b_length
    labels[negative[~has_donor]] = IGNORED
    return examples.replace(b_start=starts, b_length=lengths, label=labels)


def _lay_out(
    examples: _Examples, records: np.ndarray, token_offsets: np.ndarray, settings: RowSettings, key: int, counts: dict
) -> BlockPlan:
    """Packs examples into rows and shuffles the rows."""
    _, inside = inner_borders(token_offsets, examples.a_start, examples.a_length)
    lengths = examples.a_length + np.diff(inside)[:, 0] + examples.b_length + 2 + (examples.b_length > 0)
    ties = keyed.draw(_TIES, key, examples.record, examples.turn)
    if settings.packing:
        order = np.lexsort((ties, -lengths))
        row = np.empty(len(order), np.int64)
        row[order] = pack(lengths[order], settings.seq_len, settings.max_examples)
    else:
        row = np.arange(len(lengths))
    rows = int(row.max()) + 1
    shuffled = np.empty(rows, np.int64)
    shuffled[np.argsort(keyed.draw(_ROWS, key, np.arange(rows)), kind="stable")] = np.arange(rows)
    row = shuffled[row]
    order = np.lexsort((ties, row))
    row, lengths = row[order], lengths[order]
    row_offsets = np.searchsorted(row, np.arange(rows + 1))
    ends = np.cumsum(lengths)
    begins = ends - lengths
    counts.update(examples=len(order), rows=rows, tokens=int(lengths.sum()))
    return BlockPlan(
        records=records,
        token_offsets=token_offsets,
        row=row,
        offset=begins - begins[row_offsets[:-1]][row],
        a_start=examples.a_start[order],
        a_length=examples.a_length[order],
        b_start=examples.b_start[order],
        b_length=examples.b_length[order],
        label=examples.label[order],
        row_offsets=row_offsets,
        counts=counts,
    )


def pack(lengths: np.ndarray, capacity: int, max_items: int) -> np.ndarray:
    """Best fit: each item, in the order given, goes to the fullest open row that has room for it.

    Args:
      lengths: [E] tokens of each item, none above `capacity`; the longest first packs best.
      capacity: tokens a row.
      max_items: items a row at most.

    Returns:
      [E] the row of each item, rows numbered in the order of their opening.
    """
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left
    rooms = 0  # bit r: some open row has room r
    items: list[int] = []
    rows = []
    for length in lengths.tolist():
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(items)
            items.append(0)
        items[row] += 1
        room -= length
        if room and items[row] < max_items:
            open_rows[room].append(row)
            rooms |= 1 << room
        rows.append(row)
    return np.asarray(rows, np.int64)
