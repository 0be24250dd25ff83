"""The training loop's own time a step, outside the device, beside that of Hugging Face's Trainer.

    pip install accelerate  # the Trainer asks for it
    python benchmarks/host_time.py [--corpus DIR]

In both, the step's work is replaced by a pause, in which loaders read ahead as they do while a device works; what is
left is the host's. Medians, in milliseconds, of one run:

- `ours`: by part: waiting for the batch, dispatching a program with the real one's arguments and results and nothing in
  it, taking in and writing the metrics of every step.
- `trainer`: from the end of a forward pass that only pauses to the beginning of the next, with a model of one
  parameter, with the pairs of the same corpus and transformers' DataCollatorForLanguageModeling; by its default, where
  batches are made in between, and with two processes that make them. It logs every 500 steps, as it does by default.

Without `--corpus` the quickstart's corpus is built first. Without accelerate the peer is left out.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from loader import quickstart_config, quickstart_corpus, ready

from bert_jax import cluster
from bert_jax.config import Config
from bert_jax.data.load import Loader
from bert_jax.sharding import batch_sharding, make_mesh
from data_prep.corpus import Corpus
from data_prep.tokenizer import load_tokenizer

PAUSE = 0.02  # seconds, in place of a step's work


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="by default one of Python's docstrings is built")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3, help="of every contender; the median one counts")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus.open(flags.corpus or quickstart_corpus(Path(folder)))
        config = quickstart_config(corpus)
        turns: dict[str, list[dict[str, float]]] = {"ours": []}
        trainer = importlib.util.find_spec("accelerate") is not None
        if not trainer:
            print("accelerate is not installed: transformers' Trainer is left out", file=sys.stderr)
        for _ in range(flags.turns):
            turns["ours"].append(ours(config, corpus, flags.steps))
            for workers in (0, 2) if trainer else ():
                turns.setdefault(f"trainer, {workers} workers", []).append(
                    transformers_trainer(config, corpus, flags.steps, workers, Path(folder))
                )
    result: dict[str, Any] = {
        name: sorted(taken, key=lambda parts: parts["total"])[len(taken) // 2] for name, taken in turns.items()
    }
    print(json.dumps({"milliseconds_a_step": result, "rows": config.train.global_batch_size}, indent=1))


def ours(config: Config, corpus: Corpus, steps: int) -> dict[str, float]:
    """Medians of the parts of `pretrain`'s loop around a step that does nothing."""
    step, state, batch = ready(config, corpus)
    shapes = jax.eval_shape(step, state, batch)[1]
    nothing = jax.jit(
        lambda state, batch: (state, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)),
        donate_argnums=0,
    )
    sharding = batch_sharding(make_mesh(config.mesh, jax.devices()[:1]))
    loader = Loader(config, [corpus], load_tokenizer(corpus.tokenizer_dir))
    to_devices = functools.partial(cluster.to_devices, sharding=sharding)
    batches = loader.batches(loader.start(), 0, np.arange, to_devices)
    parts: dict[str, list[float]] = {"wait_for_batch": [], "dispatch": [], "metrics": []}
    with tempfile.TemporaryFile("w") as file:
        for number in range(steps):
            marks = [time.perf_counter()]
            batch, _ = next(batches)
            marks.append(time.perf_counter())
            state, metrics = nothing(state, batch)
            marks.append(time.perf_counter())
            jax.block_until_ready(metrics)
            time.sleep(PAUSE)
            begin = time.perf_counter()
            values = {name: np.asarray(value).item() for name, value in metrics.items()}
            file.write(json.dumps({"step": number, **values}) + "\n")
            taken = [*np.diff(marks), time.perf_counter() - begin]
            if number:  # the first compiles
                for part, seconds in zip(parts.values(), taken, strict=True):
                    part.append(seconds * 1e3)
    batches.close()
    medians = {name: round(float(np.median(taken)), 3) for name, taken in parts.items()}
    return medians | {"total": round(sum(medians.values()), 3)}


def transformers_trainer(config: Config, corpus: Corpus, steps: int, workers: int, folder: Path) -> dict[str, float]:
    """The median of the Trainer's time between two forward passes."""
    import torch
    import transformers
    from pipeline_cpu import pairs

    rows, seq_len = config.train.global_batch_size, config.data.seq_len
    began: list[float] = []
    ended: list[float] = []

    class Pause(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(
            self, input_ids: Any, attention_mask: Any, token_type_ids: Any, labels: Any, next_sentence_label: Any
        ) -> dict[str, Any]:
            began.append(time.perf_counter())
            time.sleep(PAUSE)
            loss = self.weight * 2
            ended.append(time.perf_counter())
            return {"loss": loss}

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(corpus.tokenizer_dir)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=rows,
        max_steps=steps,
        dataloader_num_workers=workers,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    alone = dataclasses.replace(config, data=dataclasses.replace(config.data, packing=False))
    trainer = transformers.Trainer(
        model=Pause(),
        args=arguments,
        train_dataset=pairs(corpus, alone, rows * 100),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=seq_len),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    between = np.array(began[1:]) - np.array(ended[:-1])
    return {"total": round(float(np.median(between)) * 1e3, 3)}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
