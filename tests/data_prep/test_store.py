"""Building to an object store and training from one: the same bytes as on a disk, whatever happens on the way.

`memory://` is a store in this process; `file://` goes through the same code on a disk, for tests with processes.
"""

import bz2
import gzip
import io
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import threading
import time
from collections import Counter

import fsspec
import numpy as np
import pyarrow
import pytest
from fsspec.spec import AbstractBufferedFile
from property_tests import LONG
from pyarrow import parquet
from small_corpora import make_tokenizer, many_texts, start_script, tree, write_jsonl

from bert_jax.config import Config, DataConfig, TrainConfig
from bert_jax.data.load import Loader
from bert_jax.evaluate import open_corpora
from data_prep import build, byte_streams, corpus_files, lease, places, staging, storage, unit_folder
from data_prep.build import build_corpus
from data_prep.check import check
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.lease import Lease
from data_prep.sources import expand, units
from data_prep.tokenizer import load_tokenizer

SCRIPT = """
import data_prep.build as build, data_prep.lease as lease
from data_prep.errors import InputError
from data_prep.lease import Lease
build._SMALLEST_UNIT, build._UNITS, lease._SETTLED_AFTER = 3000, 1000, 0.05
if __name__ == "__main__":
    part = sys.argv[4] or None
    try:
        made = build.build_corpus(sys.argv[5:], sys.argv[1], sys.argv[2], workers=int(sys.argv[3]), part=part)
    except InputError as error:
        print(error)
        sys.exit(2)
    print("merged" if made else "part")
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(build, "_SMALLEST_UNIT", 3000)
    monkeypatch.setattr(build, "_UNITS", 1000)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """About fourteen units, with duplicates within and across them."""
    texts = many_texts(150)
    return str(write_jsonl(tmp_path_factory.mktemp("source") / "in.jsonl", texts + texts[:9] + texts[100:104]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer, source):
    """The corpus as a build on a disk makes it."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_SMALLEST_UNIT", 3000)
        patch.setattr(build, "_UNITS", 1000)
        build_corpus([source], tokenizer, out, workers=1, validation_share=0.2)
    return out


