"""Beam's in-process runner with several workers makes the same bytes, tells mistakes, and goes on after a break."""

import pytest

pytest.importorskip(
    "apache_beam", reason="apache-beam is not installed: see docs/corpus.md, Clusters and object stores"
)

from small_corpora import make_tokenizer, many_texts, tree, write_jsonl

from data_prep import build, shards
from data_prep.build import build_corpus
from data_prep.errors import InputError
from data_prep.storage import Folder

WORKERS = ["--runner=FnApiRunner", "--direct_num_workers=2"]
THREADS = [*WORKERS, "--direct_running_mode=multi_threading"]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(build, "_SMALLEST_UNIT", 3000)
    monkeypatch.setattr(build, "_UNITS", 1000)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def source(tmp_path):
    texts = many_texts(150)
    return str(write_jsonl(tmp_path / "in.jsonl", texts + texts[:9]))


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_the_same_bytes(tmp_path, tokenizer, source, mode):
    build_corpus([source], tokenizer, tmp_path / "local", workers=1)
    options = [*WORKERS, f"--direct_running_mode={mode}"]
    manifest = build_corpus([source], tokenizer, tmp_path / "beam", engine="beam", engine_options=options)
    assert len(manifest["splits"]["train"]["shards"]) > 5
    assert tree(tmp_path / "beam") == tree(tmp_path / "local")
    assert sorted(file.name for file in tmp_path.glob("beam*")) == ["beam", "beam.report.json"]


def test_in_a_store(tmp_path, tokenizer, source):
    """`file://`, for the files of `memory://` are not to be read by two threads at once."""
    build_corpus([source], tokenizer, tmp_path / "local", workers=1)
    url = f"file://{tmp_path}/store/out"
    build_corpus([source], tokenizer, url, engine="beam", engine_options=THREADS)
    folder = Folder(url)
    assert {name: folder.read(name) for name in folder.sizes()} == tree(tmp_path / "local")
    assert not folder.partial.sizes()


def test_a_mistake_in_the_input_is_told(tmp_path, tokenizer, source):
    lines = (tmp_path / "in.jsonl").read_text().splitlines()
    broken = [*lines[:77], lines[77][:-9] + " " * 9, *lines[78:]]
    (tmp_path / "in.jsonl").write_text("\n".join(broken) + "\n")
    with pytest.raises(InputError, match=r"in\.jsonl:78"):
        build_corpus([source], tokenizer, tmp_path / "beam", engine="beam", engine_options=THREADS)
    assert not (tmp_path / "beam").exists()


def test_another_engine_does_what_a_pipeline_left(tmp_path, tokenizer, source):
    real, made = shards.build_unit, []

    def build_others(number, *rest):
        if number == 3:
            raise InputError("no space left")
        real(number, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr(shards, "build_unit", build_others)
        build_corpus([source], tokenizer, tmp_path / "beam", engine="beam", engine_options=THREADS)
    assert not (tmp_path / "beam").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "build_unit", lambda number, *rest: (made.append(number), real(number, *rest)))
        manifest = build_corpus([source], tokenizer, tmp_path / "beam", workers=1)
    assert made == [3]
    assert len(manifest["splits"]["train"]["shards"]) > 5
    build_corpus([source], tokenizer, tmp_path / "local", workers=1)
    assert tree(tmp_path / "beam") == tree(tmp_path / "local")


def test_wrong_options(tmp_path, tokenizer, source):
    with pytest.raises(InputError, match="--part is for array jobs"):
        build_corpus([source], tokenizer, tmp_path / "out", engine="beam", part="0/2")
    with pytest.raises(InputError, match="the Beam pipeline failed"):
        build_corpus([source], tokenizer, tmp_path / "out", engine="beam", engine_options=["--runner=NoSuchRunner"])
    assert not (tmp_path / "out").exists()
