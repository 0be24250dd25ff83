"""The training loop around a step: its own work, and how long the device waits for it, beside Hugging Face's Trainer.

    pip install accelerate  # the Trainer asks for it
    python benchmarks/host_time.py [--corpus DIR]

The step's work is replaced by 20 ms that need no more than one core, in which the host goes on as it does while a
device works. For each, in milliseconds a step:

- `loop_work`: processor time of the loop's own thread, on average; what other threads and processes do is not in it.
- `outside_the_device`: what a step takes on the clock beyond the work in its place, on average.

Contenders:

- `ours`: the loop of `pretrain` as it is (`bert_jax.loop.train`), with loader, ledger, watchdog, metrics.jsonl,
  TensorBoard and progress, and a program with the real step's arguments and results that only counts, for 20 ms. What
  the program takes alone is measured before: many of it one after the other, all dispatched at once. The next step is
  dispatched before a step's metrics are taken, so most of the loop's work falls into the program's time. (The program
  must not call Python: its calls would wait for the loop's thread, as a device never does.)
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
ALONE = 50  # times that the program is timed
TRIED = 10**6  # rounds of counting, to learn how many take so long


class Clock:
    """The time on the clock, and of the loop's thread, at every step."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def step(self) -> None:
        """Called by the loop's thread once a step, always at the same place."""
        self.at.append((time.perf_counter(), time.thread_time()))

    def told(self, device: float) -> dict[str, float]:
        """Milliseconds a step, see above, where the work in the step's place takes so many seconds."""
        clock, work = (1e3 * np.diff(np.array(self.at)[FIRST:], axis=0)).mean(axis=0)
        return {"loop_work": round(float(work), 3), "outside_the_device": round(float(clock) - 1e3 * device, 3)}


class CountingPrograms(Programs):
    """The programs of a run of one phase with a step that only counts, and nothing to evaluate."""

    def __init__(self, step: Any, *args: Any) -> None:
        super().__init__(*args)
        self._steps[0] = step
        self._evaluations[0] = lambda params, going_on: {"examples": 0.0}


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
        for number in range(flags.turns):
            turns["ours"].append(ours(config, corpus, flags.steps, Path(folder) / f"run-{number}"))
            for workers in (0, 2) if trainer else ():
                turns.setdefault(f"trainer, {workers} workers", []).append(
                    transformers_trainer(config, corpus, flags.steps, workers, Path(folder))
                )
    result: dict[str, Any] = {
        name: sorted(taken, key=lambda told: told["outside_the_device"])[len(taken) // 2]
        for name, taken in turns.items()
    }
    print(json.dumps({"milliseconds_a_step": result, "rows": config.train.global_batch_size}, indent=1))


def ours(config: Config, corpus: Corpus, steps: int, workdir: Path) -> dict[str, float]:
    """The loop of `pretrain` in a new run directory."""
    workdir.mkdir()
    train_config = dataclasses.replace(config.train, num_steps=steps, eval_every=0, checkpoint_every=steps)
    config = dataclasses.replace(config, train=train_config)
    step, state, batch = ready(config, corpus)
    shapes, clock = jax.eval_shape(step, state, batch)[1], Clock()

    def counting(rounds: int) -> Any:
        def work(state: Any, batch: Any) -> Any:
            # A sequence of which no term is known without the one before, so nothing is left out. The product makes it
            # a program that jax runs beside the thread that dispatches it: those that look cheap it runs within.
            square = jnp.arange(64.0 * 64).reshape(64, 64) + state.step
            first = jnp.sum(square @ square).astype(jnp.uint32)
            last = jax.lax.fori_loop(0, rounds, lambda _, x: x * 1664525 + 1013904223, first)
            over = last == 12345  # hardly ever; known only when it is over
            metrics = jax.tree.map(lambda leaf: over.astype(leaf.dtype), shapes)
            return dataclasses.replace(state, step=state.step + jnp.where(over, 0, 1)), metrics

        return jax.jit(work, donate_argnums=0)

    def alone(program: Any, state: Any) -> tuple[float, Any]:
        """Seconds that a program takes, and the state after some of it."""
        state = jax.block_until_ready(program(state, batch))[0]
        began = time.perf_counter()
        for _ in range(ALONE):
            state, _ = program(state, batch)
        jax.block_until_ready(state)
        return (time.perf_counter() - began) / ALONE, state

    seconds, state = alone(counting(TRIED), state)
    compiled = counting(round(TRIED * PAUSE / seconds))
    device, state = alone(compiled, state)
    state = dataclasses.replace(state, step=jnp.zeros_like(state.step))

    def dispatch(state: Any, batch: Any) -> Any:
        clock.step()
        return compiled(state, batch)

    mesh, tokenizer = make_mesh(config.mesh, jax.devices()[:1]), load_tokenizer(corpus.tokenizer_dir)
    programs = CountingPrograms(dispatch, config, mesh, [corpus], tokenizer, CompileCache(workdir / "compile_cache"))
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint)
    reporter = Reporter(workdir, config, [corpus], 0)
    watchdog, stop, profile = Watchdog(config.watchdog), StopSignal(), Profile(workdir / "profile")
    ledger = Ledger(Loader(config, [corpus], tokenizer).start())
    card = RunCard(workdir, config, [corpus])
    train(programs, checkpoints, reporter, card, watchdog, stop, profile, abstract_state(config), state, ledger)
    watchdog.close()
    reporter.close()
    checkpoints.close()
    return clock.told(device)


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
            clock.step()
            time.sleep(PAUSE)
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
    return clock.told(PAUSE)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
