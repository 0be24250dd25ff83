"""The account of a corpus against counts made by hand; `check` finds flipped bytes, missing, extra and false files."""

import json
import os
import random
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import make_tokenizer, many_texts, tree, write_jsonl

from data_prep import check, corpus, corpus_files, files, index, records
from data_prep.build import build_corpus
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.manifest import manifest_bytes, manifest_fingerprint
from data_prep.segment import sentences
from data_prep.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    texts = [*many_texts(60), "A single one.", "\u4e2d\u6587 walked.", "the house. the river.", "the house. the river."]
    tokenizer = make_tokenizer(folder / "tokenizer")
    source = write_jsonl(folder / "in.jsonl", texts)
    build_corpus([str(source)], tokenizer, folder / "out", workers=1, validation_share=0.2)
    return folder / "out", texts


@pytest.fixture
def copy(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "out")
    return tmp_path / "out"


def test_counts(built):
    path, texts = built
    report, damage = check.check(path)
    assert damage is None
    tokenizer = load_tokenizer(path / "tokenizer")
    kept = list(dict.fromkeys(texts))
    encoded = [tokenizer.encode_batch(sentences(text)) for text in kept]
    sizes = sorted(sum(map(len, document)) for document in encoded)
    unknown = sum(i == tokenizer.unk_id for document in encoded for sentence in document for i in sentence)
    assert report["documents_in"] == len(texts) and report["documents_kept"] == len(kept)
    assert report["dropped"] == {"duplicate": 1}
    assert report["sentences"] == sum(map(len, encoded))
    assert report["tokens"] == sum(sizes) and unknown == 2
    assert report["unknown_share"] == unknown / sum(sizes)
    assert report["one_sentence_documents"] == sum(len(document) == 1 for document in encoded)
    assert report["tokens_per_document"]["p0"] == sizes[0] and report["tokens_per_document"]["p100"] == sizes[-1]
    assert report["tokens_per_document"]["p50"] == int(np.quantile(sizes, 0.5, method="lower"))
    assert report["tokens_per_document"]["mean"] == sum(sizes) / len(sizes)
    assert report["sources"]["in.jsonl"]["tokens"] == sum(sizes)
    parts = report["splits"].values()
    assert sum(part["tokens"] for part in parts) == sum(sizes) and all(part["documents"] > 3 for part in parts)
    samples = report["sample_sentences"]
    assert len(set(samples)) == len(samples) == 20
    assert all(any(sample in sentences(text) for text in kept) for sample in samples)
    json.dumps(report)


def test_every_flipped_byte_is_found(built, copy):
    rng = random.Random(0)
    contents = tree(copy)
    assert len(contents) > 12
    for name, raw in contents.items():
        places = {0, len(raw) - 1, *(rng.randrange(len(raw)) for _ in range(12))}
        for place in places:
            flipped = bytearray(raw)
            flipped[place] ^= 1 << rng.randrange(8)
            (copy / name).write_bytes(flipped)
            _, damage = check.check(copy)
            assert damage is not None and damage.startswith(f"{copy / name}: "), (name, place)
        (copy / name).write_bytes(raw[:-1])
        assert check.check(copy)[1].startswith(f"{copy / name}: ")
        (copy / name).write_bytes(raw)
    assert check.check(copy)[1] is None


@given(data=st.data())
def test_any_change_of_any_file_is_found(built, tmp_path_factory, data):
    """A byte changed, bytes cut off, put in or repeated: in every file, the manifest and the tokenizer's too."""
    folder = tmp_path_factory.mktemp("changed") / "out"
    shutil.copytree(built[0], folder, copy_function=os.link)
    contents = tree(built[0])
    name = data.draw(st.sampled_from(sorted(contents)))
    raw = contents[name]
    place = data.draw(st.integers(0, len(raw) - 1))
    changed = data.draw(
        st.one_of(
            st.integers(1, 255).map(lambda flip: raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :]),
            st.just(raw[:place]),
            st.binary(min_size=1, max_size=9).map(lambda more: raw[:place] + more + raw[place:]),
            st.just(raw + raw[place:]),
        )
    )
    (folder / name).unlink()
    (folder / name).write_bytes(changed)
    assert check.check(folder)[1].startswith(f"{folder / name}: ")
    shutil.rmtree(folder)


