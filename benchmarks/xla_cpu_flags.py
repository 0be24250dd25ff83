"""Whether flags of XLA's CPU compiler make a training step faster: each against the compiler as it is, turn by turn.

    python benchmarks/xla_cpu_flags.py --layers 2 --rounds 6
    python benchmarks/xla_cpu_flags.py --flag xla_cpu_prefer_vector_width=512

The step of `benchmarks/step_cpu.py` in float32. A flag is given to one compilation, so all programs run in one process
and take turns. Prints medians of seconds, and of seconds of the processor (all threads), over the unchanged program's.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from step_cpu import make_batch

from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.sharding import make_mesh
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step

FLAGS = (
    "xla_cpu_enable_fast_math=True",
    "xla_cpu_enable_fast_min_max=True",
    "xla_cpu_prefer_vector_width=128",
    "xla_cpu_prefer_vector_width=512",
    "xla_cpu_enable_concurrency_optimized_scheduler=True",
    "xla_cpu_multi_thread_eigen=False",
    "xla_cpu_use_xnnpack=True",
    "xla_cpu_use_onednn=True",
)


def main() -> None:
    """Prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--flag", nargs="+", default=FLAGS, help="name=value")
    flags = parser.parse_args()
    model = ModelConfig(
        vocab_size=30522,
        hidden_size=flags.hidden,
        num_layers=flags.layers,
        num_heads=flags.hidden // 64,
        intermediate_size=4 * flags.hidden,
        dtype="float32",
    )
    config = Config(
        model=model,
        data=DataConfig(seq_len=flags.seq_len),
        train=TrainConfig(num_steps=1000, global_batch_size=flags.batch),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10),
    )
    batch = make_batch(config, flags.batch)
    steps: dict[str, Callable[[], float]] = {}
    for flag in ("none", *flags.flag):
        try:
            steps[flag] = compiled(config, batch, flag)
            steps[flag]()
        except Exception as error:  # XLA does not know the flag, or does not take the value
            print(f"{flag}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
            steps.pop(flag, None)
            continue
        print(f"{flag}: compiled", file=sys.stderr, flush=True)
    taken: dict[str, list[tuple[float, float]]] = {flag: [] for flag in steps}
    for _ in range(flags.rounds):
        for flag, step in steps.items():
            begin, used = time.perf_counter(), time.process_time()
            step()
            taken[flag].append((time.perf_counter() - begin, time.process_time() - used))
    medians = {flag: [statistics.median(column) for column in zip(*each, strict=True)] for flag, each in taken.items()}
    plain = medians["none"]
    result: dict[str, Any] = {}
    print(f"{'flag':52}{'seconds':>9}{'of the processor':>18}")
    for flag, (wall, processor) in medians.items():
        result[flag] = {"seconds": wall / plain[0], "processor": processor / plain[1]}
        print(f"{flag:52}{wall / plain[0]:9.3f}{processor / plain[1]:18.3f}")
    print(json.dumps({"step_seconds": plain[0], "over_none": result}))


def compiled(config: Config, batch: dict[str, np.ndarray], flag: str) -> Callable[[], float]:
    """Our step on one device, compiled with a flag."""
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    step = make_train_step(config, mesh, lambda batch, seed, step: batch)  # masked already
    held = {"state": create_state(config, mesh)}
    options = {} if flag == "none" else dict([flag.split("=", 1)])
    program = step.lower(held["state"], batch).compile(compiler_options=options)  # type: ignore[attr-defined]

    def run() -> float:
        held["state"], metrics = program(held["state"], batch)
        return float(metrics["loss"])

    return run


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
