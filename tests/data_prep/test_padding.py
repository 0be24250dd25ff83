"""What the audit says of rows that a training run would make, against the sampler's own plans."""

import numpy as np
import pytest
from small_corpora import make_tokenizer, many_texts, write_jsonl
from synthetic import random_split

from bert_jax.config import DataConfig
from bert_jax.data.plan import RowSettings, num_blocks, plan_block
from data_prep.build import build_corpus
from data_prep.corpus import Corpus
from data_prep.padding import padding

TOLERANCE = 0.01


def planned(split, seq_len, packing):
    """Share of padding over an epoch of the real sampler."""
    settings = RowSettings.of(DataConfig(packing=packing), seq_len)
    plans = [plan_block(split, settings, 0, 0, block) for block in range(num_blocks(split, settings))]
    tokens, rows = sum(plan.counts["tokens"] for plan in plans), sum(plan.num_rows for plan in plans)
    return 1 - tokens / (rows * seq_len)


@pytest.mark.parametrize(
    ("sentences", "tokens"),
    [((1, 12), (1, 30)), ((30, 200), (5, 60)), ((1, 3), (3, 8)), ((1, 6), (100, 700)), ((1, 1), (20, 20))],
    ids=["articles", "books", "messages", "long sentences", "single sentences"],
)
def test_padding_is_that_of_the_sampler(sentences, tokens):
    documents = round(2 * 10**5 / (np.mean(sentences) * np.mean(tokens)))
    split = random_split(1, documents, sentences, tokens, pieces=0.0)
    found = padding([record[2] for record in split.records])
    for seq_len in (128, 512):
        for packing, name in ((True, "packed"), (False, "unpacked")):
            assert abs(found[str(seq_len)][name] - planned(split, seq_len, packing)) < TOLERANCE, (seq_len, name)


def test_nothing_to_pack():
    assert padding([]) == {length: {"packed": 0.0, "unpacked": 0.0} for length in ("128", "512")}


def test_a_corpus_says_it_and_how_many_negatives_give_themselves_away(tmp_path):
    """Two files, one with a share of Cyrillic; against the donors that the sampler draws."""
    cyrillic = ["".join(chr(0x430 + ord(c) % 32) if c.isalpha() else c for c in text) for text in many_texts(150, 7)]
    texts = {"a": [*many_texts(300, 1), *cyrillic], "b": many_texts(250, 2)}
    for name, found in texts.items():
        write_jsonl(tmp_path / f"{name}.jsonl", found)
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    sources = [str(tmp_path / "*.jsonl")]
    audit = build_corpus(sources, tokenizer, tmp_path / "out", workers=1, validation_share=0)["audit"]
    split = Corpus.open(tmp_path / "out").split("train")
    for seq_len in (128, 512):
        for packing, name in ((True, "packed"), (False, "unpacked")):
            assert abs(audit["padding"][str(seq_len)][name] - planned(split, seq_len, packing)) < TOLERANCE

    settings = RowSettings.of(DataConfig(), 128)
    kinds = np.array([0] * 300 + [1] * 150 + [2] * 250)  # document by document, none of them a duplicate
    assert split.kept_documents == len(kinds) and num_blocks(split, settings) == 1
    index = split.index(np.arange(split.num_records))
    kind_of_record = kinds[np.searchsorted(np.unique(index.document), index.document)]
    trivial = {"script": 0, "source": 0, "script_or_source": 0}
    negatives = 0
    for epoch in range(30):
        plan = plan_block(split, settings, 0, epoch, 0)
        one, two = (
            kind_of_record[plan.records[np.searchsorted(plan.token_offsets, part[plan.label == 1], side="right") - 1]]
            for part in (plan.a_start, plan.b_start)
        )
        trivial["script"] += np.count_nonzero((one == 1) != (two == 1))
        trivial["source"] += np.count_nonzero((one == 2) != (two == 2))
        trivial["script_or_source"] += np.count_nonzero(one != two)
        negatives += len(one)
    assert negatives > 3000
    for name, count in trivial.items():
        assert abs(audit["trivial_negatives"][name] - count / negatives) < 0.025, name
