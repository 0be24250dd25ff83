"""Long work on CPUs asks for huge pages, by starting again as the same command."""

import subprocess
import sys

import pytest

from bert_jax.huge_pages import wanted

ON_ADVICE, ALWAYS = "always [madvise] never\n", "[always] madvise never\n"
CPU = {"JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize(
    ("words", "environment", "enabled", "expected"),
    [
        (["pretrain", "--config", "x.py"], CPU, ON_ADVICE, True),
        (["finetune"], CPU, ON_ADVICE, True),
        (["build"], CPU, ON_ADVICE, False),
        ([], CPU, ON_ADVICE, False),
        (["pretrain"], CPU, ALWAYS, False),  # all have them
        (["pretrain"], {"JAX_PLATFORMS": "cuda,cpu"}, ON_ADVICE, False),
        (["pretrain"], CPU | {"GLIBC_TUNABLES": "glibc.malloc.check=1"}, ON_ADVICE, False),
    ],
)
def test_who_asks_for_them(tmp_path, words, environment, enabled, expected):
    (tmp_path / "enabled").write_text(enabled)
    assert wanted(words, environment, tmp_path / "enabled") == expected


def test_nobody_where_linux_does_not_tell(tmp_path):
    assert not wanted(["pretrain"], CPU, tmp_path / "none")


def test_an_accelerator_that_may_be_there_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "enabled").write_text(ON_ADVICE)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wanted(["pretrain"], {}, tmp_path / "enabled")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "libtpu" or None)
    assert not wanted(["pretrain"], {}, tmp_path / "enabled")


def test_the_same_command_starts_again_once():
    """With its own words, in the same process."""
    code = (
        "import os, sys\n"
        "from bert_jax import huge_pages\n"
        "print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        "if 'GLIBC_TUNABLES' not in os.environ: huge_pages.start_again()\n"
    )
    words = [sys.executable, "-c", code, "pretrain", "--flag=a b"]
    done = subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}, check=True)
    first, second = done.stdout.splitlines()
    assert first.endswith("['pretrain', '--flag=a b'] None")
    assert second == first.removesuffix("None") + "glibc.malloc.hugetlb=1"