def test_white_space_in_the_manifest_is_damage(copy):
    file = copy / corpus_files.MANIFEST
    file.write_bytes(file.read_bytes() + b"\n")
    assert "manifest.json: the file is damaged" in check.check(copy)[1]


def test_missing_and_extra_files(copy):
    for name, raw in tree(copy).items():
        (copy / name).unlink()
        assert check.check(copy)[1] == f"{copy / name}: the file is missing"
        (copy / name).write_bytes(raw)
    for name in ("notes.txt", "index/old.safetensors"):
        (copy / name).write_text("x")
        assert check.check(copy)[1] == f"{copy / name}: the file is no part of the corpus"
        (copy / name).unlink()


def rewrite(path, name, raw):
    """Puts a file in a corpus so that all checksums are right."""
    manifest = Corpus.open(path).manifest
    manifest["files"][name] = files.write_file(path / name, raw)
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    (path / corpus_files.MANIFEST).write_bytes(manifest_bytes(manifest))


@pytest.mark.parametrize("column", ["document", "first", "sentence_lengths", "word_starts", "record_ends"])
def test_index_that_contradicts_its_shard(copy, column):
    name = corpus_files.index_name("train", 0, 1)
    columns = {key: np.array(values) for key, values in index.open_columns(copy / name).items()}
    rewrite(copy, name, index.pack(columns))
    assert check.check(copy)[1] is None
    columns[column][5] ^= 1
    rewrite(copy, name, index.pack(columns))
    message = "do not lie where its index says" if column == "record_ends" else "does not agree with its index"
    assert message in check.check(copy)[1]


def test_token_beyond_the_vocabulary(copy):
    from array_record.python import array_record_module

    split = Corpus.open(copy).split("train")
    stored = split.raw_records(0)
    record = records.decode(stored[3])
    stored[3] = records.encode(record._replace(tokens=b"\xff\xff" + record.tokens[2:]))
    name = corpus_files.shard_name("train", 0, 1)
    writer = array_record_module.ArrayRecordWriter(str(copy / name), "group_size:1,uncompressed")
    for raw in stored:
        writer.write(raw)
    writer.close()
    rewrite(copy, name, (copy / name).read_bytes())
    assert check.check(copy)[1] == f"{copy / name}: record 3 does not agree with its index"


def test_unfinished_none_and_newer(copy, tmp_path):
    with pytest.raises(InputError, match="is no corpus"):
        check.check(tmp_path / "nothing")
    (tmp_path / "half.partial").mkdir()
    assert "unfinished" in check.check(tmp_path / "half")[1]
    assert "unfinished" in check.check(tmp_path / "half.partial")[1]
    manifest = {**Corpus.open(copy).manifest, "format_version": corpus.FORMAT_VERSION + 1}
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    (copy / corpus_files.MANIFEST).write_bytes(manifest_bytes(manifest))
    with pytest.raises(InputError, match="upgrade"):
        check.check(copy)


def test_of_many_files_some_are_shown(tmp_path):
    """The manifest has all of them."""
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    for i, text in enumerate(many_texts(25)):
        write_jsonl(tmp_path / f"{i:02d}.jsonl", [text])
    manifest = build_corpus([str(tmp_path / "*.jsonl")], tokenizer, tmp_path / "out", workers=1)
    report, damage = check.check(tmp_path / "out")
    assert damage is None
    assert list(report["sources"]) == [f"{i:02d}.jsonl" for i in range(20)]
    assert report["sources_not_shown"] == 5
    assert report["inputs"]["unnamed"]["documents_in"] == 25 == len(manifest["audit"]["sources"])
