"""The commands as they are typed: help is quick and complete, mistakes are one line, exit codes are kept."""

import errno
import json
import os
import shlex
import subprocess
import sys

import pytest
from small_corpora import make_tokenizer, many_texts, write_jsonl

from bert_jax.cli import main
from bert_jax.command_line import build_parser
from data_prep.build import build_corpus

COMMANDS = ["vocab", "build", "check", "pretrain", "inspect", "evaluate", "convert", "finetune", "predict"]
COMMANDS += ["fill-mask", "report", "plan", "verify", "compare"]


def subcommands():
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    return commands.choices


def test_all_commands_are_there():
    assert set(COMMANDS) == set(subcommands())


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["convert", "to-hf"], ["convert", "from-hf"]])
def test_help_ends_with_an_example_that_parses(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.count("Example:") == 1
    example = said.split("Example:")[1].strip()
    assert example.startswith("bert-jax ") and "\n" not in example
    options = [word for word in shlex.split(example)[1:] if not word.startswith("--config.")]  # main takes those
    build_parser().parse_args(options)  # exits where it does not parse


def test_help_imports_nothing_slow():
    script = """
import sys
from bert_jax.cli import main
try:
    main(["pretrain", "--help"])
except SystemExit:
    pass
slow = {"jax", "flax", "orbax", "tensorflow_datasets", "tokenizers", "numpy", "matplotlib"} & set(sys.modules)
sys.exit(f"imported: {sorted(slow)}" if slow else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bild"], "invalid choice: 'bild'"),
        ([], "COMMAND"),
        (["check"], "corpus"),
        (["check", "corpus", "--fast"], "--fast is not an option of check"),
        (["check", "corpus", "--config.seed=1"], "--config.seed=1 without --config"),
        (["check", "nowhere"], "nowhere is no corpus"),
        (["check", "."], ". is no corpus"),
        (["check", ".."], ".. is no corpus"),
        (["check", ""], ". is no corpus"),
        (["check", "/"], "/ is no place for a corpus"),
        (["check", os.fsdecode(b"caf\xe9")], "caf\\udce9: the path is not UTF-8"),
        (["pretrain", "--config", "nowhere.py", "--workdir", "run"], "nowhere.py"),
        (["inspect", "--step", "0"], "a run directory or --config"),
        (["build", "--input", "*.nothing", "--tokenizer", "t", "--output", "o"], "*.nothing"),
        (["evaluate", "nowhere"], "nowhere"),
        (["convert", "to-hf", "nowhere", "out"], "nowhere"),
        (["convert", "from-hf", "nowhere", "out"], "nowhere"),
        (["fill-mask", "nowhere", "a [MASK]"], "nowhere"),
        (["predict", "nowhere", "--input", "a.tsv", "--output", "b.jsonl"], "nowhere"),
        (["report", "nowhere", "--output", "r.html"], "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1 and message in said.err
    assert not any(tmp_path.iterdir())


def test_results_are_utf8_wherever_they_go(tmp_path):
    """JSON is, whatever the terminal: a corpus of Chinese text printed where only Latin-1 is known."""
    texts = ["\u4f60\u597d\u4e16\u754c\u3002 The house.", *many_texts(3)]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    out = build_corpus([str(source)], make_tokenizer(tmp_path / "tokenizer"), tmp_path / "out", workers=1)
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax", "check", str(tmp_path / "out")],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["sample_sentences"] == out["audit"]["sample_sentences"]
    assert "\u4e16" in done.stdout.decode()


@pytest.mark.parametrize(
    "number", [errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EPERM, errno.ELOOP, errno.EIO, errno.ENOSPC]
)
def test_places_that_cannot_be_written_are_one_line(number, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "some/place")

    monkeypatch.setattr("data_prep.check.check", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["check", "corpus"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"error: {os.strerror(number)} at some/place; ") and said.count("\n") == 1
