"""Gates: what passes, what fails and how it is said; the command's exit codes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from small_corpora import make_tokenizer, write_jsonl

from data_prep.build import build_corpus
from data_prep.errors import InputError
from data_prep.gates import GATES, failure

AUDIT = {
    "documents_in": 200,
    "documents_kept": 100,
    "tokens": 5000,
    "dropped": {"duplicate": 30, "near duplicate": 20, "leak": 50},
    "unknown_share": 0.02,
    "one_sentence_documents": 25,
    "duplicated_lines_share": 0.125,
    "trivial_negatives": {"script": 0.1, "source": 0.5, "script_or_source": 0.55},
    "scripts": {"Latin": 0.75, "Han": 0.25},
}
VALUES = {
    "max-unknown": 0.02,
    "max-duplicates": 0.25,
    "max-dropped": 0.5,
    "max-duplicated-lines": 0.125,
    "max-one-sentence": 0.25,
    "max-trivial-negatives": 0.55,
    "max-foreign-script": 0.25,
    "min-documents": 100,
    "min-tokens": 5000,
}


def test_every_gate_has_its_value_here():
    assert {gate.name for gate in GATES} == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_a_gate_holds_its_limit(name):
    value = VALUES[name]
    assert failure(AUDIT, {name: value}) is None
    tighter = value * (0.9 if name.startswith("max") else 1.1)
    said = failure(AUDIT, {name: tighter})
    assert said and said.startswith(f"--{name}: ") and "\n" not in said
    assert f"is {value:.6g}, the limit is {tighter:.6g}" in said


def test_all_that_fail_are_said_in_one_line():
    said = failure(AUDIT, {"max-unknown": 0.0, "min-tokens": 9000, "max-dropped": 1.0})
    assert said and said.count("--") == 2 and "\n" not in said


def test_limits_and_audits_that_cannot_be():
    for name, limit in (("max-unknown", 1.5), ("max-unknown", -0.1), ("max-unknown", math.nan), ("min-tokens", -1)):
        with pytest.raises(InputError, match=f"--{name} is"):
            failure(AUDIT, {name: limit})
    old = {name: value for name, value in AUDIT.items() if name != "scripts"}
    with pytest.raises(InputError, match="older version"):
        failure(old, {"max-foreign-script": 0.1})
    assert failure(old, {"max-unknown": 0.1}) is None


def test_exit_codes(tmp_path):
    source = str(write_jsonl(tmp_path / "in.jsonl", ["The house.", "The house.", "\u4e2d river. Walk."]))
    build_corpus([source], make_tokenizer(tmp_path / "tokenizer"), tmp_path / "out", workers=1)

    def check(*options):
        command = [sys.executable, "-m", "bert_jax", "check", str(tmp_path / "out"), *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])

    done = check("--max-duplicates", "0.34", "--min-documents", "2")
    assert done.returncode == 0 and not done.stderr and json.loads(done.stdout)["documents_kept"] == 2
    done = check("--max-duplicates", "0.3", "--min-documents", "2")
    assert done.returncode == 1 and json.loads(done.stdout)["documents_kept"] == 2
    assert done.stderr.startswith("error: --max-duplicates: ") and done.stderr.count("\n") == 1
    assert check("--max-unknown", "7").returncode == check("--max-unknown", "nan").returncode == 2
