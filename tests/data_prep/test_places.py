"""Several builds that write to one place at once: none removes, overwrites or half-writes what another one needs."""

import errno
import fcntl
import os
import resource
import threading
import time

import fsspec
import pytest
from small_corpora import make_tokenizer, many_texts, tree, write_jsonl

from data_prep import build, files, lease, places, unit_folder
from data_prep.build import build_corpus
from data_prep.storage import Folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """About five units, with duplicates."""
    monkeypatch.setattr(build, "_SMALLEST_UNIT", 3000)
    monkeypatch.setattr(build, "_UNITS", 1000)
    texts = many_texts(50)
    return [str(write_jsonl(tmp_path / "in.jsonl", texts + texts[:5]))]


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that has none."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lease, "_SETTLED_AFTER", 0.02)


@pytest.fixture
def store():
    fsspec.filesystem("memory").store.clear()
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def once(action, real):
    """`real`, before whose first call `action` happens."""
    left = [action]

    def call(*arguments, **options):
        if left:
            left.pop()()
        return real(*arguments, **options)

    return call


class PowerCut(BaseException):
    pass


def cut(*_):
    raise PowerCut


def test_processes_of_the_same_number(tmp_path):
    """Containers that share a disk count their processes for themselves; threads have one number for certain."""
    folder, failed = Folder(f"file://{tmp_path}"), []

    def write(content):
        try:
            for _ in range(100):
                folder.write("object", content)
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(bytes([i]) * 1000,)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    assert len(set(folder.read("object"))) == 1 and list(folder.sizes().items()) == [("object", 1000)]
    with files.whole_file(tmp_path / "one.npy") as first, files.whole_file(tmp_path / "one.npy") as second:
        assert first != second and first.suffix == ".npy"
        first.touch()
        second.touch()


def test_created_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = Folder(f"file://{tmp_path}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(Exception, match="File too large"):
            folder.create("object", b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
    assert folder.create("object", b"first") and not folder.create("object", b"second")

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    # Where there are no hard links.
    monkeypatch.setattr(files.os, "link", refuse)
    assert folder.create("other", b"first") and not folder.create("other", b"second")
    assert folder.read("object") == folder.read("other") == b"first"
    assert sorted(folder.sizes()) == ["object", "other"]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_removing_what_is_there_and_what_is_not(tmp_path, store, scheme):
    folder = Folder(store if scheme == "memory" else f"file://{tmp_path}")
    for name in ("a", "b", "c"):
        folder.write(name, b"x")
    folder.remove(["missing", "a", "missing too", "c"])
    assert list(folder.sizes()) == ["b"]


def test_a_build_that_starts_while_a_part_uploads(tokenizer, source, store, tmp_path, monkeypatch):
    """Shards whose unit.json is still to come are not what a dead build has left."""
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    seen = []
    real = Folder.write

    def write(self, name, content):
        if name == unit_folder.UNIT_JSON and not seen:
            seen.append(name)
            with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
                patch.setattr(build._Build, "_run", cut)
                build_corpus(source, tokenizer, f"{store}/out", workers=1)
        real(self, name, content)

    monkeypatch.setattr(Folder, "write", write)
    build_corpus(source, tokenizer, f"{store}/out", workers=1, part="0/2")
    build_corpus(source, tokenizer, f"{store}/out", workers=1)
    folder = Folder(f"{store}/out")
    assert seen and {name: folder.read(name) for name in folder.sizes()} == tree(tmp_path / "whole")
    assert sorted(Folder(store).sizes()) == sorted([*(f"out/{name}" for name in folder.sizes()), "out.report.json"])


def test_the_same_where_there_are_no_locks(tokenizer, source, tmp_path, no_locks, monkeypatch):
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)

    def start():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(build._Build, "_run", cut)
            build_corpus(source, tokenizer, tmp_path / "out", workers=1)

    monkeypatch.setattr(unit_folder, "rename", once(start, unit_folder.rename))
    build_corpus(source, tokenizer, tmp_path / "out", workers=1, part="0/1")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]


def test_units_of_other_settings_are_never_mixed(tokenizer, source, tmp_path, no_locks, monkeypatch):
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1, on_error="drop", validation_share=0.3)

    def start():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(build._Build, "_merge", cut)
            build_corpus(source, tokenizer, tmp_path / "out", workers=1, on_error="drop", validation_share=0.3)

    # Before its first unit has its name, and none else is there.
    monkeypatch.setattr(unit_folder, "rename", once(start, unit_folder.rename))
    build_corpus(source, tokenizer, tmp_path / "out", workers=1, part="0/2", validation_share=0.0)
    build_corpus(source, tokenizer, tmp_path / "out", workers=1, on_error="drop", validation_share=0.3)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_that_begin_in_the_same_moment(tmp_path, monkeypatch):
    """Of other settings: one of them learns of the other."""
    mine, theirs = {"settings": "mine"}, {"settings": "theirs"}
    other = places.place(tmp_path / "out", theirs)
    told = []
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, once(lambda: told or told.append(other.state(theirs)), getattr(os, name)))
    assert places.place(tmp_path / "out", mine).state(mine) == theirs == told[0] == other.state(theirs)


def test_scratch_of_the_dead_goes_and_of_the_living_stays(tmp_path):
    place = places.place(tmp_path / "out", {})
    place.state({})
    for name, age in (("tmp-1-dead", 2 * unit_folder._ABANDONED), ("tmp-2-new", 0), ("tmp-3-writes", 0)):
        folder = place.units_dir / name
        folder.mkdir()
        (folder / "train-0.array_record").touch()
        then = time.time() - age
        for path in (folder / "train-0.array_record", folder):
            os.utime(path, (then, then))
    os.utime(place.units_dir / "tmp-3-writes", (0, 0))
    place.tidy()
    assert sorted(path.name for path in place.units_dir.iterdir()) == ["tmp-2-new", "tmp-3-writes"]


def test_what_a_dead_one_half_wrote_into_a_store(tokenizer, source, tmp_path, monkeypatch):
    """A scratch file beside the manifest is no object of somebody else's."""
    url = f"file://{tmp_path}/out"
    monkeypatch.setattr(lease, "_SETTLED_AFTER", 0.02)
    real = Folder.write

    def write(self, name, content):
        if name == "manifest.json":
            files.scratch_beside(tmp_path / "out" / name).write_bytes(content[:10])
            raise PowerCut
        real(self, name, content)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Folder, "write", write)
        build_corpus(source, tokenizer, url, workers=1)
    build_corpus(source, tokenizer, url, workers=1)
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
