"""Time and peak memory of converting a BERT both ways, each in a process of its own, against the weights' size.

Of the peak, `before_any_weights` is what Python, jax and this program take with a model of one tiny layer.

python benchmarks/convert.py                     # BERT-large, random weights, 1.3 GB
python benchmarks/convert.py --layers 2 --hidden 128
python benchmarks/convert.py --weights float16   # or pickle: pytorch_model.bin, which needs PyTorch
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_writing import write_directory
from bert_jax.convert.mapping import Tensor, leaves, nest, to_tensors
from bert_jax.model.bert import abstract_params

# A child tells its own peak (VmHWM); getrusage would begin with its parent's.
CHILD = """
import re, sys
sys.path.insert(0, sys.argv.pop(1))
from bert_jax.cli import main
try:
    main(sys.argv[1:])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def make_directory(directory: Path, layers: int, hidden: int, weights: str = "float32") -> int:
    """A Hugging Face directory of random weights with a tokenizer; returns the bytes of its weights."""
    config = ModelConfig(
        vocab_size=30522, hidden_size=hidden, num_layers=layers, num_heads=hidden // 64, intermediate_size=4 * hidden
    )
    family = FAMILIES["bert"]
    flat = nest(
        (path, np.broadcast_to(np.float32(0), leaf.shape)) for path, leaf in leaves(abstract_params(config, "nsp"))
    )
    draw, dtype = np.random.default_rng(0), "float32" if weights == "pickle" else weights

    def random(shape: tuple[int, ...]) -> np.ndarray:
        return 0.02 * draw.standard_normal(shape, np.float32)

    tensors = {
        name: Tensor(tensor.shape, functools.partial(random, tensor.shape), dtype)
        for name, tensor in to_tensors(family, config, flat).items()
    }
    directory.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(30517))]
    (directory / "vocab.txt").write_text("\n".join(words) + "\n")
    write_directory(directory, family.config_to_hf(config) | {"architectures": ["BertForPreTraining"]}, tensors)
    file = directory / "model.safetensors"
    if weights == "pickle":
        file = as_pickle(file)
    return file.stat().st_size


def as_pickle(file: Path) -> Path:
    """The same tensors as pytorch_model.bin, in the place of the file."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    return file.with_name("pytorch_model.bin")


def measure(*words: str) -> dict[str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT), *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return {"seconds": round(time.monotonic() - began, 1), "peak_bytes": 1024 * int(done.stdout.split()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--weights", choices=("float32", "float16", "pickle"), default="float32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = both_ways(Path(folder) / "small", 1, 64, options.weights)
        large = both_ways(Path(folder) / "large", options.layers, options.hidden, options.weights)
        for way, found in large.items():
            found["before_any_weights"] = small[way]["peak_bytes"]
            found["of_weights"] = round(found["peak_bytes"] / found["weights_bytes"], 2)
            print(json.dumps({"way": way} | found), flush=True)


def both_ways(there: Path, layers: int, hidden: int, weights: str) -> dict[str, dict[str, float]]:
    there.mkdir()
    size = make_directory(there / "hf", layers, hidden, weights)
    ways = {
        "from-hf": ("convert", "from-hf", str(there / "hf"), str(there / "ours")),
        "to-hf": ("convert", "to-hf", str(there / "ours"), str(there / "again")),
    }
    return {way: {"weights_bytes": size} | measure(*words) for way, words in ways.items()}


if __name__ == "__main__":
    main()
