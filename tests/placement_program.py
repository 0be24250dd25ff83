"""Run by test_hosts.py, in one process or as several: what batches, masks, steps and evaluations are on some meshes.

python placement_program.py RECIPE OUT.json DATAxFSDPxTENSORxACCUMULATION[xDCN]...
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

from bert_jax import cluster
from bert_jax.config import MeshConfig
from bert_jax.config_file import load
from bert_jax.data.load import Loader
from bert_jax.evaluate import make_evaluate, open_corpora
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.sharding import batch_sharding, check_mesh, make_mesh, replicated
from bert_jax.train import _fill_vocabulary
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step
from data_prep.tokenizer import load_tokenizer

STEPS = 3


def on_mesh(recipe: str, name: str) -> dict:
    data, fsdp, tensor, accumulation, *dcn = map(int, name.split("x"))
    sizes = MeshConfig(data, fsdp, tensor, *dcn)
    config = load(recipe, [f"--config.train.accumulation={accumulation}"])
    corpora = open_corpora(config)
    tokenizer = load_tokenizer(corpora[0].tokenizer_dir)
    config = _fill_vocabulary(config, tokenizer)
    mesh = make_mesh(sizes, jax.devices()[: data * fsdp * tensor])
    if dcn:  # every part of the data axis lies within one host
        for part in np.split(mesh.devices, dcn[0]):
            assert len({device.process_index for device in part.flat}) == 1, mesh.devices
    check_mesh(config, mesh)
    sharding, size = batch_sharding(mesh), config.phases()[0].global_batch_size
    mask_fn = make_mask_fn(MaskSettings.of(config.data, config.phases()[0].seq_len, tokenizer))
    masked = jax.jit(mask_fn, static_argnums=1, out_shardings=replicated(mesh))
    step = make_train_step(config, mesh, mask_fn)
    state = create_state(config, mesh)
    loader = Loader(config, corpora, tokenizer)
    position, batches, metrics = loader.start(), [], []
    evaluation = make_evaluate(config, 0, mesh, corpora, tokenizer)(state.params)
    for k in range(STEPS):
        arrays, position = loader.batch(position, k, cluster.local_rows(sharding, size))
        batch = cluster.to_devices(arrays, size, sharding)
        seen = masked(batch, config.seed, np.int32(k))
        digest = {key: hashlib.sha256(np.asarray(value).tobytes()).hexdigest() for key, value in sorted(seen.items())}
        batches.append(digest)
        state, values = step(state, batch)
        metrics.append({key: float(value) for key, value in jax.device_get(values).items()})
    return {"batches": batches, "metrics": metrics, "evaluation": evaluation}


def main(recipe: str, output: str, *meshes: str) -> None:
    cluster.join(100)
    found = {name: on_mesh(recipe, name) for name in meshes}
    if jax.process_index() == 0:
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