@pytest.fixture
def memory():
    """The URL of an empty bucket."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield "memory://bucket"
    store.store.clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERT_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(url: str) -> dict[str, bytes]:
    folder = storage.Folder(url)
    return {name: folder.read(name) for name in folder.sizes()}


def make(source, tokenizer, out, **options):
    return build_corpus([source], tokenizer, out, **{"workers": 1, "validation_share": 0.2} | options)


def test_the_same_bytes(tokenizer, source, whole, memory):
    manifest = make(source, tokenizer, f"{memory}/out")
    assert stored(f"{memory}/out") == tree(whole)
    assert set(stored(memory)) == {f"out/{name}" for name in tree(whole)} | {"out.report.json"}
    assert manifest["audit"]["dropped"] == {"duplicate": 13}
    assert check(f"{memory}/out") == check(whole)
    assert make(source, tokenizer, f"{memory}/out", workers=2) == manifest


@pytest.mark.parametrize("part", [None, "1/2"])
def test_a_corpus_that_a_kill_left_without_a_report_gets_one(tmp_path, tokenizer, source, memory, part):
    for out, read, remove in (
        (f"{memory}/out", storage.Folder(memory).read, lambda name: storage.Folder(memory).remove([name])),
        (str(tmp_path / "out"), lambda name: (tmp_path / name).read_bytes(), lambda name: (tmp_path / name).unlink()),
    ):
        manifest = make(source, tokenizer, out)
        first = json.loads(read("out.report.json"))
        remove("out.report.json")
        assert make(source, tokenizer, out, part=part) == manifest
        report = json.loads(read("out.report.json"))
        assert report["fingerprint"] == manifest["fingerprint"] and report["units_done_in_this_run"] == 0
        assert report.keys() == first.keys() and first["units_done_in_this_run"] == first["units"]


def test_tokenizer_in_the_store(tokenizer, source, whole, memory):
    bucket = storage.Folder(memory)
    for name, content in tree(tokenizer).items():
        bucket.write(f"tokenizer/{name}", content)
    make(source, f"{memory}/tokenizer", f"{memory}/out")
    assert stored(f"{memory}/out") == tree(whole)


def test_parts_in_the_store(tokenizer, source, whole, memory, capsys):
    results = [make(source, tokenizer, f"{memory}/out", part=f"{i}/3") for i in (2, 0, 1)]
    assert results[:2] == [None, None] and results[2]["fingerprint"]
    assert "units are missing" in capsys.readouterr().err
    assert stored(f"{memory}/out") == tree(whole)
    # A part that comes late, as one of a scheduler's second tries.
    assert make(source, tokenizer, f"{memory}/out", part="1/3") == results[2]
    assert set(stored(memory)) == {f"out/{name}" for name in tree(whole)} | {"out.report.json"}


def test_other_settings_and_other_objects(tokenizer, source, memory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_folder, "upload", broken_after(3, unit_folder.upload))
        with pytest.raises(PowerCut):
            make(source, tokenizer, f"{memory}/out")
    with pytest.raises(InputError, match=r"out\.partial is an unfinished build .*keep_duplicates is False there"):
        make(source, tokenizer, f"{memory}/out", keep_duplicates=True)
    with pytest.raises(InputError, match="is unfinished"):
        Corpus.open(f"{memory}/out")
    assert "is unfinished" in check(f"{memory}/out")[1]
    make(source, tokenizer, f"{memory}/out")
    with pytest.raises(InputError, match=r"out is a finished corpus .*keep_duplicates is False there"):
        make(source, tokenizer, f"{memory}/out", keep_duplicates=True)
    storage.Folder(memory).write("thesis/chapter.tex", b"x")
    with pytest.raises(InputError, match=r"holds other objects \(chapter.tex\)"):
        make(source, tokenizer, f"{memory}/thesis")


def test_two_builds_of_one_output(tokenizer, source, whole, memory, monkeypatch, capsys):
    monkeypatch.setattr(build, "_ASKED_EVERY", 0.02)
    made = []
    with Lease(storage.Folder(memory), "out"):
        with pytest.raises(InputError, match=f"{memory}/out: another build is writing it"):
            make(source, tokenizer, f"{memory}/out")
        # A part does its work meanwhile and waits to merge.
        part = threading.Thread(target=lambda: made.append(make(source, tokenizer, f"{memory}/out", part="0/1")))
        part.start()
        end = time.monotonic() + 30
        while "waits to merge" not in (said := capsys.readouterr().err):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert f"part 0/1 is done and waits to merge: {memory}/out: another build" in said and not made
    part.join()
    assert stored(f"{memory}/out") == tree(whole)
    assert made[0]["fingerprint"] == Corpus.open(whole).fingerprint
    assert set(stored(memory)) == {f"out/{name}" for name in tree(whole)} | {"out.report.json"}


def of_another_machine(folder):
    """The lease that a build has renewed just now, on a machine of which nothing else is known."""
    fields = {"id": "x", "host": "elsewhere", "process": [1, "", ""], "renewed": time.time()}
    folder.write("out.lock", json.dumps(fields).encode())


@pytest.mark.parametrize("scheme", ["memory://", "file://"])
def test_a_part_takes_over_the_merge_of_a_dead_one(tmp_path, tokenizer, source, whole, memory, monkeypatch, scheme):
    monkeypatch.setattr(build, "_ASKED_EVERY", 0.02)
    monkeypatch.setattr(lease, "DEAD_AFTER", 0.5)
    monkeypatch.setattr(lease, "_SETTLED_AFTER", 0.02)
    folder = storage.Folder(memory if scheme == "memory://" else f"file://{tmp_path}")
    # All units are done when the one that merges dies.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places.StorePlace, "merge", broken_after(0, places.StorePlace.merge))
        with pytest.raises(PowerCut):
            make(source, tokenizer, f"{folder}/out", part="0/1")
    of_another_machine(folder)
    manifest = make(source, tokenizer, f"{folder}/out", part="0/1")
    assert manifest["fingerprint"] == Corpus.open(whole).fingerprint
    assert stored(f"{folder}/out") == tree(whole)
    assert folder.read("out.lock") is None


def test_a_part_that_waited_finds_the_units_gone(tokenizer, source, memory, monkeypatch, capsys):
    """The other one found nothing to keep, or somebody has removed the build."""
    monkeypatch.setattr(build, "_ASKED_EVERY", 0.02)
    with Lease(storage.Folder(memory), "out") as other:
        real = places.StorePlace.alone

        def alone(self):
            self.discard()
            other.__exit__(None, None, None)
            return real(self)

        monkeypatch.setattr(places.StorePlace, "alone", alone)
        assert make(source, tokenizer, f"{memory}/out", part="0/1") is None
    assert "units are missing" in capsys.readouterr().err


class PowerCut(BaseException):
    pass


def broken_after(count, *functions):
    """The functions, which together work `count` times and never again."""
    left = itertools.count(count, -1)

    def limited(real):
        def call(*arguments, **options):
            if next(left) <= 0:
                raise PowerCut
            return real(*arguments, **options)

        return call

    made = [limited(real) for real in functions]
    return made if len(made) > 1 else made[0]


def make_with_power_cuts(counts, source, tokenizer, memory, whole):
    """Builds again and again, each time with as many requests that change the store as the next of `counts`; how many
    times it took."""
    names = ("write", "create", "upload", "copy", "remove")
    for attempt, count in enumerate(counts):
        with pytest.MonkeyPatch.context() as patch:
            calls = broken_after(count, *(getattr(storage.Folder, name) for name in names))
            for name, call in zip(names, calls, strict=True):
                patch.setattr(storage.Folder, name, call)
            try:
                make(source, tokenizer, f"{memory}/out")
            except PowerCut:
                # A dead process loses its lease (test_lease); this one lives.
                patch.undo()
                storage.Folder(memory).remove(["out.lock"])
                visible = storage.Folder(f"{memory}/out").read(corpus_files.MANIFEST) is not None
                # Whenever there is a manifest, the corpus is whole.
                assert not visible or stored(f"{memory}/out") == tree(whole)
                continue
        assert stored(f"{memory}/out") == tree(whole)
        assert not storage.Folder(f"{memory}/out.partial").sizes()
        return attempt
    raise AssertionError("never finished")


def test_resumes_after_any_request_of_the_units(tokenizer, source, whole, memory):
    assert make_with_power_cuts(range(2, 200, 3), source, tokenizer, memory, whole) > 3


def test_resumes_after_any_request_of_the_merge(tokenizer, source, whole, memory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places.StorePlace, "merge", broken_after(0, places.StorePlace.merge))
        with pytest.raises(PowerCut):
            make(source, tokenizer, f"{memory}/out", part="0/1")
    assert make_with_power_cuts(range(20), source, tokenizer, memory, whole) > 5


def test_one_request_of_an_upload_fails(tokenizer, source, whole, memory, monkeypatch):
    """A unit without all its files does not count, and one whose shard is not whole is found by the merge."""
    make(source, tokenizer, f"{memory}/out", part="0/2")
    units = next(name for name in stored(f"{memory}/out.partial") if name.endswith("train-0.array_record"))
    folder = storage.Folder(f"{memory}/out.partial")
    content = folder.read(units)
    folder.write(units, content[:-1])
    with pytest.raises(InputError, match="missing or damaged"):
        make(source, tokenizer, f"{memory}/out", part="1/2")
    folder.write(units, content)
    make(source, tokenizer, f"{memory}/out")
    assert stored(f"{memory}/out") == tree(whole)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_killed_at_any_moment(tmp_path, tokenizer, source, scheme):
    """kill -9 at random moments of one build after another, then the same command to its end."""
    draw = random.Random(0)
    build_corpus([source], tokenizer, tmp_path / "whole", workers=1)
    want = tree(tmp_path / "whole")
    arguments = [tokenizer, f"{scheme}{tmp_path}/out", 2, "", source]
    start = time.monotonic()
    assert start_script(tmp_path / "run.py", SCRIPT, tokenizer, f"{scheme}{tmp_path}/time", 2, "", source).wait(60) == 0
    whole_time = time.monotonic() - start
    for _ in range(60 if LONG else 3):
        if draw.random() < 0.3:
            # Not always from what is there.
            for left in tmp_path.glob("out*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        script = start_script(tmp_path / "run.py", SCRIPT, *arguments)
        time.sleep(draw.uniform(0.4, 1.1) * whole_time)
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()
        if (tmp_path / "out" / corpus_files.MANIFEST).exists():
            assert tree(tmp_path / "out") == want
    script = start_script(tmp_path / "run.py", SCRIPT, *arguments)
    out, error = script.communicate(timeout=60)
    assert script.returncode == 0, (out, error)
    assert tree(tmp_path / "out") == want
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]


def test_parts_at_once_in_the_store(tmp_path, tokenizer, source):
    # Part 0 runs twice, as a scheduler may do.
    parts = ["0/2", "1/2", "0/2"]
    running = [
        start_script(tmp_path / f"run{i}.py", SCRIPT, tokenizer, f"file://{tmp_path}/out", 1, part, source)
        for i, part in enumerate(parts)
    ]
    outputs = [script.communicate(timeout=60) for script in running]
    assert [script.returncode for script in running] == [0] * 3, outputs
    build_corpus([source], tokenizer, tmp_path / "whole", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]


def test_training_reads_through_a_copy(tokenizer, source, whole, memory, cache):
    make(source, tokenizer, f"{memory}/out")
    configs = [
        Config(seed=3, data=DataConfig(corpus=path, seq_len=32, block_tokens=400), train=TrainConfig(num_steps=20))
        for path in (str(whole), f"{memory}/out")
    ]
    batches = []
    for config in configs:
        corpora = open_corpora(config)
        loader = Loader(config, corpora, load_tokenizer(corpora[0].tokenizer_dir))
        batches.append(list(loader.batches(loader.start(), 0, np.arange)))
    for ours, theirs in zip(*batches, strict=True):
        assert ours[1] == theirs[1]
        for name, values in ours[0].items():
            np.testing.assert_array_equal(values, theirs[0][name])


def test_shards_are_fetched_when_they_are_read(tokenizer, source, whole, memory, cache, monkeypatch):
    make(source, tokenizer, f"{memory}/out")
    opened = Corpus.open(f"{memory}/out")
    assert opened.path.name == "out" and opened.fingerprint == Corpus.open(whole).fingerprint
    split = opened.split("train")
    local = Corpus.open(whole).split("train")
    everything = np.arange(split.num_records)
    np.testing.assert_array_equal(split.index(everything).word_starts, local.index(everything).word_starts)
    np.testing.assert_array_equal(split.token_counts(), local.token_counts())
    assert not list(cache.rglob("*array_record*"))
    split.read(np.array([0]))
    assert len(list(cache.rglob("*array_record*"))) == 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(split)).read(everything)[0], local.read(everything)[0])
    copied = tree(opened.path)
    assert {name: raw for name, raw in tree(whole).items() if name in copied} == copied
    # Once here, nothing is fetched again.
    monkeypatch.setattr(storage.Folder, "download", lambda *_: pytest.fail("fetched again"))
    np.testing.assert_array_equal(
        Corpus.open(f"{memory}/out").split("train").read(everything)[0], local.read(everything)[0]
    )


def test_records_come_one_by_one_where_there_is_no_room(tokenizer, source, whole, memory, cache, monkeypatch, capsys):
    make(source, tokenizer, f"{memory}/out")
    monkeypatch.setattr(staging, "_LEFT_FREE", 1 << 60)
    split = Corpus.open(f"{memory}/out").split("train")
    assert "has room for 0.0; set BERT_JAX_CACHE to a folder on a larger disk" in capsys.readouterr().err
    chosen = np.random.default_rng(0).permutation(split.num_records)
    for ours, theirs in zip(split.read(chosen), Corpus.open(whole).split("train").read(chosen), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not list(cache.rglob("*array_record*"))


def test_a_copy_that_cannot_be(tokenizer, source, memory, cache):
    make(source, tokenizer, f"{memory}/out")
    folder = storage.Folder(f"{memory}/out")
    name = next(name for name in folder.sizes() if name.startswith("bert_corpus-train"))
    content = bytearray(folder.read(name))
    content[len(content) // 2] ^= 1
    folder.write(name, bytes(content))
    with pytest.raises(InputError, match=f"{memory}/out/{name}: the file is damaged"):
        Corpus.open(f"{memory}/out").split("train").raw_records(0)
    assert check(f"{memory}/out")[1].startswith(f"{memory}/out/{name}: the file is damaged")
    folder.remove([name])
    assert check(f"{memory}/out")[1] == f"{memory}/out/{name}: the file is missing"
    with pytest.raises(InputError, match=r"memory://bucket/none is no corpus"):
        Corpus.open(f"{memory}/none")
    folder.write(corpus_files.MANIFEST, b"{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        Corpus.open(f"{memory}/out")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/out", "pip install gcsfs"),
        ("s3://bucket/out", "pip install s3fs"),
        ("nonsense://bucket/out", "nonsense://bucket"),
    ],
)
def test_stores_that_are_not_there(tokenizer, source, url, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(InputError, match=message):
        make(source, tokenizer, url)
    with pytest.raises(InputError, match=message):
        Corpus.open(url)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.bz2", ".parquet", ".txt"])
def test_input_in_the_store(tokenizer, tmp_path, memory, suffix):
    """Files of a store are read as those of a disk, packed or not, and cut alike."""
    texts = many_texts(300)
    file = tmp_path / f"text{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=100)
    elif suffix == ".txt":
        file.write_text("\n\n".join(texts))
    else:
        packers = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.bz2": bz2.compress}
        file.write_bytes(packers[suffix]("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    make(str(file), tokenizer, tmp_path / "here")
    storage.Folder(memory).upload([(file, f"texts/{file.name}")])
    make(f"{memory}/texts/*", tokenizer, tmp_path / "there")
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    for wrong, message in ((f"{memory}/none/*", "no object matches"), (f"{memory}/texts/none.txt", "no object")):
        with pytest.raises(InputError, match=message):
            make(wrong, tokenizer, tmp_path / "other")


def test_streams_of_stores_that_have_only_plain_reads(tmp_path):
    """Most stores' files are buffers of their own kind, without the reading of whatever is there."""

    whole = b"".join(b"line %d\n" % i for i in range(10_000))

    class Remote(AbstractBufferedFile):
        def _fetch_range(self, start, end):
            return whole[start:end]

    url = "memory://bucket/remote.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            storage.Folder, "open", lambda self, name: Remote(None, name, size=len(Remote._fetch_range(None, 0, None)))
        )
        with byte_streams.open_unpacked(storage.input_path(url)) as stream:
            blocks = list(iter(lambda: byte_streams.read_block(stream, 1000), b""))
            stream.seek(5)
            assert stream.read(2) == b"0\n"
    assert b"".join(blocks) == whole


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "jsonl.gz", "parquet"])
def test_inputs_are_listed_and_not_asked_for_one_by_one(monkeypatch, suffix):
    store = fsspec.filesystem("memory")
    text = [json.dumps({"text": f"The house {i}. {'river ' * 500}{random.random()}"}) for i in range(50)]
    content = {
        "txt": text[0].encode(),
        "jsonl": text[0].encode(),
        "jsonl.gz": gzip.compress(os.urandom(2000).hex().encode()),
        "parquet": parquet_bytes({"text": ["The house."]}),
    }[suffix]
    for i in range(50):
        store.pipe_file(f"/listed/{i:02d}.{suffix}", content)
    calls = Counter()
    for name in ("glob", "find", "size", "info", "_open"):
        monkeypatch.setattr(type(store), name, counted(getattr(type(store), name), calls, name))
    found = expand([f"memory://listed/*.{suffix}"])
    assert [source.size for source in found] == [len(content)] * 50
    assert len([unit for source in found for unit in units(source, 1 << 20)]) == 50
    # The groups of rows of a parquet file are in the file alone; to open it asks for its size.
    once = 50 if suffix == "parquet" else 0
    assert (calls["glob"], calls["find"], calls["size"], calls["_open"]) == (1, 1, 0, once)
    assert calls["info"] <= once + 2


def counted(method, calls, name):
    def count(*arguments, **options):
        calls[name] += 1
        return method(*arguments, **options)

    return count


def parquet_bytes(columns):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def test_a_packed_object_of_nothing(tmp_path):
    fsspec.filesystem("memory").pipe_file("/nothing/a.txt.gz", gzip.compress(b""))
    with pytest.raises(InputError, match=r"memory:///nothing/a.txt.gz: the file is empty"):
        expand(["memory://nothing/a.txt.gz"])
