"""Building: the same bytes however it is done and whatever happens; duplicates, splits, long texts, bad input."""

import contextlib
import gzip
import hashlib
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from small_corpora import make_tokenizer, many_texts, start_script, tree, write_jsonl

from data_prep import build, corpus_files, merge, record_pieces, shards
from data_prep.build import build_corpus
from data_prep.check import check
from data_prep.corpus import Corpus
from data_prep.documents import clean
from data_prep.errors import InputError
from data_prep.lock import BuildLock
from data_prep.manifest import manifest_bytes, manifest_fingerprint
from data_prep.segment import sentences
from data_prep.tokenizer import load_tokenizer

SMALL_UNITS = "import data_prep.build as build\nbuild._SMALLEST_UNIT, build._UNITS = 3000, 1000\n"


PINNED = ["a268eb342d05c97f", "1d37df4c6c213a0e", "dda64ddd7c28f66a"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(build, "_SMALLEST_UNIT", 3000)
    monkeypatch.setattr(build, "_UNITS", 1000)


@pytest.fixture
def source(tmp_path):
    """Two files, about twenty units, duplicates within and across them."""
    texts = many_texts(200)
    write_jsonl(tmp_path / "a.jsonl", texts[:120] + texts[:10])
    write_jsonl(tmp_path / "b.jsonl", texts[115:] + texts[130:135])
    return [str(tmp_path / "*.jsonl")]


def stored_documents(path: Path, split: str) -> list[list[int]]:
    """Token ids of the kept documents, in order."""
    reader = Corpus.open(path).split(split)
    kept = reader.kept_records(np.arange(reader.num_kept))
    ids, offsets = reader.read(kept)
    starts = [*np.flatnonzero(reader.index(kept).first), len(kept)]
    return [ids[offsets[a] : offsets[b]].tolist() for a, b in itertools.pairwise(starts)]


# Letters that the tokenizer knows and that it does not, sentence ends, controls, line ends, and special tokens as text.
TEXTS = st.text(
    st.sampled_from([*"abTh .!?\n\r\t'#0", "\u4e2d", "\u3002", "é", "\u0301", "\x00", "\u200b"]), max_size=60
)
TEXTS |= st.sampled_from(["[MASK] [SEP]. The [CLS] house.", "", " \n ", "the river. the river.", "a" * 300])


@settings(max_examples=examples(40))
@given(texts=st.lists(TEXTS, max_size=12), share=st.sampled_from([0.0, 0.3]))
def test_any_documents_come_back(tmp_path_factory, tokenizer, texts, share):
    folder = tmp_path_factory.mktemp("any")
    source = write_jsonl(folder / "in.jsonl", ["The house.", *texts])
    manifest = build_corpus([str(source)], tokenizer, folder / "out", workers=1, validation_share=share)
    loaded = load_tokenizer(tokenizer)
    want, empty = {"train": [], "validation": []}, 0
    for text in dict.fromkeys(clean(text) for text in ["The house.", *texts]):
        ids = [i for encoded in loaded.encode_batch(sentences(text)) for i in encoded]
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        if ids:
            want["validation" if int.from_bytes(digest, "little") < share * 2**64 else "train"].append(ids)
    if not want["train"]:
        want = {"train": want["validation"], "validation": []}
    empty = sum(not any(loaded.encode_batch(sentences(clean(text)))) for text in texts)
    for split, documents in want.items():
        stored = stored_documents(folder / "out", split)
        assert stored == documents
        assert [loaded.decode(ids) for ids in stored] == [loaded.decode(ids) for ids in documents]
    audit = manifest["audit"]
    assert audit["documents_in"] == 1 + len(texts) == audit["documents_kept"] + sum(audit["dropped"].values())
    assert audit["documents_kept"] == sum(map(len, want.values()))
    assert audit["dropped"].get("empty", 0) + audit["dropped"].get("no tokens", 0) == empty
    assert check(folder / "out")[1] is None


def test_same_bytes_for_workers_and_parts(tmp_path, tokenizer, source, small_units, monkeypatch):
    built = {}
    for workers in (1, 2, 3):
        out = tmp_path / f"workers{workers}"
        script = start_script(
            tmp_path / "run.py",
            SMALL_UNITS + "if __name__ == '__main__':\n"
            "    build.build_corpus(sys.argv[4:], sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))\n",
            *(tokenizer, out, workers, *source),
        )
        assert script.wait(60) == 0, script.stderr.read()
        built[workers] = tree(out)
    for order in ([0, 1, 2], [2, 0, 1]):
        out = tmp_path / f"parts{order[0]}"
        results = [build_corpus(source, tokenizer, out, workers=1, part=f"{i}/3") for i in order]
        assert results[:2] == [None, None] and results[2]["fingerprint"]
        built[f"parts{order}"] = tree(out)
    # A plain build finishes what parts have begun.
    build_corpus(source, tokenizer, tmp_path / "rest", workers=1, part="1/4")
    build_corpus(source, tokenizer, tmp_path / "rest", workers=1)
    built["rest"] = tree(tmp_path / "rest")
    # Input from elsewhere, other batches for the tokenizer.
    (tmp_path / "moved").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    monkeypatch.setattr(shards, "_BATCH_CHARACTERS", 500)
    build_corpus([str(tmp_path / "moved" / "*.jsonl")], tokenizer, tmp_path / "moved" / "out", workers=1)
    built["moved"] = tree(tmp_path / "moved" / "out")
    shards_built = [name for name in built[1] if "array_record" in name]
    assert len(shards_built) > 10
    for how, files in built.items():
        assert files == built[1], how
    for word in (str(tmp_path).encode(), b"workers", str(time.localtime().tm_year).encode() + b"-"):
        assert not any(word in raw for name, raw in built[1].items() if "array_record" not in name), word


def test_parts_at_once(tmp_path, tokenizer, source, small_units):
    body = SMALL_UNITS + (
        "if __name__ == '__main__':\n"
        "    made = build.build_corpus(sys.argv[4:], sys.argv[1], sys.argv[2], workers=1, part=sys.argv[3])\n"
        "    print('merged' if made else 'part')\n"
    )
    # Part 0 runs twice, as a scheduler may do.
    parts = ["0/3", "1/3", "2/3", "0/3"]
    running = [
        start_script(tmp_path / f"run{i}.py", body, tokenizer, tmp_path / "out", part, *source)
        for i, part in enumerate(parts)
    ]
    outputs = [script.communicate(timeout=60) for script in running]
    assert [script.returncode for script in running] == [0] * 4, outputs
    assert [out for out, _ in outputs].count("merged\n") >= 1
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_resumes_after_kill(tmp_path, tokenizer, source, small_units):
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    out = tmp_path / "out"
    # Every process notes its id and is slowed down, so that the kill falls in the middle.
    body = SMALL_UNITS + (
        "import os, pathlib, time, data_prep.shards as shards\n"
        "(pathlib.Path(sys.argv[3]) / str(os.getpid())).touch()\n"
        "real = shards.build_unit\n"
        "def slow(*args):\n    time.sleep(0.1)\n    real(*args)\n"
        "shards.build_unit = slow\n"
        "if __name__ == '__main__':\n"
        "    build.build_corpus(sys.argv[4:], sys.argv[1], sys.argv[2], workers=2)\n"
    )
    processes = tmp_path / "processes"
    processes.mkdir()
    for done in (3, 7):
        script = start_script(tmp_path / "run.py", body, tokenizer, out, processes, *source)
        wait_for(lambda done=done: len(finished_units(out)) >= done, script)
        script.send_signal(signal.SIGKILL)
        script.wait()
        assert not out.exists()
        # Workers do not outlive their parent.
        wait_for(lambda: not any(alive(int(file.name)) for file in processes.iterdir()))
    before = {file: file.stat().st_mtime_ns for file in finished_units(out)}
    with pytest.raises(InputError, match="language is en there, de now"):
        build_corpus(source, tokenizer, out, workers=1, language="de")
    made = []
    with pytest.MonkeyPatch.context() as patch:
        real = shards.build_unit
        patch.setattr(shards, "build_unit", lambda number, *rest: (made.append(number), real(number, *rest)))
        build_corpus(source, tokenizer, out, workers=1)
    assert tree(out) == tree(tmp_path / "whole")
    assert len(before) >= 7
    assert not {int(file.parent.name) for file in before} & set(made)
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]


