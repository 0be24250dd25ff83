"""What the loader gives, and what it costs: rows a second, against what training takes on this machine.

    python benchmarks/loader.py [--corpus DIR] [--documents 100000000]

Prints one JSON object. Figures `a_core` are by processor time, so they hold on a busy machine too.

- `plan`: rows a second a core of planning alone, and the largest memory that planning a block takes.
- `plan_of_many_documents`: the same for a corpus of `--documents` documents in shards of 100,000. Its index is read by
  the real code; all shards share one file, and the list of kept records is computed.
- `loader`: plan, read and assemble, as one host that holds every row.
- `pod_host`: one host of 64 with 1/64 of the rows: it plans everything and assembles its own. `cores` is what 400,000
  rows of 128 a second over all hosts (BERT-Base on 256 TPU v5e chips) take of each host.
- `training`: rows a second of the quickstart recipe's steps on this machine; the loader's `times_training` is its rows
  a second a core over those of training.

Without `--corpus` the quickstart's corpus is built first.
"""

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from bert_jax import cluster
from bert_jax.config import Config, DataConfig, TrainConfig
from bert_jax.config_file import load
from bert_jax.data.load import Loader
from bert_jax.data.plan import RowSettings, num_blocks, plan_block
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.sharding import batch_sharding, make_mesh
from bert_jax.train import _fill_vocabulary
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step
from data_prep.corpus import Corpus
from data_prep.corpus_files import index_name
from data_prep.corpus_split import Split
from data_prep.index import pack
from data_prep.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
POD_ROWS, HOSTS = 400_000, 64
SHARD = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="by default one of Python's docstrings is built")
    parser.add_argument("--documents", type=int, default=100_000_000, help="of the simulated index")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, about")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.corpus or quickstart_corpus(Path(folder))
        corpus, seconds = Corpus.open(path), arguments.seconds
        result: dict[str, Any] = {"plan": planning(corpus.split("train"), seconds)}
        many = simulated_split(Path(folder) / "many", arguments.documents)
        result["plan_of_many_documents"] = {"documents": many.num_kept, **planning(many, seconds)}
        result["loader"] = loading(corpus, 256, 1, seconds)
        share = loading(corpus, 256 * HOSTS, HOSTS, seconds)
        cores = share["processor_seconds_a_row"] * POD_ROWS / HOSTS
        result["pod_host"] = {"rows_a_second_a_core": 1 / share["processor_seconds_a_row"], "cores": cores}
        training = train(quickstart_config(corpus), corpus, seconds)
        result["training"] = training
        name = "rows_a_second_a_core"
        result["loader"]["times_training"] = result["loader"][name] / training[name]
    print(json.dumps(result, indent=1))


def quickstart_corpus(folder: Path) -> Path:
    """The corpus of `make quickstart`."""
    from data_prep.build import build_corpus
    from data_prep.vocab import train_vocab

    train_vocab(["python-docs"], folder / "tokenizer", "wordpiece", 8000, lowercase=True)
    build_corpus(["python-docs"], folder / "tokenizer", folder / "corpus", validation_share=0.05)
    return folder / "corpus"


def quickstart_config(corpus: Corpus) -> Config:
    """The run of `make quickstart` on a corpus."""
    config = load(str(ROOT / "configs" / "quickstart.py"), [f"--config.data.corpus={corpus.path}"])
    return _fill_vocabulary(config, load_tokenizer(corpus.tokenizer_dir))


class ManyDocuments(Split):
    """A split without duplicates, whose list of kept records need not be stored."""

    def kept_records(self, positions: np.ndarray) -> np.ndarray:
        return np.asarray(positions, np.int64)


