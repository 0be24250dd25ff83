"""Whether flags of XLA's CPU compiler make a training step faster: each against the compiler as it is, turn by turn.

    python benchmarks/xla_cpu_flags.py --layers 2 --rounds 6
    python benchmarks/xla_cpu_flags.py --flag xla_cpu_prefer_vector_width=512

The step of `benchmarks/step_cpu.py` in float32; like that it needs the extra `hf`. A flag is given to one compilation,
so all programs run in one process and take turns. Prints medians of seconds, and of seconds of the processor (all
threads), over the unchanged program's.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

import jax
from step_cpu import Step, add_sizes, make_batch, ours, recipe

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
    add_sizes(parser)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--flag", nargs="+", default=FLAGS, help="name=value")
    flags = parser.parse_args()
    config = recipe(flags)
    batch = make_batch(config, flags.batch)
    steps: dict[str, Step] = {}
    for flag in ("none", *flags.flag):
        try:
            step = ours(config, batch, {} if flag == "none" else dict([flag.split("=", 1)]))
            step()
        except Exception as error:  # XLA does not know the flag, or does not take the value
            print(f"{flag}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
            continue
        steps[flag] = step
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


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
