"""The largest batch a device that fits, by what the backward pass computes anew: the compiler's figure, BERT-large.

    pip install 'bert-jax[tpu]'
    python benchmarks/peak_memory.py [--config configs/bert_large.py] [--device v5e:2x2] [--seq-len 512]

For each kind of rematerialisation the step of `pretrain` is compiled for two numbers of rows a device; memory grows by
the row, so both say how many should fit, and that number is compiled too (fewer, while it does not fit). Layers are
scanned, which compiles fast. Prints a table and one JSON object.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bert_jax.config import Config, MeshConfig, PhaseConfig
from bert_jax.topology import parse_topology

ROOT = Path(__file__).resolve().parents[1]
PROBES = (4, 12)


def sized(config: Config, seq_len: int, rows: int, devices: int, remat: str) -> Config:
    """The recipe with so many rows a device."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat=remat, layers="scan"),
        mesh=MeshConfig(data=-1),
        train=dataclasses.replace(config.train, phases=(PhaseConfig(1, seq_len, rows * devices),)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "bert_large.py"))
    parser.add_argument("--device", default="v5e:2x2", help="data parallel over a slice")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--remat", nargs="+", default=["none", "dots", "full"])
    options, overrides = parser.parse_known_args()
    topology = parse_topology(options.device)
    os.environ.update(topology.environment)  # before jax meets a device
    from bert_jax.compiled_step import compile_step
    from bert_jax.config_file import load
    from bert_jax.plan_run import absent_devices, computing_seconds, planned_vocabulary
    from bert_jax.sharding import make_mesh

    config = planned_vocabulary(load(options.config, overrides))
    mesh = make_mesh(MeshConfig(data=-1), absent_devices(topology))

    def compiled(rows: int, remat: str) -> Any:
        return compile_step(sized(config, options.seq_len, rows, topology.devices, remat), 0, mesh)

    table = []
    for remat in options.remat:
        sizes = [compiled(rows, remat).bytes_per_device for rows in PROBES]
        a_row = (sizes[1] - sizes[0]) / (PROBES[1] - PROBES[0])
        rows = int((topology.generation.memory - sizes[0]) // a_row) + PROBES[0]
        while (step := compiled(rows, remat)).text is None or step.bytes_per_device > topology.generation.memory:
            rows -= 1
        seconds = computing_seconds(step.text, topology)
        told = {"remat": remat, "rows": rows, "bytes_per_device": step.bytes_per_device, "bytes_a_row": round(a_row)}
        table.append(told | {"computing_seconds_a_row": seconds / rows})
        print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    print(f"{'remat':>6} {'rows a device':>14} {'GiB':>6} {'GiB a row':>9} {'ms a row':>9}")
    for row in table:
        print(
            f"{row['remat']:>6} {row['rows']:>14} {row['bytes_per_device'] / 2**30:>6.2f} "
            f"{row['bytes_a_row'] / 2**30:>9.3f} {row['computing_seconds_a_row'] * 1e3:>9.2f}"
        )
    print(json.dumps({"config": options.config, "device": options.device, "seq_len": options.seq_len, "table": table}))


if __name__ == "__main__":
    main()
