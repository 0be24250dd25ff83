"""What a run writes down: metrics.jsonl, TensorBoard, throughput and model FLOP utilisation."""

import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from bert_jax.config import Config

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"

# Peak dense bfloat16 FLOP/s of a device as jax counts devices (of v2, v3, 7 and 7x a core, half a chip), as read in
# November 2026: Google's pages "TPU v3" to "TPU v6e" (docs.cloud.google.com/tpu/docs); v2 180 TFLOP/s for its board
# of 4 chips, by hearsay; v4 lite, 7 and 7x as jax 0.10 has them for its kernels (`tpu_info.py`), where all names
# stand that it gives TPUs; A100, H100 SXM (H200 computes alike) and H100 PCIe by copies of NVIDIA's tables, half of
# what those give "with sparsity".
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4 lite": 137e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7": 1155e12,
    "TPU7x": 1155e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
}


def step_flops(config: Config, seq_len: int, rows: int, predictions: int, examples: int) -> float:
    """Floating point operations of the matrix products of one training step, forward and backward.

    Counts what the model needs, not what rematerialisation repeats: 2 a multiply-add, times 3 for the two products of
    the backward pass (Kaplan et al., 2020; attention as in Chowdhery et al., 2022).

    Args:
      config: the run's, with the vocabulary's size in it.
      seq_len, rows: S and B.
      predictions, examples: slots a row, P and K.
    """
    model = config.model
    hidden = model.hidden_size
    token = model.num_layers * (4 * hidden * hidden + 2 * hidden * model.intermediate_size + 2 * seq_len * hidden)
    if model.word_size != hidden:  # of embeddings
        token += model.word_size * hidden
    prediction = hidden * model.word_size + model.word_size * model.padded_vocab_size
    example = hidden * hidden + 2 * hidden if config.data.objective != "mlm" else 0
    return 6.0 * rows * (seq_len * token + predictions * prediction + examples * example)


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device kind as jax names it, None where unknown (a CPU's depends on its clock)."""
    if device_kind.startswith("TPU"):  # "TPU v5", "TPU v5e": the beginning of a name is another chip's
        return PEAK_FLOPS.get(device_kind)
    matching = [kind for kind in PEAK_FLOPS if device_kind.startswith(kind)]  # "NVIDIA H100 80GB HBM3"
    return PEAK_FLOPS[max(matching, key=len)] if matching else None


class MetricsFile:
    """`metrics.jsonl`, a line a logged step, and the same in TensorBoard. One process of a run writes them.

    Args:
      workdir: the run directory.
      updates: what the restored checkpoint has behind it; later lines are cut, so that the file goes on like an
        uninterrupted run's.
    """

    def __init__(self, workdir: Path, updates: int):
        path = workdir / METRICS
        cut_lines(path, updates)
        self._file = path.open("a")
        self._board = _Board(workdir / TENSORBOARD, updates)

    def write(self, line: dict[str, Any]) -> None:
        """Writes a line, whose `step` is the step, to both places.

        Raises:
          OSError: the disk is full, say.
        """
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        scalars = {name: value for name, value in line.items() if name != "step" and value is not None}
        self._board.write(
            line["step"], {name if "/" in name else f"train/{name}": value for name, value in scalars.items()}
        )

    def close(self) -> None:
        """Closes both."""
        try:
            self._file.close()
        finally:
            self._board.close()


class _Board:
    """TensorBoard's file, every event written when it comes.

    tensorboardX's own writer has a thread and a queue: when the disk is full the thread dies and the queue blocks.

    Args:
      folder: of the run's files, of which each start adds one.
      updates: of what earlier files say, TensorBoard hides the steps from this one on.
    """

    def __init__(self, folder: Path, updates: int):
        self._tensorboard = _tensorboard()
        folder.mkdir(exist_ok=True)
        # Appended to: another start within the same second has the same name.
        self._file = (folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}").open("ab")
        proto = self._tensorboard.proto.event_pb2
        self._add(proto.Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = proto.SessionLog(status=proto.SessionLog.START)
        self._add(proto.Event(wall_time=time.time(), step=updates, session_log=start))
        self._file.flush()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the values of a step, by their tags."""
        for tag, value in scalars.items():
            summary = self._tensorboard.summary.scalar(tag, value)
            self._add(self._tensorboard.proto.event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._file.flush()

    def _add(self, event: Any) -> None:
        """As a TFRecord: the length, the bytes, and after each its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        for part in (length, content):
            self._file.write(part + struct.pack("<I", self._tensorboard.record_writer.masked_crc32c(part)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _tensorboard() -> Any:
    """tensorboardX, imported here because it is slow to import and only training needs it.

    Where PyTorch is installed, it would import all of that too, for tensors that it is never given.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
        import tensorboardX.proto.event_pb2
        import tensorboardX.record_writer
        import tensorboardX.summary
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


def cut_lines(path: Path, updates: int) -> None:
    """Cuts what is about later steps: keeps the lines of steps below `updates`, and the evaluations made with at most
    `updates` updates.

    Lines stand in order, so only the end of the file is read, however long the run has been.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        tail, begin = b"", end
        while True:  # `tail` is the file from `begin` on
            first = 0 if begin == 0 else tail.find(b"\n") + 1  # a line may begin before `begin`
            keep = _kept(tail[first:], updates)
            if keep or begin == 0:
                file.truncate(begin + first + keep)
                return
            size = min(begin, max(2**16, len(tail)))
            begin -= size
            file.seek(begin)
            tail = file.read(size) + tail


def _kept(text: bytes, updates: int) -> int:
    """How many bytes of whole lines stay."""
    kept = 0
    for part in text.splitlines(keepends=True):
        try:
            line = json.loads(part)
        except ValueError:
            break  # the last line of a killed run
        limit = updates + 1 if is_evaluation(line) else updates
        if line["step"] >= limit or not part.endswith(b"\n"):
            break
        kept += len(part)
    return kept


def is_evaluation(line: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is about held-out data."""
    return any(name.startswith("eval/") for name in line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a killed run left half-written is passed over."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class Progress:
    """A line on stderr: redrawn where stderr is a terminal, else a new one at most every `every` seconds."""

    def __init__(self, every: float = 10.0):
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else every
        self._last = 0.0

    def show(self, text: str, last: bool = False) -> None:
        """Shows the text if it is time, or the last time."""
        now = time.monotonic()
        if now - self._last < self._every and not last:
            return
        self._last = now
        ending = "\n" if last or not self._terminal else ""
        sys.stderr.write(f"\r\x1b[K{text}{ending}" if self._terminal else f"{text}\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds as people say them: 45s, 3m20s, 2h05m."""
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
