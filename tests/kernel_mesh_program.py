"""Run by test_mesh.py in a process with eight fake devices: steps with the attention kernel, on one device and cut.

python kernel_mesh_program.py OUT.json
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import numpy as np
import optax
import small_bert

from bert_jax.config import MeshConfig
from bert_jax.model import attention
from bert_jax.sharding import batch_sharding, make_mesh
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step

SIZES = {"num_layers": 1, "max_position_embeddings": 128, "dtype": "bfloat16"}


def main(output: str) -> None:
    """Loss, gradient norm, and norms of two biases' moments of a step, by heads, attention and mesh."""
    attention.INTERPRET = True
    results = {}
    for kind, heads, sizes in (
        ("einsum", 4, (1, 1, 1)),
        ("pallas", 4, (1, 1, 1)),
        ("pallas", 4, (2, 2, 2)),
        ("einsum", 6, (1, 1, 1)),
        ("auto", 6, (1, 1, 2)),  # three heads a device, and the kernel takes two together
    ):
        config = small_bert.run_config(
            attention=kind, layers="unroll", hidden_size=64 * heads, num_heads=heads, **SIZES
        )
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
        batch = jax.device_put(small_bert.packed_batch(config.model, 8, length=128), batch_sharding(mesh))
        step = make_train_step(config, mesh, small_bert.already_masked)
        state, metrics = step(create_state(config, mesh), batch)
        moments = optax.tree.get(state.opt_state, "mu")["layers"]["attention"]
        biases = [float(np.linalg.norm(moments[name]["bias"])) for name in ("query", "value")]
        results[f"{heads} {kind} {sizes}"] = [float(metrics["loss"]), float(metrics["grad_norm"]), *biases]
    Path(output).write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
