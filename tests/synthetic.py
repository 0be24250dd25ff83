"""Splits and tokenizers made of numbers, for tests of the sampler that need no text."""

import dataclasses
import itertools

import numpy as np

from data_prep.corpus_split import RecordIndex


@dataclasses.dataclass
class FakeSplit:
    """A split held in memory. `records[i]` is (document, first piece or not, sentence lengths, word starts)."""

    records: list[tuple[int, bool, list[int], list[bool]]]

    @property
    def num_kept(self):
        return len(self.records)

    @property
    def kept_tokens(self):
        return sum(sum(record[2]) for record in self.records)

    @property
    def kept_documents(self):
        return len({record[0] for record in self.records})

    def kept_records(self, positions):
        return np.asarray(positions, np.int64)

    def index(self, records):
        chosen = [self.records[i] for i in records]
        lengths = [record[2] for record in chosen]
        return RecordIndex(
            document=np.array([record[0] for record in chosen], np.int64),
            first=np.array([record[1] for record in chosen], bool),
            sentence_lengths=np.array(list(itertools.chain.from_iterable(lengths)), np.int32),
            sentence_offsets=np.cumsum([0] + [len(part) for part in lengths]).astype(np.int64),
            word_starts=np.array(list(itertools.chain.from_iterable(record[3] for record in chosen)), bool),
            token_offsets=np.cumsum([0] + [sum(part) for part in lengths]).astype(np.int64),
        )

    def read(self, records):
        """Token ids that say where they come from: record * 100,000 + place."""
        parts = [record * 100_000 + np.arange(sum(self.records[record][2])) for record in records]
        offsets = np.cumsum([0] + [len(part) for part in parts]).astype(np.int64)
        return np.concatenate(parts).astype(np.int32), offsets


@dataclasses.dataclass
class FakeTokenizer:
    """Specials 0 to 4; `word_start_table` as given or all True."""

    vocab_size: int = 10**7
    pad_id: int = 0
    unk_id: int = 1
    cls_id: int = 10**7 - 3
    sep_id: int = 10**7 - 2
    mask_id: int = 10**7 - 1
    word_start_table: np.ndarray | None = None

    def __post_init__(self):
        if self.word_start_table is None:
            self.word_start_table = np.ones(self.vocab_size, bool)
        self.special_ids = np.array(
            sorted([self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id]), np.int32
        )


def random_split(seed, documents, sentences=(1, 12), tokens=(1, 30), pieces=0.3, word=0.7):
    """A split of random documents, a share of which lies in several records."""
    rng = np.random.default_rng(seed)
    records = []
    for document in range(documents):
        for piece in range(1 + (rng.random() < pieces) * int(rng.integers(1, 3))):
            lengths = rng.integers(tokens[0], tokens[1] + 1, rng.integers(sentences[0], sentences[1] + 1)).tolist()
            starts = rng.random(sum(lengths)) < word
            starts[np.cumsum([0, *lengths[:-1]])] = True
            records.append((document, piece == 0, lengths, starts.tolist()))
    return FakeSplit(records)
