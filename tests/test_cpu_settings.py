"""Long work on CPUs sets a flag of XLA's, and asks for huge pages by starting again as the same command."""

import os
import re
import subprocess
import sys

import pytest
from compiling import QUICK

from bert_jax.cpu_settings import wanted

ON_ADVICE, ALWAYS = "always [madvise] never\n", "[always] madvise never\n"
CPU = {"JAX_PLATFORMS": "cpu"}
FUSION = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true"
FLAG, PAGES = {"XLA_FLAGS": FUSION}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    ("words", "environment", "enabled", "expected"),
    [
        (["pretrain", "--config", "x.py"], CPU, ON_ADVICE, FLAG | PAGES),
        (["finetune"], CPU, ON_ADVICE, FLAG | PAGES),
        (["build"], CPU, ON_ADVICE, {}),
        ([], CPU, ON_ADVICE, {}),
        (["pretrain"], CPU, ALWAYS, FLAG),  # all have huge pages
        (["pretrain"], {"JAX_PLATFORMS": "cuda,cpu"}, ON_ADVICE, {}),
        (["pretrain"], CPU | {"GLIBC_TUNABLES": "glibc.malloc.check=1"}, ON_ADVICE, FLAG),
        (["pretrain"], CPU | {"XLA_FLAGS": "--a=b"}, ALWAYS, {"XLA_FLAGS": f"--a=b {FUSION}"}),
        (["pretrain"], CPU | {"XLA_FLAGS": "--xla_backend_extra_options=a=b"}, ON_ADVICE, PAGES),
        (["pretrain"], CPU | FLAG | PAGES, ON_ADVICE, {}),  # so it starts again once
    ],
)
def test_who_gets_what(tmp_path, words, environment, enabled, expected):
    (tmp_path / "enabled").write_text(enabled)
    assert wanted(words, environment, tmp_path / "enabled") == expected


def test_no_huge_pages_where_linux_does_not_tell(tmp_path):
    assert wanted(["pretrain"], CPU, tmp_path / "none") == FLAG


def test_an_accelerator_that_may_be_there_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "enabled").write_text(ON_ADVICE)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wanted(["pretrain"], {}, tmp_path / "enabled") == FLAG | PAGES
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "libtpu" or None)
    assert wanted(["pretrain"], {}, tmp_path / "enabled") == {}


def in_another_process(code, **environment):
    """What Python prints."""
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]} | environment
    words = [sys.executable, "-c", code, "pretrain", "--flag=a b"]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout


def test_the_same_command_starts_again_once():
    """With its own words, in the same process."""
    code = (
        "import os, sys\n"
        "from bert_jax import cpu_settings\n"
        "print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        f"if 'GLIBC_TUNABLES' not in os.environ: cpu_settings.take({PAGES})\n"
    )
    first, second = in_another_process(code).splitlines()
    assert first.endswith("['pretrain', '--flag=a b'] None")
    assert second == first.removesuffix("None") + "glibc.malloc.hugetlb=1"


STEP = """
import jax
from bert_jax.compiled_step import abstract_arguments, jitted_step
from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig
from bert_jax.sharding import make_mesh

model = ModelConfig(vocab_size=1024, hidden_size=64, num_layers=1, num_heads=1, intermediate_size=128)
config = Config(model=model, data=DataConfig(seq_len=32), train=TrainConfig(num_steps=1, global_batch_size=4))
mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices())
print(jitted_step(config, 0, mesh).lower(*abstract_arguments(config, 0, mesh)).compile().as_text())
"""


def test_an_update_copies_no_moments():
    """The flag is one that XLA knows: of the table's two moments there were two copies."""
    copies = re.compile(r"= f32\[1024,64\]\S* copy\(")
    environment = CPU | {"XLA_FLAGS": QUICK}
    assert len(copies.findall(in_another_process(STEP, **environment))) == 2
    environment |= wanted(["pretrain"], environment)
    assert not copies.findall(in_another_process(STEP, **environment))