def test_a_killed_part_goes_on(tmp_path, tokenizer, source, small_units):
    """kill -9 of one task of an array job, whose scheduler starts it again."""
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    out = tmp_path / "out"
    build_corpus(source, tokenizer, out, workers=1, part="1/2")
    others = set(finished_units(out))
    body = SMALL_UNITS + (
        "import time, data_prep.shards as shards\n"
        "real = shards.build_unit\n"
        "def slow(*args):\n    time.sleep(0.2)\n    real(*args)\n"
        "shards.build_unit = slow\n"
        "if __name__ == '__main__':\n"
        "    from bert_jax.cli import main\n"
        "    main(['build', '--tokenizer', *sys.argv[1:]])\n"
    )
    words = [tokenizer, "--output", out, "--workers", 1, "--part", "0/2", "--input", *source]
    script = start_script(tmp_path / "run.py", body, *words)
    wait_for(lambda: len(finished_units(out)) >= len(others) + 2, script)
    script.kill()
    script.wait()
    assert not out.exists()
    before = {file: file.stat().st_mtime_ns for file in finished_units(out)}
    assert {int(file.parent.name) % 2 for file in before} == {0, 1}
    script = start_script(tmp_path / "run.py", body, *words)
    printed, error = script.communicate(timeout=60)
    assert script.returncode == 0, error
    assert json.loads(printed)["fingerprint"] == Corpus.open(tmp_path / "whole").fingerprint
    assert tree(out) == tree(tmp_path / "whole")
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["units_done_in_this_run"] == report["units"] - len(before) > 0
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]


