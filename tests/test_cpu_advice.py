"""What a CPU's instructions say of the dtype of products."""

import pytest

from bert_jax.config import ModelConfig
from bert_jax.cpu_advice import dtype_advice

ZEN4 = "flags\t\t: fpu sse2 avx512f avx512_bf16 vnni\nbogomips\t: 4890.80\n"
ZEN2 = "flags\t\t: fpu sse2 avx2\n"
NEOVERSE = "Features\t: fp asimd bf16 i8mm\n"


@pytest.mark.parametrize(
    ("cpuinfo", "dtype", "hidden_size", "said"),
    [
        (ZEN4, "float32", 768, "dtype=bfloat16 is faster"),
        (NEOVERSE, "float32", 768, "dtype=bfloat16 is faster"),
        (ZEN4, "bfloat16", 768, None),
        (ZEN4, "float32", 192, None),
        (ZEN2, "bfloat16", 192, "dtype=float32 is faster"),
        (ZEN2, "float32", 768, None),
    ],
)
def test_the_faster_dtype_is_told_where_it_is_the_other_one(tmp_path, cpuinfo, dtype, hidden_size, said):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    config = ModelConfig(dtype=dtype, hidden_size=hidden_size, num_heads=hidden_size // 64)
    advice = dtype_advice(config, tmp_path / "cpuinfo")
    assert (advice is None) == (said is None) and (said or "") in (advice or "")


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    assert dtype_advice(ModelConfig(dtype="bfloat16"), tmp_path / "none") is None
