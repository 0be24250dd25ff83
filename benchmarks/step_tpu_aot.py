"""A training step compiled ahead of time for one TPU core that is not here: cycles a sequence, and where they go.

    python benchmarks/step_tpu_aot.py --batch 64,128 --output step_tpu_aot.json

The real step of `pretrain` (masking, dropout 0.1, bfloat16 products, MLM and NSP, clipping, AdamW) is compiled by
libtpu (the extra `tpu`) for each batch, and the compiler's estimates are summed as `bert_jax/program_cycles.py` says.
The figure to quote is that of the best batch. The table names the dearest operations. Compiling takes minutes.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.config_check import check
from bert_jax.topology import Topology, parse_topology

SIZES = {  # layers, hidden size
    "base": (12, 768),
    "large": (24, 1024),
}


def recipe(flags: argparse.Namespace, batch: int) -> Config:
    """The run that is measured."""
    layers, hidden = SIZES[flags.size]
    model: dict[str, Any] = {
        "vocab_size": 30522,
        "hidden_size": hidden,
        "num_layers": flags.layers or layers,
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


def one_core(topology: Topology) -> Topology:
    """The topology with half a chip's rates where a chip has two cores."""
    generation = topology.generation
    cores = generation.cores // generation.devices
    shares = {"bandwidth": generation.bandwidth / cores, "memory": generation.memory // cores}
    return dataclasses.replace(topology, generation=dataclasses.replace(generation, **shares))


def kind(source: str) -> str:
    """What part of the step an operation belongs to, by its traced name."""
    backward = "backward" if "transpose(" in source else "forward"
    return f"{backward} {re.sub(r'jit[(][^)]*[)]/', '', source)[-90:]}"


def measure(flags: argparse.Namespace, topology: Topology, batch: int) -> dict[str, Any]:
    """Compiles one batch; prints the table where asked for."""
    from bert_jax.compiled_step import compile_step
    from bert_jax.plan_run import absent_devices
    from bert_jax.program_cycles import operations
    from bert_jax.sharding import make_mesh

    config = recipe(flags, batch)
    single = topology.generation.cores > topology.generation.devices
    began = time.monotonic()
    mesh = make_mesh(config.mesh, absent_devices(topology, single_cores=single)[:1])
    program = compile_step(config, 0, mesh)
    result: dict[str, Any] = {"batch": batch, "compile_seconds": round(time.monotonic() - began, 1)}
    result |= {"device_bytes": program.bytes_per_device, "fits": program.text is not None}
    if program.text is None:
        return result
    if flags.dump:
        flags.dump.write_text(program.text)
    found = operations(program.text, topology.generation.rates)
    cycles = sum(operation.total for operation in found)
    kernels = sum(operation.total for operation in found if operation.opcode == "custom-call")
    result |= {"cycles_per_sequence": round(cycles / batch), "of_which_kernels": round(kernels / batch)}
    if flags.top:
        table: dict[tuple[str, str], list[int]] = defaultdict(list)
        for operation in found:
            table[operation.source, operation.shape].append(operation.total)
        dearest = sorted(table.items(), key=lambda item: -sum(item[1]))
        print(f"{'cycles':>8} {'share':>6} {'count':>5}  shape, source", file=sys.stderr)
        for (source, shape), totals in dearest[: flags.top]:
            share = 100 * sum(totals) / cycles
            print(
                f"{sum(totals) / batch:8.0f} {share:5.1f}% {len(totals):5}  {shape[:70]}  {source[-120:]}",
                file=sys.stderr,
            )
    return result


def main() -> None:
    """Prints a line a batch, and one of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="base")
    parser.add_argument("--layers", type=int, default=0, help="other than the size's, to explore")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch", default="64,128", help="sequences a step; several, separated by commas")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--device", default="v4:2x2x1", help="a slice, of which one core is used")
    parser.add_argument("--model", nargs="*", default=[], help="other fields of the model, as attention='\"einsum\"'")
    parser.add_argument("--top", type=int, default=0, help="how many of the dearest operations are shown")
    parser.add_argument("--dump", type=Path, help="a file for the optimised program's text")
    parser.add_argument("--output", type=Path, help="where to write the JSON as well")
    flags = parser.parse_args()
    topology = parse_topology(flags.device)
    os.environ.update(topology.environment)
    topology = one_core(topology)
    results = []
    for batch in map(int, flags.batch.split(",")):
        results.append(measure(flags, topology, batch))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    measured = [result for result in results if result["fits"]]
    best = min(measured, key=lambda result: result["cycles_per_sequence"], default=None)
    layers, hidden = SIZES[flags.size]
    told = {"size": flags.size, "layers": flags.layers or layers, "hidden": hidden, "seq_len": flags.seq_len}
    told |= {"device": flags.device, "remat": flags.remat, "model": flags.model, "best": best, "all": results}
    print(json.dumps(told))
    if flags.output:
        flags.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