def finished_units(out: Path) -> list[Path]:
    return list((out.with_name(out.name + ".partial") / "work").glob("units*/[0-9]*/unit.json"))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, script=None, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert script is None or script.poll() is None, script.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


class PowerCut(BaseException):
    pass


def test_resumes_anywhere_in_the_merge(tmp_path, tokenizer, small_units):
    source = [str(write_jsonl(tmp_path / "in.jsonl", many_texts(40) + many_texts(5)))]
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    want = tree(tmp_path / "whole")

    def cut_after(count: int, patch: pytest.MonkeyPatch) -> None:
        """The `count`-th operation that the merge does on files is the last."""
        left = [count]

        def limited(real):
            def call(*args, **kwargs):
                if left[0] == 0:
                    raise PowerCut
                left[0] -= 1
                return real(*args, **kwargs)

            return call

        for owner, name in ((merge.os, "replace"), (merge.os, "rename"), (merge, "write_file")):
            patch.setattr(owner, name, limited(getattr(owner, name)))
        patch.setattr(merge.shutil, "rmtree", limited(merge.shutil.rmtree))

    for part in ("0/2", "1/2"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build.merge, "merge", lambda *args: (_ for _ in ()).throw(PowerCut()))
            with contextlib.suppress(PowerCut):
                build_corpus(source, tokenizer, tmp_path / "out", workers=1, part=part)
    # From one attempt to the next the merge gets one step further, each time from what the one before has left.
    for count in range(100):
        with pytest.MonkeyPatch.context() as patch:
            cut_after(count, patch)
            try:
                build_corpus(source, tokenizer, tmp_path / "out", workers=1)
            except PowerCut:
                assert not (tmp_path / "out").exists()
                assert check(tmp_path / "out")[1] is not None
                continue
            break
    assert 8 < count < 99
    assert tree(tmp_path / "out") == want


