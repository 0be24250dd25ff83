"""A training step compiled ahead of time for one TPU core that is not here: cycles a sequence, and where they go.

    python benchmarks/step_tpu_aot.py --batch 64,128 --output step_tpu_aot.json
    python benchmarks/step_tpu_aot.py --size large --seq-len 512 --batch 16 --extrapolate 2,4 --peer-batch 8,16

The real step of `pretrain` (masking, dropout 0.1, bfloat16 products, MLM and NSP, clipping, AdamW) is compiled by
libtpu (the extra `tpu`) for each batch, and the compiler's estimates are summed as `bert_jax/program_cycles.py` says.
The figure to quote is that of the best batch. The table names the dearest operations. Compiling takes minutes;
`--extrapolate 2,4` compiles so many layers only, and continues the line through both figures to the size's layers:
cycles and bytes grow by the layer, and whether a batch fits is judged by those bytes. `--extrapolate 2` compiles once,
and takes the operations of the layers, and of the optimizer on their stacked arrays, as often as the size has layers
for those that were compiled; ours only, and then nothing is said of the bytes. (By that rule two layers gave 0.3 % less
than all twelve of BERT-base at 128 positions.)

`--peer-batch` measures Hugging Face's FlaxBert beside it, by the same rules, and prints the ratio
(`benchmarks/flax_bert_aot.py` says what that needs). `--corpus` adds what a token costs that is no padding: the plans
of that corpus say how many there are a row, packed in ours, a pair a row in the peer's.
"""

import argparse
import functools
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.config_check import check
from bert_jax.program_cycles import Operation, Rates, operations
from bert_jax.topology import Topology, parse_topology

SIZES = {  # layers, hidden size
    "base": (12, 768),
    "large": (24, 1024),
}


PROGRAMS = ("ours", "flax_bert")
Program = tuple[str | None, int]  # the optimised text, None where it does not fit, and the bytes it needs


def recipe(flags: argparse.Namespace, batch: int, layers: int) -> Config:
    """The run that is measured."""
    hidden = SIZES[flags.size][1]
    model: dict[str, Any] = {
        "vocab_size": 30522,
        "hidden_size": hidden,
        "num_layers": layers,
        "num_heads": hidden // 64,
        "intermediate_size": 4 * hidden,
        "remat": flags.remat,
    }
    model |= {name: json.loads(value) for name, value in (word.split("=", 1) for word in flags.model)}
    config = Config(
        model=ModelConfig(**model),
        data=DataConfig(seq_len=flags.seq_len),
        train=TrainConfig(num_steps=1_000_000, global_batch_size=batch),
        optimizer=OptimizerConfig(warmup_steps=10_000),
        mesh=MeshConfig(1, 1, 1),
    )
    check(config)
    return config


def one_core(topology: Topology) -> tuple[Rates, int]:
    """What a core does in a cycle at most, and bytes of its memory: half of a chip's where that has two cores."""
    generation = topology.generation
    cores = generation.cores // generation.devices
    rates = Rates(generation.rates.flops / cores, generation.rates.bytes / cores)
    return rates, generation.memory // cores


def absent_core(topology: Topology) -> Any:
    """One core of a topology, as a device."""
    from bert_jax.plan_run import absent_devices

    single = topology.generation.cores > topology.generation.devices
    return absent_devices(topology, single_cores=single)[0]


def ours(flags: argparse.Namespace, device: Any, batch: int, layers: int) -> Program:
    """The step of `pretrain`."""
    from bert_jax.compiled_step import compile_step
    from bert_jax.sharding import make_mesh

    config = recipe(flags, batch, layers)
    step = compile_step(config, 0, make_mesh(config.mesh, [device]))
    return step.text, step.bytes_per_device


def flax_bert(flags: argparse.Namespace, device: Any, batch: int, layers: int) -> Program:
    """The peer's step."""
    from flax_bert_aot import compile_flax_bert

    return compile_flax_bert(layers, SIZES[flags.size][1], batch, flags.seq_len, device)


def measure(compiling: Callable[[int], Program], flags: argparse.Namespace, rates: Rates, batch: int) -> dict[str, Any]:
    """Compiles a program for some numbers of layers, continues the line where the size has more, and says the cycles.

    Args:
      compiling: layers to the program.
      flags: of the command.
      rates: of the core.
      batch: sequences a step.
    """
    wanted = flags.layers or SIZES[flags.size][0]
    counts = flags.extrapolate or [wanted]
    cycles: list[float] = []
    kernels: list[float] = []
    sizes: list[int] = []
    began = time.monotonic()
    for layers in counts:
        text, size = compiling(layers)
        if text is None:
            return {"batch": batch, "device_bytes": size, "fits": False}
        found = operations(text, rates)
        sizes.append(size)
        times = wanted / layers if len(counts) == 1 else 1.0
        totals = [operation.total * (times if of_layers(operation, layers) else 1.0) / batch for operation in found]
        cycles.append(sum(totals))
        pairs = zip(totals, found, strict=True)
        kernels.append(sum(total for total, operation in pairs if operation.opcode == "custom-call"))
        if flags.dump:
            flags.dump.write_text(text)
        if flags.top:
            print_dearest(found, batch, flags.top)
    needed = line_at(counts, sizes, wanted) if len(counts) > 1 or counts == [wanted] else None
    return {
        "batch": batch,
        "compiled_layers": counts,
        "compile_seconds": round(time.monotonic() - began, 1),
        "device_bytes": needed if needed is None else round(needed),
        "fits": needed is None or needed <= flags.memory,
        "cycles_per_sequence": round(line_at(counts, cycles, wanted)),
        "of_which_kernels": round(line_at(counts, kernels, wanted)),
    }


