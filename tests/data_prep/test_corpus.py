"""The corpus format: records, index and arrays as read back, by us and by tensorflow-datasets; what is refused."""

import json
import pickle
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from small_corpora import make_tokenizer, many_texts, write_jsonl

from data_prep import corpus, corpus_files, corpus_split, files, index, record_layout, records, shard_writer, shards
from data_prep.build import build_corpus
from data_prep.build_settings import Settings
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.segment import sentences
from data_prep.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A corpus of 300 documents in several shards, twenty of them twice, some in several records."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = many_texts(280)
    texts += texts[:20]
    texts[7] = texts[7] + "\n" + "\n".join(many_texts(40, seed=5))
    tokenizer = make_tokenizer(folder / "tokenizer")
    source = write_jsonl(folder / "in.jsonl", texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_prep.build._SMALLEST_UNIT", 4000)
        patch.setattr("data_prep.build._UNITS", 1000)
        patch.setattr(shard_writer, "_SHARD_RECORDS", 30)
        settings = Settings
        patch.setattr("data_prep.build.Settings", lambda **options: settings(record_tokens=100, **options))
        build_corpus([str(source)], tokenizer, folder / "out", workers=1, validation_share=0.2)
    return folder / "out", texts


def expected_documents(path, texts, split):
    """(id, sentences' ids, word starts) of the kept documents, from the text by the shortest way."""
    tokenizer = load_tokenizer(path / "tokenizer")
    found, seen = [], set()
    for i, text in enumerate(texts):
        key = shards.text_hash(text)
        if text in seen or (key < 0.2 * 2**64) != (split == "validation"):
            continue
        seen.add(text)
        found.append((f"d{i}", tokenizer.encode_batch(sentences(text)), tokenizer))
    return found


@pytest.mark.parametrize("split", ["train", "validation"])
def test_documents_come_back(built, split):
    path, texts = built
    reader = Corpus.open(path).split(split)
    kept = reader.kept_records(np.arange(reader.num_kept))
    found = reader.index(kept)
    ids, offsets = reader.read(kept)
    want = expected_documents(path, texts, split)
    assert reader.kept_documents == len(want) == found.first.sum()
    assert reader.kept_tokens == len(ids) == offsets[-1] == found.token_offsets[-1]
    np.testing.assert_array_equal(offsets, found.token_offsets)
    starts = [*np.flatnonzero(found.first), len(kept)]
    assert len(set(found.document)) == len(want)
    for (_, encoded, tokenizer), begin, end in zip(want, starts, starts[1:], strict=False):
        assert len(set(found.document[begin:end])) == 1
        tokens = slice(offsets[begin], offsets[end])
        flat = [i for sentence in encoded for i in sentence]
        assert ids[tokens].tolist() == flat
        lengths = found.sentence_lengths[found.sentence_offsets[begin] : found.sentence_offsets[end]]
        assert lengths.tolist() == [len(sentence) for sentence in encoded]
        begins = {0, *np.cumsum(lengths).tolist()}
        word_starts = [bool(tokenizer.word_start_table[i]) or place in begins for place, i in enumerate(flat)]
        assert found.word_starts[tokens].tolist() == word_starts
        pieces = np.diff(offsets[begin : end + 1])
        assert pieces.max() <= 100
        # A piece is as long as can be: with the first sentence of the next it would be too long.
        for place in range(begin, end - 1):
            assert pieces[place - begin] + found.sentence_lengths[found.sentence_offsets[place + 1]] > 100
    counts = np.bincount(ids, minlength=reader.token_counts().size)
    np.testing.assert_array_equal(reader.token_counts(), counts)


def test_long_documents_and_shards_are_in_the_test(built):
    reader = Corpus.open(built[0]).split("train")
    assert reader.num_shards > 5
    assert reader.num_kept > reader.kept_documents
    assert reader.num_records - reader.num_kept > 10
    entries = reader._args[1]["splits"]["train"]["shards"]
    assert max(entry["records"] for entry in entries) <= 30


@given(data=st.data())
def test_any_order_of_records(built, data):
    reader = Corpus.open(built[0]).split("train")
    numbers = st.integers(0, reader.num_records - 1)
    chosen = np.array(data.draw(st.lists(numbers, max_size=200)), np.int64)
    found, (ids, offsets) = reader.index(chosen), reader.read(chosen)
    assert len(found.document) == len(chosen) and ids.dtype == np.int32
    for place, record in enumerate(chosen):
        alone, (its_ids, _) = reader.index(np.array([record])), reader.read(np.array([record]))
        np.testing.assert_array_equal(ids[offsets[place] : offsets[place + 1]], its_ids)
        tokens = slice(found.token_offsets[place], found.token_offsets[place + 1])
        np.testing.assert_array_equal(found.word_starts[tokens], alone.word_starts)
        lengths = found.sentence_lengths[found.sentence_offsets[place] : found.sentence_offsets[place + 1]]
        np.testing.assert_array_equal(lengths, alone.sentence_lengths)
        assert (found.document[place], found.first[place]) == (alone.document[0], alone.first[0])


def test_older_corpora_are_read_the_same(built, tmp_path):
    """Their index does not say where records lie."""
    shutil.copytree(built[0], tmp_path / "older")
    for file in (tmp_path / "older" / "index").glob("*.safetensors"):
        columns = {name: np.array(values) for name, values in index.open_columns(file).items() if name != "record_ends"}
        file.write_bytes(index.pack(columns))
    for name in ("train", "validation"):
        reader, older = (Corpus.open(path).split(name) for path in (built[0], tmp_path / "older"))
        everything = np.random.default_rng(0).permutation(reader.num_records)
        assert "record_ends" not in older.columns(0)
        np.testing.assert_array_equal(older.read(everything)[0], reader.read(everything)[0])


@given(sizes=st.lists(st.integers(1, 200) | st.integers(60_000, 70_000), min_size=1, max_size=60), data=st.data())
def test_where_records_lie(tmp_path_factory, sizes, data):
    """Ends of records, with block headers in between, as array_record's own reader has them."""
    from array_record.python import array_record_module

    file = tmp_path_factory.mktemp("layout") / "shard"
    draw = np.random.default_rng(len(sizes))
    contents = [draw.bytes(size) for size in sizes]
    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    for content in contents:
        writer.write(content)
    writer.close()
    ends = record_layout.record_ends(file, sizes)
    wanted = np.array([data.draw(st.integers(1, size)) for size in sizes])
    found = record_layout.read_ends(file, ends, wanted)
    assert found == [content[-size:] for content, size in zip(contents, wanted.tolist(), strict=True)]
    # Another layout than the one that is known is noticed when it is written.
    place = data.draw(st.integers(0, len(sizes) - 1))
    with pytest.raises(InputError, match="another layout"):
        record_layout.record_ends(file, [*sizes[:place], sizes[place] + 1, *sizes[place + 1 :]])


def test_few_open_shards_and_large_reads_agree(built, monkeypatch):
    reader = Corpus.open(built[0]).split("train")
    everything = np.random.default_rng(0).permutation(reader.num_records)
    want, index_ = reader.read(everything)[0], reader.index(everything)
    monkeypatch.setattr(corpus_split, "_OPEN_SHARDS", 2)
    monkeypatch.setattr(corpus_split, "_BATCHED_READ", 1)
    small = pickle.loads(pickle.dumps(reader))
    results = [None] * 4
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, small.read(everything)[0]))
        for i in range(len(results))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, want)
    np.testing.assert_array_equal(small.index(everything).word_starts, index_.word_starts)