def test_full_disk(tmp_path, tokenizer, source, small_units):
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    largest = max(len(raw) for raw in tree(tmp_path / "whole").values())
    body = SMALL_UNITS + (
        "import resource\n"
        "from data_prep.errors import InputError\n"
        "if __name__ == '__main__':\n"
        "    limit = int(sys.argv[4])\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "    try:\n"
        "        build.build_corpus(sys.argv[5:], sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))\n"
        "    except InputError as error:\n"
        "        print(error)\n"
        "        sys.exit(2)\n"
    )
    for limit, workers in ((largest - 1, 2), (5000, 1), (100, 1)):
        script = start_script(tmp_path / "run.py", body, tokenizer, tmp_path / "out", workers, limit, *source)
        out, error = script.communicate(timeout=60)
        assert script.returncode == 2, error
        assert out.count("\n") == 1 and str(tmp_path / "out.partial") in out and "File too large" in out
        assert not (tmp_path / "out").exists()
        assert "Traceback" not in error
    build_corpus(source, tokenizer, tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_output_that_cannot_be_written(tmp_path, tokenizer, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        build_corpus(source, tokenizer, tmp_path / "file" / "out", workers=1)


def test_output_in_the_working_directory(tmp_path, tokenizer, source, monkeypatch):
    build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    build_corpus(source, tokenizer, ".", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]
    monkeypatch.chdir(tmp_path / "out")
    assert check(".")[1] is None and Corpus.open(".").fingerprint == Corpus.open(tmp_path / "whole").fingerprint
    with pytest.raises(InputError, match="/ is no place for a corpus"):
        build_corpus(source, tokenizer, "/", workers=1)


def test_names_that_are_not_utf8(tmp_path, tokenizer, source):
    """No library here opens such a path, and no corpus can name such a file."""
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    latin.write_text("The house.")
    with pytest.raises(InputError, match=r"caf.*\.txt: the file's name is not UTF-8; rename it"):
        build_corpus([*source, str(tmp_path / "*.txt")], tokenizer, tmp_path / "out", workers=1)
    with pytest.raises(InputError, match=r"caf.*: the path is not UTF-8"):
        build_corpus(source, tokenizer, latin.with_suffix(""), workers=1)
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.lock"))


def test_other_build_is_refused_while_one_runs(tmp_path, tokenizer, source):
    for shared in (False, True):
        with BuildLock(tmp_path / "out", shared=shared), pytest.raises(InputError, match="another build is writing"):
            build_corpus(source, tokenizer, tmp_path / "out", workers=1)
    build_corpus(source, tokenizer, tmp_path / "out", workers=1)
    assert not (tmp_path / "out.lock").exists()


def test_a_part_waits_to_merge_for_another_that_works(tmp_path, tokenizer, source, monkeypatch, capsys):
    """Started twice, the other one still does a unit that is done: were both to leave, nobody would merge."""
    monkeypatch.setattr(build, "_ASKED_EVERY", 0.02)
    made = []
    with BuildLock(tmp_path / "out", shared=True):
        part = threading.Thread(
            target=lambda: made.append(build_corpus(source, tokenizer, tmp_path / "out", workers=1, part="0/1"))
        )
        part.start()
        said = []
        wait_for(lambda: said.append(capsys.readouterr().err) or "waits to merge" in said[-1])
        assert not made
    part.join()
    assert made[0] == build_corpus(source, tokenizer, tmp_path / "whole", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out", "out.report.json"]


def test_finished_output(tmp_path, tokenizer, source, capsys):
    out = tmp_path / "out"
    first = build_corpus(source, tokenizer, out, workers=1)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    capsys.readouterr()
    assert build_corpus(source, tokenizer, out, workers=2) == first
    assert "finished already" in capsys.readouterr().err
    assert build_corpus(source, tokenizer, out, workers=1, part="0/2") == first
    other = make_tokenizer(tmp_path / "other")
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text() + "more\n")
    for change, message in (
        ({"validation_share": 0.3}, "validation_share is 0.05 there, 0.3 now"),
        ({"keep_duplicates": True}, "keep_duplicates is False there"),
        ({"tokenizer_dir": other}, "the tokenizer's fingerprint is"),
        ({"inputs": [str(tmp_path / "a.jsonl")]}, "2 input files there, 1 now"),
        ({"inputs": [str(tmp_path / "b.jsonl")]}, "input a.jsonl .* there, b.jsonl .* now"),
    ):
        arguments = {"inputs": source, "tokenizer_dir": tokenizer, "output": out, "workers": 1} | change
        with pytest.raises(InputError, match=message):
            build_corpus(**arguments)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").touch()
    with pytest.raises(InputError, match="exists and is no corpus"):
        build_corpus(source, tokenizer, tmp_path / "foreign", workers=1)
    (tmp_path / "empty").mkdir()
    assert build_corpus(source, tokenizer, tmp_path / "empty", workers=1) == first


@pytest.mark.parametrize("repeats", [1, 40])  # of 40 kB, all of which is looked at, and of 3 MB
def test_changed_input_of_the_same_size(tmp_path, tokenizer, repeats, monkeypatch):
    source = tmp_path / "in.jsonl"
    write_jsonl(source, [f"{text} {i}" for i in range(repeats) for text in many_texts(200)])
    out = tmp_path / "out"
    first = build_corpus([str(source)], tokenizer, out, workers=1)
    before = source.read_bytes()
    os.utime(source, (0, 0))
    assert build_corpus([str(source)], tokenizer, out, workers=1) == first
    source.write_bytes(before.replace(b"house", b"mouse"))
    message = r"in\.jsonl has other text now, of the same size; use the same, another output, or remove it"
    with pytest.raises(InputError, match=rf"out is a finished corpus of other input or settings: {message}"):
        build_corpus([str(source)], tokenizer, out, workers=1)
    # A build that has been broken off, too.
    monkeypatch.setattr(build.merge, "merge", lambda *_: (_ for _ in ()).throw(PowerCut()))
    with pytest.raises(PowerCut):
        build_corpus([str(source)], tokenizer, tmp_path / "new", workers=1)
    source.write_bytes(before)
    for part in (None, "0/1"):
        with pytest.raises(InputError, match=rf"new\.partial is an unfinished build of .*: {message}"):
            build_corpus([str(source)], tokenizer, tmp_path / "new", workers=1, part=part)


def test_a_corpus_of_an_older_version_is_finished(tmp_path, tokenizer, source):
    """One whose manifest holds no hash of its input."""
    out = tmp_path / "out"
    manifest = build_corpus(source, tokenizer, out, workers=1)
    for entry in manifest["sources"]:
        assert len(entry.pop("sample")) == 32
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    (out / "manifest.json").write_bytes(manifest_bytes(manifest))
    assert build_corpus(source, tokenizer, out, workers=1) == manifest


def test_partial_of_broken_input_is_no_obstacle(tmp_path, tokenizer):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "The house."}\n{"text": \n')
    with pytest.raises(InputError, match=r"in\.jsonl.*2"):
        build_corpus([str(source)], tokenizer, tmp_path / "out", workers=1)
    source.write_text('{"text": "The house."}\n')
    assert build_corpus([str(source)], tokenizer, tmp_path / "out", workers=1)["audit"]["documents_in"] == 1


def test_dropped_by_option(tmp_path, tokenizer):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "The house."}\n{"text": \n{"text": ""}\n{"text": "The house."}\n')
    audit = build_corpus([str(source)], tokenizer, tmp_path / "out", workers=1, on_error="drop")["audit"]
    assert (audit["documents_in"], audit["documents_kept"]) == (4, 1)
    assert audit["dropped"]["duplicate"] == audit["dropped"]["empty"] == 1
    assert sum(audit["dropped"].values()) == 3
    assert audit["sources"]["in.jsonl"]["dropped"] == audit["dropped"]


def test_whole_files_that_cannot_be_read(tmp_path, tokenizer):
    """As pdftotext leaves them of scanned pages, and a job that died while it wrote."""
    texts = many_texts(6)
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    for name in ("a.txt", "b.txt", "c.txt.gz"):
        (tmp_path / name).touch()
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "e.parquet").write_bytes(b"PAR1 and no more")
    names = sorted(file.name for file in tmp_path.iterdir())
    inputs = [str(tmp_path / pattern) for pattern in ("*.txt", "*.gz", "*.parquet")]
    with pytest.raises(InputError, match=r"a\.txt: the file is empty; .*--on-error drop"):
        build_corpus(inputs, tokenizer, tmp_path / "out", workers=1)
    with pytest.raises(InputError, match=r"e\.parquet: no parquet file.*--on-error drop"):
        build_corpus(inputs[2:], tokenizer, tmp_path / "out", workers=1)
    audit = build_corpus(inputs, tokenizer, tmp_path / "out", workers=1, on_error="drop")["audit"]
    assert (audit["documents_in"], audit["documents_kept"]) == (11, 6)
    assert audit["dropped"] == {"damaged parquet": 1, "empty file": 4}
    assert sorted(audit["sources"]) == names
    assert audit["sources"]["d.txt.gz"]["dropped"] == {"empty file": 1}
    for name, want in (("a.txt", "1 empty file"), ("e.parquet", "1 damaged parquet")):
        with pytest.raises(InputError, match=f"no document is left for the corpus .dropped: {want}"):
            build_corpus([str(tmp_path / name)], tokenizer, tmp_path / "none", workers=1, on_error="drop")


@pytest.mark.parametrize("keep", [False, True])
def test_duplicates_across_units_files_and_splits(tmp_path, tokenizer, source, small_units, keep):
    manifest = build_corpus(source, tokenizer, tmp_path / "out", workers=1, validation_share=0.4, keep_duplicates=keep)
    audit = manifest["audit"]
    assert audit["documents_in"] == 220
    assert audit["dropped"] == ({} if keep else {"duplicate": 20})
    stored = {split: stored_documents(tmp_path / "out", split) for split in ("train", "validation")}
    distinct = {split: set(map(tuple, documents)) for split, documents in stored.items()}
    assert not distinct["train"] & distinct["validation"]
    assert sum(map(len, distinct.values())) == 200
    assert sum(map(len, stored.values())) == (220 if keep else 200)
    assert len(stored["validation"]) > 40
    for name in ("a.jsonl", "b.jsonl"):
        counts = audit["sources"][name]
        assert counts["documents_in"] == counts["documents_kept"] + sum(counts["dropped"].values())
    if not keep:
        # The first in input order stays: of what both files have, the first file's.
        assert audit["sources"]["a.jsonl"]["dropped"] == {"duplicate": 10}


def test_one_document(tmp_path, tokenizer):
    # Whatever split its hash says: a corpus has something to train on.
    for i, text in enumerate(many_texts(12)):
        source = write_jsonl(tmp_path / "in.jsonl", [text])
        out = tmp_path / f"out{i}"
        manifest = build_corpus([str(source)], tokenizer, out, workers=1, validation_share=0.5)
        train, validation = (Corpus.open(out).split(name) for name in ("train", "validation"))
        assert (train.num_kept, validation.num_kept) == (1, 0)
        assert "the validation split is empty" in manifest["notes"]
        assert len(validation.kept_records(np.array([], np.int64))) == 0
        assert validation.token_counts().sum() == 0 and train.token_counts().sum() == train.kept_tokens
        assert check(out)[1] is None


def test_nothing_left(tmp_path, tokenizer):
    (tmp_path / "in.txt").write_text("\n\n \n")
    with pytest.raises(InputError, match="no document is left"):
        build_corpus([str(tmp_path / "in.txt")], tokenizer, tmp_path / "out", workers=1)
    assert not list(tmp_path.glob("out*"))


def test_one_huge_line(tmp_path, tokenizer):
    words = 60_000
    (tmp_path / "in.txt").write_text("the house " * (words // 2) + "x" * 90)
    out = tmp_path / "out"
    audit = build_corpus([str(tmp_path / "in.txt")], tokenizer, out, workers=1, validation_share=0)["audit"]
    reader = Corpus.open(out).split("train")
    found = reader.index(np.arange(reader.num_records))
    ids, offsets = reader.read(np.arange(reader.num_records))
    assert (audit["long_sentences_cut"], audit["documents_kept"], audit["long_documents"]) == (1, 1, 1)
    assert found.first.tolist() == [True] + [False] * (reader.num_records - 1)
    assert np.diff(offsets).max() <= 16384 and reader.num_records == 4
    assert load_tokenizer(tokenizer).decode(ids) == "the house " * (words // 2) + "x" * 90
    # Cut between words only.
    assert found.word_starts[offsets[:-1]].all()
    assert all(ids[offset] in load_tokenizer(tokenizer).encode_batch(["the house"])[0] for offset in offsets[:-1])


@given(data=st.data(), limit=st.integers(1, 9))
def test_cut_and_group(data, limit):
    lengths = np.array(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=8)), np.int32)
    marks = st.lists(st.booleans(), min_size=int(lengths.sum()), max_size=int(lengths.sum()))
    starts = np.array(data.draw(marks), bool)
    starts[np.cumsum([0, *lengths[:-1]])] = True
    marked = starts.copy()
    pieces, cut = record_pieces.cut_sentences(lengths, marked, limit)
    assert cut == (lengths > limit).sum() and pieces.max() <= limit and pieces.min() > 0
    borders, old = set(np.cumsum(pieces)), set(np.cumsum(lengths))
    assert old <= borders
    assert set(np.flatnonzero(marked)) == set(np.flatnonzero(starts)) | {0, *borders} - {lengths.sum()}
    for end in borders - old:
        begin = max({0, *borders} & set(range(end)))
        # No later word start fits, and where none does the piece is full.
        assert not starts[end + 1 : begin + limit + 1].any()
        assert starts[end] or (end == begin + limit and not starts[begin + 1 : end].any())
    groups = record_pieces.group_sentences(pieces, limit)
    assert np.concatenate(groups).tolist() == pieces.tolist()
    assert all(group.sum() <= limit for group in groups)
    assert all(a.sum() + b[0] > limit for a, b in itertools.pairwise(groups))


@pytest.mark.parametrize(
    ("size", "share"), [(1_000, 0.05), (15_000_000, 0.05), (60_000_000, 0.035), (1_000_000_000, 0.005)]
)
def test_default_validation_share(size, share):
    assert build._default_share(size) == share


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"validation_share": 0.9}, "--validation-share is 0.9"),
        ({"validation_share": -1}, "--validation-share is -1"),
        ({"part": "3/3"}, "--part is '3/3'"),
        ({"inputs": []}, "no input"),
        ({"on_error": "maybe"}, "on-error"),
    ],
)
def test_wrong_options(tmp_path, tokenizer, source, options, message):
    arguments = {"inputs": source, "tokenizer_dir": tokenizer, "output": tmp_path / "out", "workers": 1} | options
    with pytest.raises(InputError, match=message):
        build_corpus(**arguments)
    assert not (tmp_path / "out").exists()