def simulated_split(path: Path, documents: int) -> Split:
    """Documents of 1 to 40 sentences of 3 to 40 tokens, 100,000 a shard."""
    shards = -(-documents // SHARD)
    rng = np.random.default_rng(0)
    sentences = rng.integers(1, 41, SHARD)
    lengths = rng.integers(3, 41, sentences.sum())
    sentence_offsets = np.append(0, np.cumsum(sentences))
    token_offsets = np.append(0, np.cumsum(lengths))[sentence_offsets]
    columns = {
        "document": np.arange(SHARD),
        "text_hash": np.arange(SHARD),
        "sentence_offsets": sentence_offsets,
        "token_offsets": token_offsets,
        "sentence_lengths": lengths,
        "first": np.ones(SHARD),
        "word_starts": np.full(-(-int(token_offsets[-1]) // 8), 255),
    }
    (path / "index").mkdir(parents=True)
    (path / "index" / "one").write_bytes(pack(columns))
    for shard in range(shards):
        (path / index_name("train", shard, shards)).symlink_to("one")
    entry = {
        "kept_records": shards * SHARD,
        "kept_tokens": shards * int(token_offsets[-1]),
        "kept_documents": shards * SHARD,
        "shards": [{"records": SHARD}] * shards,
    }
    return ManyDocuments(path, {"splits": {"train": entry}, "tokenizer": {"vocab_size": 30_000}}, "train")


def planning(split: Split, seconds: float) -> dict[str, float]:
    """Plans block after block, the first one apart: it opens files."""
    settings = RowSettings.of(DataConfig(), 128)
    blocks = num_blocks(split, settings)
    begin = time.perf_counter()
    plan_block(split, settings, 0, 0, 0)
    first = time.perf_counter() - begin
    tracemalloc.start()
    plan_block(split, settings, 0, 1, 1 % blocks)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows, planned, begin, used = 0, 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        rows += plan_block(split, settings, 0, 2 + planned // blocks, planned % blocks).num_rows
        planned += 1
    used = time.process_time() - used
    return {
        "blocks_an_epoch": blocks,
        "first_block_seconds": first,
        "block_milliseconds": used / planned * 1e3,
        "row_microseconds": used / rows * 1e6,
        "rows_a_second_a_core": rows / used,
        "largest_memory_megabytes": memory / 1e6,
    }


def loading(corpus: Corpus, size: int, hosts: int, seconds: float) -> dict[str, float]:
    """Batches of `size` rows, of which this host assembles its share."""
    data = DataConfig(corpus=str(corpus.path), seq_len=128)
    config = Config(data=data, train=TrainConfig(num_steps=10**9, global_batch_size=size))
    loader = Loader(config, [corpus], load_tokenizer(corpus.tokenizer_dir))
    mine = np.arange(size // hosts)
    batches = loader.batches(loader.start(), 0, lambda size: mine)
    for _ in range(8):
        next(batches)  # past the start, when everything is planned at once
    rows, begin, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        rows += len(next(batches)[0]["rows"])
    wall, used = time.perf_counter() - begin, time.process_time() - used
    batches.close()
    return {
        "rows_a_second": rows / wall,
        "rows_a_second_a_core": rows / used,
        "processor_seconds_a_row": used / rows,
    }


def train(config: Config, corpus: Corpus, seconds: float) -> dict[str, float]:
    """The real step on a batch that is on the device already."""
    step, state, batch = ready(config, corpus)
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    rows, begin, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < max(seconds, 5.0):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        rows += config.train.global_batch_size
    wall, used = time.perf_counter() - begin, time.process_time() - used
    return {"rows_a_second": rows / wall, "rows_a_second_a_core": rows / used}


def ready(config: Config, corpus: Corpus) -> Any:
    """The step, a state and a batch of a recipe."""
    tokenizer = load_tokenizer(corpus.tokenizer_dir)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    loader, size = Loader(config, [corpus], tokenizer), config.train.global_batch_size
    arrays, _ = loader.batch(loader.start(), 0, np.arange(size))
    batch = cluster.to_devices(arrays, size, batch_sharding(mesh))
    mask_fn = make_mask_fn(MaskSettings.of(config.data, config.data.seq_len, tokenizer))
    return make_train_step(config, mesh, mask_fn), create_state(config, mesh), batch


if __name__ == "__main__":
    main()