def test_one_thread_at_a_time_reads_a_header(built, monkeypatch):
    """Of all corpora: Python 3.11's parser, which NumPy reads it with, fails now and then when two are in it."""
    real, inside, together = np.load, [], []

    def slowly(*args, **kwargs):
        inside.append(args)
        together.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(np, "load", slowly)
    splits = [Corpus.open(built[0]).split(name) for name in ("train", "validation") for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda split: len(split.kept_records(np.arange(split.num_kept))), splits * 2))
    assert kept == [split.num_kept for split in splits * 2]
    assert set(together) == {1}


@pytest.mark.parametrize("record", [-1, 10**9])
def test_records_out_of_range(built, record):
    reader = Corpus.open(built[0]).split("train")
    with pytest.raises(IndexError):
        reader.read(np.array([record]))


def test_tensorflow_datasets_reads_it(built):
    path, texts = built
    import tensorflow_datasets as tfds

    sources = tfds.builder_from_directory(str(path)).as_data_source()
    assert set(sources) == {"train", "validation"}
    for name, source in sources.items():
        reader = Corpus.open(path).split(name)
        assert len(source) == reader.num_records
        found, (ids, _) = reader.index(np.arange(len(source))), reader.read(np.arange(len(source)))
        examples = source.__getitems__(list(range(len(source))))
        for place, example in enumerate(examples):
            tokens = slice(found.token_offsets[place], found.token_offsets[place + 1])
            assert example["tokens"].dtype == np.uint16
            np.testing.assert_array_equal(example["tokens"], ids[tokens])
            starts = np.unpackbits(example["word_starts"], count=len(example["tokens"]))
            np.testing.assert_array_equal(starts.astype(bool), found.word_starts[tokens])
            lengths = found.sentence_lengths[found.sentence_offsets[place] : found.sentence_offsets[place + 1]]
            np.testing.assert_array_equal(example["sentence_lengths"], lengths)
            assert example["document"] == found.document[place] and example["first"] == found.first[place]
            assert int(example["id"].decode()[1:]) in range(len(texts))
    assert "tensorflow" not in sys.modules