def test_report_beside_the_corpus(tmp_path, tokenizer, source):
    manifest = build_corpus(source, tokenizer, tmp_path / "out", workers=1)
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["fingerprint"] == manifest["fingerprint"] == Corpus.open(tmp_path / "out").fingerprint
    assert report["workers"] == 1 and report["seconds"] > 0 and os.path.isabs(report["output"])


def test_the_same_bytes_on_every_python_and_machine(tmp_path, tokenizer):
    """These change with what a corpus is made of (the format, the segmenter), and never with where it is made."""
    source = write_jsonl(tmp_path / "in.jsonl", many_texts(60))
    build_corpus([str(source)], tokenizer, tmp_path / "out", workers=1, validation_share=0)
    contents = tree(tmp_path / "out")
    names = (
        corpus_files.shard_name("train", 0, 1),
        corpus_files.index_name("train", 0, 1),
        corpus_files.kept_name("train"),
    )
    assert [hashlib.sha256(contents[name]).hexdigest()[:16] for name in names] == PINNED


def test_a_hint_where_no_blank_line_ends_a_document(tmp_path, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(build, "_LONG_TEXT", 2000)
    texts = [text.replace("\n", " ") for text in many_texts(60)]
    files = {"lines.txt": "\n", "more.txt": "\n", "blank.txt": "\n\n"}
    for name, end in files.items():
        (tmp_path / name).write_text("".join(text + name + end for text in texts))
    (tmp_path / "short.txt").write_text("The house.")
    for documents in ("blank-line", "file"):
        arguments = ([str(tmp_path / "*.txt")], tokenizer, tmp_path / documents)
        manifest = build_corpus(*arguments, workers=1, documents=documents)
        counts = {name: entry["documents_in"] for name, entry in manifest["audit"]["sources"].items()}
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        if documents == "file":
            assert set(counts.values()) == {1} and not said
        else:
            assert counts == {"blank.txt": 60, "lines.txt": 1, "more.txt": 1, "short.txt": 1}
            assert len(said) == 1 and f"{tmp_path}/lines.txt and 1 other" in said[0] and "--documents file" in said[0]


def test_small_files_share_a_unit(tmp_path, tokenizer):
    for i, text in enumerate(many_texts(50)):
        (tmp_path / f"{i:02}.txt").write_text(text)
    manifest = build_corpus([str(tmp_path / "*.txt")], tokenizer, tmp_path / "out", workers=1, validation_share=0.1)
    assert [len(split["shards"]) for split in manifest["splits"].values()] == [1, 1]
    assert {name: counts["documents_kept"] for name, counts in manifest["audit"]["sources"].items()} == {
        f"{i:02}.txt": 1 for i in range(50)
    }
    assert corpus_files.unfinished(tmp_path / "out") is None