def of_layers(operation: Operation, layers: int) -> bool:
    """Whether an operation belongs to the stack of our layers, or to the optimizer on arrays of so many layers."""
    return "closed_call" in operation.source or re.search(rf"\[{layers},", operation.shape) is not None


def line_at(places: Sequence[int], values: Sequence[float], wanted: int) -> float:
    """What the line through the first and the last value is at `wanted`."""
    if places[0] == places[-1]:
        return values[0]
    slope = (values[-1] - values[0]) / (places[-1] - places[0])
    return values[0] + slope * (wanted - places[0])


def print_dearest(found: list[Operation], batch: int, most: int) -> None:
    """The dearest operations, those of the same source and shape together, in cycles a sequence."""
    table: dict[tuple[str, str], list[int]] = defaultdict(list)
    for operation in found:
        table[operation.source, operation.shape].append(operation.total)
    cycles = sum(operation.total for operation in found)
    print(f"{'cycles':>8} {'share':>6} {'count':>5}  shape, source", file=sys.stderr)
    for (source, shape), totals in sorted(table.items(), key=lambda item: -sum(item[1]))[:most]:
        share = 100 * sum(totals) / cycles
        line = f"{sum(totals) / batch:8.0f} {share:5.1f}% {len(totals):5}  {shape[:70]}  {source[-120:]}"
        print(line, file=sys.stderr)


def real_shares(corpus: Path, seq_len: int) -> dict[str, float]:
    """The share of positions that hold a token, packed and with one pair a row, in the plan of the first block."""
    from bert_jax.data.plan import RowSettings, plan_block
    from data_prep.corpus import Corpus

    shares = {}
    for name, packing in (("packed", True), ("pair_a_row", False)):
        settings = RowSettings.of(DataConfig(seq_len=seq_len, packing=packing), seq_len)
        plan = plan_block(Corpus.open(corpus).split("train"), settings, 0, 0, 0)
        shares[name] = round(float(plan.row_tokens.sum()) / (plan.num_rows * seq_len), 4)
    return shares


def best(results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The result with the fewest cycles of those that fit."""
    fitting = [result for result in results if result["fits"]]
    return min(fitting, key=lambda result: result["cycles_per_sequence"], default=None)


def main() -> None:
    """Prints a line a batch, and one of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="base")
    parser.add_argument("--layers", type=int, default=0, help="other than the size's, to explore")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument(
        "--batch", type=numbers, default=[64, 128], help="sequences a step; several, between commas; or none"
    )
    parser.add_argument("--peer-batch", type=numbers, default=[], help="of the peer, which is left out unless given")
    parser.add_argument("--extrapolate", type=numbers, default=[], help="numbers of layers to compile instead")
    parser.add_argument("--corpus", type=Path, help="whose rows tell what a token costs")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--device", default="v4:2x2x1", help="a slice, of which one core is used")
    parser.add_argument("--model", nargs="*", default=[], help="other fields of the model, as attention='\"einsum\"'")
    parser.add_argument("--top", type=int, default=0, help="how many of the dearest operations are shown")
    parser.add_argument("--dump", type=Path, help="a file for the optimised program's text")
    parser.add_argument("--output", type=Path, help="where to write the JSON as well")
    flags = parser.parse_args()
    topology = parse_topology(flags.device)
    os.environ.update(topology.environment)
    device = absent_core(topology)
    rates, flags.memory = one_core(topology)
    layers, hidden = SIZES[flags.size]
    told: dict[str, Any] = {"size": flags.size, "layers": flags.layers or layers, "hidden": hidden}
    told |= {"seq_len": flags.seq_len, "device": flags.device, "remat": flags.remat, "model": flags.model}
    for name, program, batches in (("ours", ours, flags.batch), ("flax_bert", flax_bert, flags.peer_batch)):
        results = []
        for batch in batches:
            compiling = functools.partial(program, flags, device, batch)
            results.append(measure(compiling, flags, rates, batch))
            print(f"{name}: {json.dumps(results[-1])}", file=sys.stderr, flush=True)
        told[name] = {"best": best(results), "all": results}
    cycles = {name: told[name]["best"]["cycles_per_sequence"] for name in PROGRAMS if told[name]["best"]}
    if len(cycles) == 2:
        told["ratio"] = round(cycles["ours"] / cycles["flax_bert"], 4)
    if flags.corpus:
        shares = real_shares(flags.corpus, flags.seq_len)
        rows = dict(zip(PROGRAMS, (shares["packed"], shares["pair_a_row"]), strict=True))
        real = {name: cycles[name] / (flags.seq_len * rows[name]) for name in cycles}
        told |= {"real_shares": shares, "cycles_per_real_token": {name: round(value) for name, value in real.items()}}
        if len(real) == 2:
            told["ratio_of_a_real_token"] = round(real["ours"] / real["flax_bert"], 4)
    print(json.dumps(told))
    if flags.output:
        flags.output.write_text(json.dumps(told, indent=1) + "\n")


def numbers(words: str) -> list[int]:
    """Whole numbers between commas; none of `none`."""
    return [] if words == "none" else [int(word) for word in words.split(",")]


if __name__ == "__main__":
    main()
