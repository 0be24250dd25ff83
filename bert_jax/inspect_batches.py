"""What the model sees at a step: the batches themselves, as text or as arrays, without training up to there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax import checkpoint
from bert_jax.config import Config
from bert_jax.data.load import Loader, Position
from bert_jax.evaluate import open_corpora
from bert_jax.masking import IGNORED, MaskSettings, make_mask_fn
from bert_jax.metrics import read_lines
from bert_jax.mixture import corpus_names
from bert_jax.reporting import POSITIONS
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.files import whole_file
from data_prep.tokenizer import Tokenizer, load_tokenizer

ARRAYS = (
    "input_ids",
    "token_type_ids",
    "position_ids",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_labels",
    "cls_positions",
    "next_sentence_labels",
)
# Beside them, where several corpora are mixed: int32 [B], which of them each row is of, as the config lists them.
CORPUS = "corpus"


def batches(
    config: Config, run: Path | None, step: int, count: int, unskipped: bool = False
) -> tuple[list[dict[str, np.ndarray]], Tokenizer]:
    """The batches of steps `step` to `step + count - 1`, masked as the model gets them, and their tokenizer. Of a
    mixture of corpora each has the array `CORPUS`, too.

    Args:
      config: of the run or recipe.
      run: its directory, whose log of positions spares counting from the start; or None.
      step, count: which steps.
      unskipped: as if the run had never gone back and passed over rows: shows those rows where they first stood.

    Raises:
      InputError: steps outside the run, or steps of phases with rows of different lengths.
    """
    return _batches(config, _open(config, step, count), run, step, count, unskipped)


def _open(config: Config, step: int, count: int) -> list[Corpus]:
    """The corpora, once the steps are known to be the run's."""
    total = config.num_steps()
    if step < 0 or count < 1 or step + count > total:
        raise InputError(f"--step {step} --steps {count} is outside the run, whose steps are 0 to {total - 1}")
    return open_corpora(config)


def _batches(
    config: Config, corpora: list[Corpus], run: Path | None, step: int, count: int, unskipped: bool
) -> tuple[list[dict[str, np.ndarray]], Tokenizer]:
    tokenizer = load_tokenizer(corpora[0].tokenizer_dir)
    loader = Loader(config, corpora, tokenizer)
    at, position = _nearest_position(run, step, loader.start(), unskipped)
    found = []
    seq_lens = set()
    for current in range(at, step + count):
        if current < step:
            position = loader.skip(position, current)
            continue
        phase = config.phases()[loader.enter(position, current).phase]
        arrays, position = loader.batch(position, current, np.arange(phase.global_batch_size))
        mask_fn = make_mask_fn(MaskSettings.of(config.data, phase.seq_len, tokenizer))
        masked = jax.jit(mask_fn)(arrays, config.seed, np.int32(current))
        found.append({name: np.asarray(masked[name]) for name in ARRAYS})
        if len(corpora) > 1:
            found[-1][CORPUS] = loader.owners(current, phase.global_batch_size).astype(np.int32)
        seq_lens.add((phase.seq_len, phase.global_batch_size))
    if len(seq_lens) > 1:
        raise InputError(f"steps {step} to {step + count - 1} cross from one phase to the next; inspect them apart")
    return found, tokenizer


def _nearest_position(run: Path | None, step: int, start: Position, unskipped: bool) -> tuple[int, Position]:
    log = run / POSITIONS if run is not None else None
    lines = read_lines(log) if log is not None and log.exists() else []
    if unskipped:  # until rows were first passed over, every position is what it would have been
        until = min((first for line in lines for first, _ in line["position"].get("skip", [])), default=step)
        lines = [
            {"step": line["step"], "position": line["position"] | {"skip": []}}
            for line in lines
            if line["step"] <= until
        ]
    known = [line for line in lines if line["step"] <= step]
    if not known:
        return 0, start
    last = max(reversed(known), key=lambda line: line["step"])  # of several the last: the run went back there
    return last["step"], Position.from_json(last["position"])


def as_text(batch: dict[str, np.ndarray], step: int, tokenizer: Tokenizer, names: Sequence[str] = ()) -> str:
    """A batch as people read it: every example apart, a predicted token as `[MASK→word]` or `seen→word`; with the
    corpus of a row where several are mixed, whose `names` are given.
    """
    lines = []
    for row in range(len(batch["input_ids"])):
        segments = batch["segment_ids"][row]
        padding = int((segments == 0).sum())
        corpus = f"  corpus {names[batch[CORPUS][row]]}" if CORPUS in batch else ""
        lines.append(f"── step {step}  row {row}{corpus}  {segments.max()} example(s), {padding} padding")
        labels = batch["masked_lm_labels"][row]
        targets = dict(
            zip(batch["masked_lm_positions"][row][labels != IGNORED], labels[labels != IGNORED], strict=True)
        )
        tokens = tokenizer.tokens(batch["input_ids"][row].tolist())
        for example in range(1, segments.max() + 1):
            label = int(batch["next_sentence_labels"][row][example - 1])
            named = {0: "next", 1: "random", IGNORED: "single"}[label]
            words = []
            for place in np.flatnonzero(segments == example):
                word = tokens[place]
                if place in targets:
                    right = tokenizer.tokens([int(targets[place])])[0]
                    word = f"{word.rstrip(']')}→{right}]" if word == "[MASK]" else f"{word}→{right}"
                words.append(word)
            lines.append(f"  {example} ({named})  {' '.join(words)}")
    return "\n".join(lines)


def stacked(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Batches stacked: int32 [N, B, S], [N, B, P] and [N, B, K]; and `CORPUS` [N, B] of a mixture."""
    return {name: np.stack([batch[name] for batch in found]).astype(np.int32) for name in found[0]}


def inspect(
    config: Config | None, run: Path | None, step: int, count: int, npz: str | None, unskipped: bool = False
) -> Any:
    """What `bert-jax inspect` does: the text to print, or None once the arrays are written."""
    if config is None:
        assert run is not None
        config = checkpoint.read_config(run)
    corpora = _open(config, step, count)
    found, tokenizer = _batches(config, corpora, run, step, count, unskipped)
    if npz is None:
        names = corpus_names(corpora)
        return "\n".join(as_text(batch, step + i, tokenizer, names) for i, batch in enumerate(found))
    with whole_file(Path(npz)) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **stacked(found))
    return None
