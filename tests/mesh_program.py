"""Run by test_mesh.py in a process with eight fake devices: what a step gives on several meshes, as one .npz file.

python mesh_program.py OUT.npz
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import numpy as np
import small_bert
from property_tests import LONG

from bert_jax.config import MeshConfig
from bert_jax.sharding import batch_sharding, check_mesh, make_mesh
from bert_jax.train_state import create_state
from bert_jax.train_step import make_eval_step, make_train_step

RUNS = [(1, 1, 1, 1), (8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (2, 2, 2, 2)]  # mesh, accumulation
if LONG:
    RUNS.append((2, 2, 2, 1))
STEPS = 3


def main(output: str) -> None:
    """Keys are RUN/NAME; gradients are told by Adam's first moment after one step."""
    results = {}
    for *sizes, accumulation in RUNS:
        name = "x".join(map(str, (*sizes, accumulation)))
        config = small_bert.run_config(
            rows=16,
            accumulation=accumulation,
            num_heads=8,
            hidden_size=64,
            intermediate_size=128,
            max_position_embeddings=64,
            vocab_size=1000,
        )
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
        check_mesh(config, mesh)
        host = small_bert.packed_batch(config.model, 16)
        batch = jax.device_put(host, batch_sharding(mesh))
        state = create_state(config, mesh)
        leaves = jax.tree.leaves(state)
        results[f"{name}/bytes"] = sum(leaf.nbytes for leaf in leaves)
        per_device = [
            sum(leaf.addressable_shards[i].data.nbytes for leaf in leaves) for i in range(len(mesh.devices.flat))
        ]
        results[f"{name}/device_bytes"] = max(per_device)
        results[f"{name}/initial"] = np.concatenate(
            [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]
        )
        step = make_train_step(config, mesh, small_bert.already_masked)
        sums = make_eval_step(config, mesh, small_bert.already_masked)(state.params, batch)
        results |= {f"{name}/eval/{key}": np.asarray(value) for key, value in sums.items()}
        given = create_state(config, mesh, small_bert.random_params(config.model, "nsp"))
        assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(given), leaves, strict=True))
        for start, first in (("drawn", state), ("given", given)):
            state = first
            for k in range(STEPS):
                before = [leaf.sharding for leaf in jax.tree.leaves(state)]
                state, metrics = step(state, batch)
                after = [leaf.sharding for leaf in jax.tree.leaves(state)]
                assert all(a.is_equivalent_to(b, 9) for a, b in zip(before, after, strict=True))
                results |= {f"{name}/{start}/{k}/{key}": np.asarray(value) for key, value in metrics.items()}
                if k == 0:
                    moments = [
                        leaf
                        for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
                        if ".mu" in jax.tree_util.keystr(path)
                    ]
                    results |= {f"{name}/{start}/grad/{i:02}": np.asarray(leaf) for i, leaf in enumerate(moments)}
    np.savez(output, **results)


if __name__ == "__main__":
    main(sys.argv[1])
