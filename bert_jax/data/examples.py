"""Sentences to examples: chunks, their parts A and B, and random Bs, for all records of a block side by side."""

import bisect
import dataclasses

import numpy as np

from bert_jax.data import keyed
from bert_jax.data.settings import IGNORED, Draw, RowSettings
from data_prep.corpus_split import RecordIndex

_DONOR_TRIES = 16


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Sentences, those that do not fit a row cut at word borders. P pieces lie end to end over the block's tokens."""

    start: np.ndarray  # [P + 1] block tokens; the last is the block's end
    record_offsets: np.ndarray  # [records + 1] into pieces
    word_start: np.ndarray  # [tokens + 1] bool; the end counts as one
    num_cut: int  # sentences that were cut

    @classmethod
    def of(cls, index: RecordIndex, longest: int) -> "Pieces":
        """The pieces of a block's records, each of at most `longest` tokens."""
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
class Examples:
    """Columns [E], in block tokens; `record` is a place among the block's records, `turn` the chunk's number in it."""

    record: np.ndarray
    turn: np.ndarray
    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    label: np.ndarray

    def replace(self, **columns: np.ndarray) -> "Examples":
        """With other columns."""
        return dataclasses.replace(self, **columns)


def gather(pieces: Pieces, records: np.ndarray, planned: int, settings: RowSettings, key: int) -> Examples:
    """Gathers sentences into chunks and splits chunks into pairs, for all records side by side.

    Where an example is to have a random B, its true B's sentences begin the next chunk; its B columns keep the length
    asked for, to be filled by `draw_negatives`.
    """
    start = pieces.start
    cursor, stop = pieces.record_offsets[:planned].copy(), pieces.record_offsets[1 : planned + 1]
    longest, pairs = settings.seq_len - 3, settings.objective != "mlm"
    active = np.flatnonzero(cursor < stop)
    purposes = (Draw.SHORT, Draw.TARGET, Draw.SPLIT, Draw.LABEL)
    bits = {purpose: keyed.draw(purpose, key, records[:planned]) for purpose in purposes}
    columns: list[tuple[np.ndarray, ...]] = []
    turn = 0

    def draw(purpose: Draw) -> np.ndarray:
        return keyed.draw(turn, after=bits[purpose][active])

    while len(active):
        at = cursor[active]
        target = np.where(
            keyed.chance(draw(Draw.SHORT), settings.short_seq_prob),
            2 + keyed.below(draw(Draw.TARGET), max(1, longest - 1)),
            longest,
        )
        end = np.searchsorted(start, start[at] + target, side="right") - 1
        end = np.clip(end, at + 1, stop[active])
        border, label = end, np.full(len(at), IGNORED, np.int64)
        if pairs:
            several = end - at > 1
            border = np.where(several, at + 1 + keyed.below(draw(Draw.SPLIT), np.maximum(end - at - 1, 1)), end)
            coin = keyed.chance(draw(Draw.LABEL), 0.5).astype(np.int64)
            label = np.where(several, coin, IGNORED)
        columns.append((active, np.full(len(at), turn), start[at], start[border], start[end], label))
        random_next = (label == 1) if settings.objective == "nsp" else np.zeros(len(at), bool)
        cursor[active] = np.where(random_next, border, end)
        active = active[cursor[active] < stop[active]]
        turn += 1
    record, turns, a_start, border, end, label = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Examples(record, turns, a_start, border - a_start, border, end - border, label)


def gather_across(pieces: Pieces, token_offsets: np.ndarray, settings: RowSettings, key: int) -> Examples:
    """Gathers whole sentences into chunks through the block from end to end, whatever document they are of (RoBERTa's
    FULL-SENTENCES: Liu et al., 2019). A separator between two records takes a token of the chunk's room."""
    longest = settings.seq_len - 3
    borders = distinct_borders(token_offsets)
    # Places in the block with a separator at every border between records.
    first = pieces.start[:-1] + np.searchsorted(borders, pieces.start[:-1], side="right")
    last = first + np.diff(pieces.start)  # one past the end
    turns = np.arange(len(first))  # more than there are chunks
    target = np.where(
        keyed.chance(keyed.draw(Draw.SHORT, key, turns), settings.short_seq_prob),
        2 + keyed.below(keyed.draw(Draw.TARGET, key, turns), max(1, longest - 1)),
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
    return Examples(
        record, np.arange(count), begin[:-1], np.diff(begin), begin[1:], nothing, np.full(count, IGNORED, np.int64)
    )


def swap(examples: Examples) -> Examples:
    """Sentence order: where the label is 1, A and B change places."""
    swapped = examples.label == 1
    return examples.replace(
        a_start=np.where(swapped, examples.b_start, examples.a_start),
        a_length=np.where(swapped, examples.b_length, examples.a_length),
        b_start=np.where(swapped, examples.a_start, examples.b_start),
        b_length=np.where(swapped, examples.a_length, examples.b_length),
    )


def draw_negatives(
    examples: Examples, pieces: Pieces, index: RecordIndex, key: int, counts: dict[str, int]
) -> Examples:
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
        bits = keyed.draw(Draw.DONOR, key, examples.record[negative[open_]], examples.turn[negative[open_]], attempt)
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


def distinct_borders(token_offsets: np.ndarray) -> np.ndarray:
    """Borders between records, ascending; an empty record has none of its own."""
    return token_offsets[np.append(True, np.diff(token_offsets) > 0)]