def test_features_are_those_of_tensorflow_datasets(tmp_path):
    import tensorflow_datasets as tfds

    for vocab_size, dtype in ((65536, np.uint16), (65537, np.uint32)):
        theirs = tfds.features.FeaturesDict.from_json(records.features(vocab_size))
        assert theirs["tokens"].np_dtype == dtype
        theirs.save_config(tmp_path)
        assert json.loads((tmp_path / "features.json").read_text()) == records.features(vocab_size)


@given(
    id_=st.binary(max_size=40),
    document=st.integers(0, 2**62),
    first=st.booleans(),
    lengths=st.binary(max_size=40),
    starts=st.binary(max_size=300),
    tokens=st.binary(max_size=40000),
)
def test_record_is_a_tf_example(id_, document, first, lengths, starts, tokens):
    from tensorflow_datasets.proto import tf_example_pb2

    record = records.Record(id_, document, first, lengths, starts, tokens)
    raw = records.encode(record)
    assert records.decode(raw) == record and raw.endswith(tokens)
    feature = tf_example_pb2.Example.FromString(raw).features.feature
    assert set(feature) == set(record._fields)
    for name in ("id", "sentence_lengths", "word_starts", "tokens"):
        assert list(feature[name].bytes_list.value) == [getattr(record, name)]
    assert list(feature["document"].int64_list.value) == [document]
    assert list(feature["first"].int64_list.value) == [int(first)]


@given(raw=st.binary(max_size=200))
def test_decoding_anything_else_is_a_value_error(raw):
    with pytest.raises(ValueError):
        records.decode(raw)


def test_index_is_a_safetensors_file(built):
    file = built[0] / corpus_files.index_name("train", 0, Corpus.open(built[0]).split("train").num_shards)
    theirs, ours = load_file(file), index.open_columns(file)
    assert set(theirs) == set(ours)
    for name, column in ours.items():
        np.testing.assert_array_equal(column, theirs[name])
        assert not column.flags.writeable


@given(values=st.lists(st.integers(-(2**62), 2**62), max_size=50))
def test_array_bytes_is_npy(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    path.write_bytes(files.array_bytes(np.array(values, np.int64)))
    loaded = np.load(path)
    assert loaded.dtype == np.int64 and loaded.tolist() == values


def test_wide_vocabulary():
    assert records.token_dtype(65536).itemsize == 2
    assert records.token_dtype(65537).itemsize == 4
    with pytest.raises(InputError):
        records.token_dtype(2**33)


def test_refusals(tmp_path, built):
    with pytest.raises(InputError, match="is no corpus"):
        Corpus.open(tmp_path / "nothing")
    (tmp_path / "half.partial").mkdir()
    for name in ("half", "half.partial"):
        with pytest.raises(InputError, match="unfinished"):
            Corpus.open(tmp_path / name)
    newer = {**Corpus.open(built[0]).manifest, "format_version": corpus.FORMAT_VERSION + 1}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(InputError, match=f"format {corpus.FORMAT_VERSION + 1}.*upgrade"):
        Corpus.open(tmp_path)
    for damaged in ("{", "[]", '{"format_version": 1}'):
        (tmp_path / "manifest.json").write_text(damaged)
        with pytest.raises(InputError, match="damaged"):
            Corpus.open(tmp_path)
    with pytest.raises(InputError, match="not 'test'"):
        Corpus.open(built[0]).split("test")
