"""What is written down, and what a resumed run cuts."""

import dataclasses
import errno
import json
import resource
import signal
import struct

import jax
import pytest
import small_bert

from bert_jax.compiled_step import abstract_arguments, jitted_step
from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, max_predictions
from bert_jax.data.settings import RowSettings
from bert_jax.metrics import MetricsFile, cut_lines, duration, peak_flops, read_lines, step_flops
from bert_jax.sharding import make_mesh


def test_a_resumed_run_cuts_what_comes_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 0}, {"step": 1}, {"step": 2, "eval/mlm_loss": 1.0}, {"step": 2}, {"step": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    cut_lines(path, 2)
    assert read_lines(path) == lines[:3]


def test_lines_keep_every_digit(tmp_path):
    writer = MetricsFile(tmp_path, 0)
    writer.write({"step": 0, "loss": 0.1 + 0.2, "mfu": None})
    writer.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 0.1 + 0.2, "mfu": None}]
    assert any((tmp_path / "tensorboard").iterdir())


def events(folder):
    """(step, tag, value) of the scalars in TensorBoard's files, and the steps from which something is cut."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars, cuts = [], []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            if event.session_log.status == SessionLog.START:
                cuts.append(event.step)
    return scalars, cuts


def test_tensorboard_has_each_line_as_soon_as_it_is_written_also_of_a_second_start(tmp_path):
    writer = MetricsFile(tmp_path, 0)
    writer.write({"step": 0, "loss": 0.5, "mfu": None})
    writer.write({"step": 1, "eval/mlm_loss": 0.25})
    first = [(0, "train/loss", 0.5), (1, "eval/mlm_loss", 0.25)]
    assert events(tmp_path / "tensorboard") == (first, [0])
    writer.close()
    again = MetricsFile(tmp_path, 1)  # within the same second: the file may be the same
    again.write({"step": 1, "loss": 0.125})
    assert events(tmp_path / "tensorboard") == ([*first, (1, "train/loss", 0.125)], [0, 1])
    again.close()


def test_a_disk_that_is_full_for_tensorboard_is_told_at_once(tmp_path):
    writer = MetricsFile(tmp_path, 0)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
        with pytest.raises(OSError) as caught:
            for step in range(60):  # a tenth of the limit in metrics.jsonl, several times the limit in TensorBoard's
                writer.write({"step": step} | {f"n{i}": 1 for i in range(10)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG and (tmp_path / "metrics.jsonl").stat().st_size < 6000
    writer.close()


def test_flops_equal_a_sum_over_the_matrix_products():
    model = ModelConfig(hidden_size=8, num_layers=3, num_heads=2, intermediate_size=20, vocab_size=100)
    rows, seq_len, predictions, examples = 5, 16, 3, 2
    d, f, s, v = 8, 20, seq_len, 128
    products = []  # (m, k, n) of every matrix product of a row's forward pass
    for _ in range(3):
        products += [(s, d, d)] * 4 + [(s, d, f), (s, f, d)]
        products += [(s, 4, s), (s, s, 4)] * 2  # two heads
    products += [(predictions, d, d), (predictions, d, v), (examples, d, d), (examples, d, 2)]
    forward = rows * sum(2 * m * k * n for m, k, n in products)
    config = Config(model=model, data=DataConfig(objective="nsp"))
    assert step_flops(config, seq_len, rows, predictions, examples) == 3 * forward
    narrow = dataclasses.replace(model, family="electra", embedding_size=4)
    config = Config(model=narrow, data=DataConfig(objective="nsp"))
    products[-4:-2] = [(predictions, d, 4), (predictions, 4, v)]
    products += [(s, 4, d)]  # of embeddings
    forward = rows * sum(2 * m * k * n for m, k, n in products)
    assert step_flops(config, seq_len, rows, predictions, examples) == 3 * forward


def test_peak_flops_by_the_name_that_jax_gives():
    assert peak_flops("TPU v4") == 275e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5p") == peak_flops("TPU v5") == 459e12
    assert peak_flops("TPU v5e") == 197e12
    assert peak_flops("TPU v6e") == peak_flops("TPU v6 lite") == 918e12
    assert peak_flops("TPU v4 lite") == 137e12
    assert peak_flops("TPU7x") == 1155e12  # a core: jax sees each of a chip's two
    assert peak_flops("TPU v9") is None and peak_flops("TPU v5x") is None
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("cpu") is None


def test_durations_read_well():
    assert [duration(seconds) for seconds in (5.9, 60, 3599, 7500)] == ["5s", "1m00s", "59m59s", "2h05m"]


@pytest.mark.parametrize("updates", [0, 1, 7000, 19_999, 20_000, 30_000])
def test_cutting_keeps_exactly_the_lines_before_in_a_long_file_as_well(tmp_path, updates):
    path = tmp_path / "metrics.jsonl"
    lines = []
    for step in range(20_000):
        if step % 100 == 0:
            lines.append({"step": step, "eval/mlm_loss": 1.0})
        lines.append({"step": step, "loss": 1.0 / 3})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 20000, "lo')
    cut_lines(path, updates)
    expected = [line for line in lines if line["step"] < updates + ("loss" not in line)]
    assert path.read_text() == "".join(json.dumps(line) + "\n" for line in expected)


def test_flops_are_what_the_compiler_counts_of_a_step():
    sizes = {"hidden_size": 512, "num_heads": 8, "intermediate_size": 2048, "vocab_size": 5000}
    config = small_bert.run_config(rows=32, layers="unroll", max_position_embeddings=128, **sizes)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=128))
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    counted = jitted_step(config, 0, mesh).lower(*abstract_arguments(config, 0, mesh)).cost_analysis()["flops"]
    examples = RowSettings.of(config.data, 128).max_examples
    formula = step_flops(config, 128, 32, max_predictions(config.data, 128), examples)
    # The compiler counts everything else too: norms, softmax, dropout's hash, the optimizer.
    assert 1.0 <= counted / formula < 1.1, counted / formula
