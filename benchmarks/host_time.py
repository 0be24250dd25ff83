"""The training loop around a step: its own work, and how long the device waits for it, beside Hugging Face's Trainer.

    pip install accelerate  # the Trainer asks for it
    python benchmarks/host_time.py [--corpus DIR]

The step's work is replaced by a pause of 20 ms, in which the host goes on as it does while a device works. For each, in
milliseconds a step:

- `loop_work`: processor time of the loop's own thread, on average; what other threads and processes do is not in it.
- `device_waits`: from the end of one pause to the beginning of the next, the median, and the 95th percentile.

Contenders:

- `ours`: the loop of `pretrain` as it is (`bert_jax.loop.train`), with loader, ledger, watchdog, metrics.jsonl,
  TensorBoard and progress, and a program with the real step's arguments and results that only pauses. The next step is
  dispatched before a step's metrics are taken, so most of the work falls into pauses.
- `trainer`: with a model of one parameter whose forward pass only pauses, the pairs of the same corpus and
  transformers' DataCollatorForLanguageModeling; by its default, where batches are made in between, and with two
  processes that make them. It logs every 500 steps, as it does by default. Its pause holds up its thread, as a step on
  the CPU does; on a GPU, PyTorch would queue work, and a part of what is between two forward passes would not be waited
  for.

Without `--corpus` the quickstart's corpus is built first. Without accelerate the peer is left out.
"""

import argparse
import dataclasses
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

from bert_jax.compile_cache import CompileCache
from bert_jax.config import Config
from bert_jax.data.load import Loader
from bert_jax.ledger import Ledger
from bert_jax.loop import Programs, train
from bert_jax.profiling import Profile
from bert_jax.reporting import Reporter
from bert_jax.run_checkpoints import Checkpoints
from bert_jax.run_directory import RunCard
from bert_jax.sharding import make_mesh
from bert_jax.stopping import StopSignal
from bert_jax.train_state import abstract_state
from bert_jax.watchdog import Watchdog
from data_prep.corpus import Corpus
from data_prep.tokenizer import load_tokenizer

PAUSE = 0.02  # seconds, in place of a step's work
FIRST = 10  # steps that do not count: the first compiles, and loaders start


class Clock:
    """When pauses began and ended, and the processor time that the loop's thread had used when it dispatched each."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []
        self.used: list[float] = []

    def pause(self) -> None:
        """The work of a step."""
        self.began.append(time.perf_counter())
        time.sleep(PAUSE)
        self.ended.append(time.perf_counter())

    def told(self) -> dict[str, float]:
        """Milliseconds a step, see above."""
        waits = (np.array(self.began[1:]) - np.array(self.ended[:-1]))[FIRST:] * 1e3
        work = np.diff(self.used)[FIRST:] * 1e3
        return {
            "loop_work": round(float(work.mean()), 3),
            "device_waits": round(float(np.median(waits)), 3),
            "device_waits_95th": round(float(np.percentile(waits, 95)), 3),
        }


class PausingPrograms(Programs):
    """The programs of a run of one phase with a step that only pauses, and nothing to evaluate."""

    def __init__(self, step: Any, *args: Any) -> None:
        super().__init__(*args)
        self._steps[0] = step
        self._evaluations[0] = lambda params, going_on: {"examples": 0.0}


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="by default one of Python's docstrings is built")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3, help="of every contender; the one with the median wait counts")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus.open(flags.corpus or quickstart_corpus(Path(folder)))
        config = quickstart_config(corpus)
        turns: dict[str, list[dict[str, float]]] = {"ours": []}
        trainer = importlib.util.find_spec("accelerate") is not None
        if not trainer:
            print("accelerate is not installed: transformers' Trainer is left out", file=sys.stderr)
        for number in range(flags.turns):
            turns["ours"].append(ours(config, corpus, flags.steps, Path(folder) / f"run-{number}"))
            for workers in (0, 2) if trainer else ():
                turns.setdefault(f"trainer, {workers} workers", []).append(
                    transformers_trainer(config, corpus, flags.steps, workers, Path(folder))
                )
    result: dict[str, Any] = {
        name: sorted(taken, key=lambda told: told["device_waits"])[len(taken) // 2] for name, taken in turns.items()
    }
    print(json.dumps({"milliseconds_a_step": result, "rows": config.train.global_batch_size}, indent=1))


def ours(config: Config, corpus: Corpus, steps: int, workdir: Path) -> dict[str, float]:
    """The loop of `pretrain` in a new run directory."""
    workdir.mkdir()
    train_config = dataclasses.replace(config.train, num_steps=steps, eval_every=0, checkpoint_every=steps)
    config = dataclasses.replace(config, train=train_config)
    step, state, batch = ready(config, corpus)
    shapes, clock = jax.eval_shape(step, state, batch)[1], Clock()

    def work(number: Any) -> Any:
        clock.pause()
        return number

    def pausing(state: Any, batch: Any) -> Any:
        done = jax.pure_callback(work, jax.ShapeDtypeStruct((), jnp.int32), state.step)
        metrics = jax.tree.map(
            lambda leaf: jnp.where(done < 0, 1, 0).astype(leaf.dtype), shapes
        )  # only when it is over
        return dataclasses.replace(state, step=done + 1), metrics

    compiled = jax.jit(pausing, donate_argnums=0)

    def dispatch(state: Any, batch: Any) -> Any:
        clock.used.append(time.thread_time())
        return compiled(state, batch)

    mesh, tokenizer = make_mesh(config.mesh, jax.devices()[:1]), load_tokenizer(corpus.tokenizer_dir)
    programs = PausingPrograms(dispatch, config, mesh, [corpus], tokenizer, CompileCache(workdir / "compile_cache"))
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint)
    reporter = Reporter(workdir, config, [corpus], 0)
    watchdog, stop, profile = Watchdog(config.watchdog), StopSignal(), Profile(workdir / "profile")
    ledger = Ledger(Loader(config, [corpus], tokenizer).start())
    card = RunCard(workdir, config, [corpus])
    train(programs, checkpoints, reporter, card, watchdog, stop, profile, abstract_state(config), state, ledger)
    watchdog.close()
    reporter.close()
    checkpoints.close()
    return clock.told()


def transformers_trainer(config: Config, corpus: Corpus, steps: int, workers: int, folder: Path) -> dict[str, float]:
    """The Trainer, whose forward pass pauses."""
    import torch
    import transformers
    from pipeline_cpu import pairs

    rows, seq_len = config.train.global_batch_size, config.data.seq_len
    clock = Clock()

    class Pause(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(
            self, input_ids: Any, attention_mask: Any, token_type_ids: Any, labels: Any, next_sentence_label: Any
        ) -> dict[str, Any]:
            clock.used.append(time.thread_time())
            clock.pause()
            return {"loss": self.weight * 2}

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
    return clock.told()


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
