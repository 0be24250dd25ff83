"""Who runs the units: parts, worker processes that fail, die or are stopped, and what the user sees meanwhile."""

import io
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from small_corpora import make_tokenizer, many_texts, start_script, write_jsonl

from bert_jax import cli
from data_prep import engines
from data_prep.build import build_corpus
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.lock import BuildLock

# Twenty units, two workers; each unit takes a moment.
SCRIPT = """
import os, pathlib, signal, time
import data_prep.build as build
import data_prep.shards as shards
build._SMALLEST_UNIT, build._UNITS = 2000, 1000
real = shards.build_unit
def slow(number, *args):
    time.sleep(0.1)
    if sys.argv[4] == "dies" and number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    real(number, *args)
shards.build_unit = slow
if __name__ == "__main__":
    from bert_jax.cli import main
    tokenizer, output, workers, _, *sources = sys.argv[1:]
    main(["build", "--input", *sources, "--tokenizer", tokenizer, "--output", output, "--workers", workers])
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def children(process: int) -> list[int]:
    """Its child processes that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == process and state != "Z":
            found.append(int(stat.parent.name))
    return found


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "2/2", "3/2", "-1/2", "a/b", "0/0", "1/2/3", "0.5/2"])
def test_wrong_parts(text):
    with pytest.raises(InputError, match=r"--part is .*i/n"):
        engines.Part.parse(text)


def test_parts():
    assert engines.Part.parse("0/1") == engines.Part(0, 1)
    assert engines.Part.parse("3/12") == engines.Part(3, 12)


@pytest.mark.parametrize(
    ("workers", "everybody", "units_done"), [(1, False, 3), (2, False, 3), (2, True, 3), (2, True, 0)]
)
def test_interrupted(tmp_path, tokenizer, workers, everybody, units_done):
    # Enough work to be interrupted in.
    count = 1000 if units_done else 150
    source = write_jsonl(tmp_path / "in.jsonl", many_texts(count))
    script = start_script(tmp_path / "run.py", SCRIPT, tokenizer, tmp_path / "out", workers, "", source)
    work = tmp_path / "out.partial" / "work"
    end = time.monotonic() + 30
    while len(list(work.glob("units*/[0-9]*/unit.json"))) < units_done or not list(work.glob("units*")):
        assert script.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.0 if units_done else 0.15)
    started = children(script.pid)
    (os.killpg if everybody else os.kill)(script.pid, signal.SIGINT)
    out, error = script.communicate(timeout=30)
    assert script.returncode == 130
    assert re.search(
        r"^error: stopped with \d+ of \d+ units done; run the same command again to go on\n\Z", error, re.M
    )
    assert out == "" and "Traceback" not in error
    # The resource tracker of multiprocessing leaves a moment later.
    while not all(map(gone, started)):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not (tmp_path / "out").exists() and len(list(work.glob("units*/[0-9]*/unit.json"))) >= units_done
    assert build_corpus([str(source)], tokenizer, tmp_path / "new", workers=1)["audit"]["documents_in"] == count


def test_dead_worker(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "in.jsonl", many_texts(150))
    script = start_script(tmp_path / "run.py", SCRIPT, tokenizer, tmp_path / "out", 2, "dies", source)
    _, error = script.communicate(timeout=30)
    assert script.returncode == 2, error
    assert "error: a worker process died" in error and "Traceback" not in error
    script = start_script(tmp_path / "run.py", SCRIPT, tokenizer, tmp_path / "out", 2, "", source)
    assert script.wait(30) == 0 and (tmp_path / "out" / "manifest.json").exists()


def test_error_of_a_unit_ends_the_pool(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("data_prep.build._SMALLEST_UNIT", 2000)
    monkeypatch.setattr("data_prep.build._UNITS", 1000)
    source = write_jsonl(tmp_path / "in.jsonl", many_texts(150))
    lines = source.read_text().splitlines()
    lines[77] = lines[77][:-9]
    source.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"in\.jsonl.*78"):
        build_corpus([str(source)], tokenizer, tmp_path / "out", workers=2)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "out").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal():
    stream = Terminal()
    progress = engines.Progress(4, 4_000_000, stream)
    progress.advance(1_000_000)
    progress.advance(1_000_000)
    progress.close()
    lines = stream.getvalue().split("\r")
    assert len(lines) == 3 and stream.getvalue().endswith("\n")
    assert re.match(r"build: 2/4 units, [\d.]+ MB/s, \d+ s left", lines[2])
    assert progress.state() == "2 of 4 units done"


def test_progress_elsewhere_is_seldom():
    stream = io.StringIO()
    progress = engines.Progress(3, 30, stream, every=0.05)
    progress.advance(10)
    assert stream.getvalue() == ""
    time.sleep(0.06)
    progress.advance(10)
    progress.advance(10)
    progress.close()
    assert stream.getvalue().count("\n") == 1 and "\r" not in stream.getvalue()


def test_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(engines.time, "monotonic", lambda: now[0])
    stream = Terminal()
    progress = engines.Progress(4, 8_000_000, stream)
    now[0] = 102.0
    progress.advance(2_000_000)
    assert "1/4 units, 1.0 MB/s, 6 s left" in stream.getvalue()


def run(capsys, *words):
    """What a command prints, and its exit code."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    return exit_.value.code, *capsys.readouterr()


def test_the_fingerprint_is_one_line_of_json(tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr("data_prep.build._SMALLEST_UNIT", 2000)
    source = write_jsonl(tmp_path / "in.jsonl", many_texts(50))
    words = ["build", "--input", source, "--tokenizer", tokenizer, "--output", tmp_path / "out", "--workers", 1]
    printed = []
    for part in (["--part", "0/2"], ["--part", "1/2"], []):
        code, out, _ = run(capsys, *words, *part)
        assert code == 0 and out.count("\n") == 1
        printed.append(json.loads(out))
    assert [line["output"] for line in printed] == [str(tmp_path / "out")] * 3
    assert [line["fingerprint"] for line in printed] == [None, *[Corpus.open(tmp_path / "out").fingerprint] * 2]
    with BuildLock(tmp_path / "other"):
        code, out, error = run(capsys, *words[:-4], "--output", tmp_path / "other")
    assert (code, out) == (2, "") and "another build is writing it" in error


def test_wrong_engines(tmp_path, tokenizer, capsys, monkeypatch):
    source = write_jsonl(tmp_path / "in.jsonl", many_texts(5))
    words = ["build", "--input", source, "--tokenizer", tokenizer, "--output", tmp_path / "out"]
    code, _, error = run(capsys, *words, "--", "--runner=FlinkRunner")
    assert code == 2 and "--runner=FlinkRunner is an option of an engine; the local engine has none" in error
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "data_prep.beam_engine", raising=False)
    code, _, error = run(capsys, *words, "--engine", "beam", "--", "--runner=FlinkRunner")
    assert code == 2 and "needs Apache Beam, which is not installed" in error
    with pytest.raises(InputError, match="--engine is 'ray'"):
        build_corpus([str(source)], tokenizer, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_default_workers():
    assert 1 <= engines.default_workers() <= os.cpu_count()
