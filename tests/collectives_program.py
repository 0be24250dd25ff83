"""Run by test_collectives.py in a process with eight fake devices: what compiled steps send, as one JSON object.

python collectives_program.py OUT.json
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import small_bert

from bert_jax.collectives import collectives
from bert_jax.compiled_step import compile_step
from bert_jax.config import MeshConfig
from bert_jax.sharding import make_mesh

ROWS = 256  # so that whole activations are far larger than any array of parameters
SIZES = dict(
    num_layers=3, num_heads=8, hidden_size=64, intermediate_size=128, max_position_embeddings=64, vocab_size=1000
)
MESHES = ((8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2))


def main(output: str) -> None:
    """Keys are meshes, values the step's collective operations with what each sends."""
    told = {}
    for sizes in MESHES:
        config = small_bert.run_config(rows=ROWS, hidden_dropout_rate=0.0, attention_dropout_rate=0.0, **SIZES)
        step = compile_step(config, 0, make_mesh(MeshConfig(*sizes)))
        told["x".join(map(str, sizes))] = [
            dataclasses.asdict(one) | {"sent": one.sent} for one in collectives(step.text)
        ]
    Path(output).write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
