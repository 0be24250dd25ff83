"""Weak scaling as the compiled step predicts it: 1 to 1,024 chips with as many rows each, against perfect scaling.

    pip install 'bert-jax[tpu]'
    python benchmarks/scaling.py [--config configs/bert_base.py] [--rows 64] [--seq-len 128] [--mesh data|fsdp]

Every size is compiled for a TPU v4 of that many chips, none of which is here. Computing is the compiler's cycles;
communication is what the program's collective operations send over the rings of the interconnect. Prints a table and
one JSON object: for each size seconds of computing and of communication a step, and the efficiency (time on one chip
over time on n) as the program overlaps them, and if nothing overlapped. An estimate; not compared with real chips.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_jax.topology import parse_topology

SHAPES = {1: "2x2x1", 4: "2x2x1", 16: "2x2x4", 64: "4x4x4", 256: "4x8x8", 1024: "8x8x16"}
os.environ.update(parse_topology(f"v4:{SHAPES[1]}").environment)  # before jax meets a device

from bert_jax.collectives import collectives
from bert_jax.compiled_step import compile_step
from bert_jax.config import MeshConfig, PhaseConfig
from bert_jax.config_file import load
from bert_jax.plan_run import absent_devices, communication_seconds, computing_seconds, planned_vocabulary
from bert_jax.sharding import check_mesh, make_mesh

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "bert_base.py"))
    parser.add_argument("--rows", type=int, default=64, help="a chip")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--mesh", choices=("data", "fsdp"), default="data")
    parser.add_argument("--chips", type=int, nargs="+", choices=SHAPES, default=list(SHAPES))
    options, overrides = parser.parse_known_args()
    config = planned_vocabulary(load(options.config, overrides))
    rows = []
    for chips in options.chips:
        mesh = MeshConfig(-1, 1, 1) if options.mesh == "data" else MeshConfig(1, -1, 1)
        phase = PhaseConfig(1, options.seq_len, options.rows * chips)
        sized = dataclasses.replace(config, mesh=mesh, train=dataclasses.replace(config.train, phases=(phase,)))
        rows.append(measure(sized, chips))
        told = rows[-1]
        print(f"{chips} chips: {json.dumps(told)}", file=sys.stderr, flush=True)
    alone = rows[0]["computing_seconds"] + rows[0]["communication_seconds"]
    print(
        f"{'chips':>6} {'rows':>7} {'computing ms':>13} {'communication ms':>17} {'efficiency':>11} {'no overlap':>11}"
    )
    for row in rows:
        row["efficiency"] = rows[0]["step_seconds"] / row["step_seconds"]
        row["efficiency_without_overlap"] = alone / (row["computing_seconds"] + row["communication_seconds"])
        print(
            f"{row['chips']:>6} {row['rows']:>7} {row['computing_seconds'] * 1e3:>13.2f} "
            f"{row['communication_seconds'] * 1e3:>17.2f} {row['efficiency']:>11.1%} "
            f"{row['efficiency_without_overlap']:>11.1%}"
        )
    print(json.dumps({"config": options.config, "mesh": options.mesh, "seq_len": options.seq_len, "sizes": rows}))


def measure(config, chips: int) -> dict:
    """Compiles the step for some chips of the smallest slice that has them."""
    topology = parse_topology(f"v4:{SHAPES[chips]}")
    mesh = make_mesh(config.mesh, absent_devices(topology)[:chips])
    check_mesh(config, mesh)
    step = compile_step(config, 0, mesh)
    if step.text is None:
        raise SystemExit(f"{config.phases()[0].global_batch_size} rows on {chips} chips do not fit; give fewer --rows")
    computing = computing_seconds(step.text, topology)
    alone, hidden = communication_seconds(collectives(step.text), topology)
    return {
        "chips": chips,
        "rows": config.phases()[0].global_batch_size,
        "bytes_per_device": step.bytes_per_device,
        "computing_seconds": computing,
        "communication_seconds": alone + hidden,
        "step_seconds": alone + max(computing, hidden),
    }


if __name__ == "__main__":
    main()
