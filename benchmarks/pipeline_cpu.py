"""The whole pipeline on the CPU, from a built corpus to updates: ours against PyTorch and transformers, in real tokens.

    python benchmarks/pipeline_cpu.py --corpus CORPUS --size l4h512 --seq-len 128 --output pipeline_cpu.json

Ours is the loader of `pretrain` with packed rows, masks drawn on the device, and its step. PyTorch's is a DataLoader
over the same corpus's pairs, tokenised beforehand, one a row, with transformers' DataCollatorForLanguageModeling (which
masks and pads to the longest of a batch), BertForPreTraining with scaled_dot_product_attention, clipping and the fused
AdamW; eager and compiled, in float32 and under bfloat16 autocast: it counts at its best. Both train MLM and NSP with
dropout 0.1. What is counted is tokens that are no padding, a second. Contenders, each in a process of its own, take
turns of some seconds, so that whatever else the machine does hits all of them; figures are medians of turns. Beside
them the same by seconds of the processor (all threads), for machines that are busy otherwise. Needs the extra `hf`, and
for the compiled ones a C++ compiler. Without `--corpus` one of Python's docstrings is built first.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import torch
import transformers
from loader import quickstart_corpus
from step_cpu import transformers_bert

from bert_jax import cluster, cpu_settings
from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.data.load import Loader
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.sharding import batch_sharding, make_mesh
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step
from data_prep.corpus import Corpus
from data_prep.tokenizer import load_tokenizer

SIZES = {"l4h512": (4, 512), "base": (12, 768)}
CONTENDERS = ["ours float32", "ours bfloat16", "pytorch float32", "pytorch bfloat16"]
CONTENDERS += ["pytorch float32 compiled", "pytorch bfloat16 compiled"]
PAIRS = 4000  # examples of PyTorch's data set
Steps = Iterator[int]  # an update a turn; what comes is the tokens it took that are no padding


def recipe(corpus: Corpus, size: str, seq_len: int, rows: int, packing: bool, dtype: str) -> Config:
    """The run that is measured."""
    layers, hidden = SIZES[size]
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=hidden // 64,
        intermediate_size=4 * hidden,
        dtype=dtype,
    )
    return Config(
        model=model,
        data=DataConfig(corpus=str(corpus.path), seq_len=seq_len, packing=packing),
        train=TrainConfig(num_steps=10**6, global_batch_size=rows),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=100),
    )


def ours(corpus: Corpus, config: Config, held: dict[str, Any]) -> Steps:
    """What `pretrain` does a step; metrics are fetched one step late, as there. `held` has what is under way."""
    tokenizer, mesh = load_tokenizer(corpus.tokenizer_dir), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    step = make_train_step(config, mesh, make_mask_fn(MaskSettings.of(config.data, config.data.seq_len, tokenizer)))
    state, sharding = create_state(config, mesh), batch_sharding(mesh)
    loader, pending = Loader(config, [corpus], tokenizer), None
    to_devices = functools.partial(cluster.to_devices, sharding=sharding)
    for batch, _ in loader.batches(loader.start(), 0, np.arange, to_devices):
        state, metrics = step(state, batch)
        held["metrics"] = metrics
        if pending is not None:
            yield int(pending["tokens"])
        pending = metrics


def pairs(corpus: Corpus, config: Config, count: int) -> list[dict[str, Any]]:
    """The first examples of a run with a pair a row, as a tokenised data set of transformers has them."""
    loader = Loader(config, [corpus], load_tokenizer(corpus.tokenizer_dir))
    found: list[dict[str, Any]] = []
    for arrays, _ in loader.batches(loader.start(), 0, np.arange):
        for row in range(len(arrays["input_ids"])):
            length = int((arrays["segment_ids"][row] > 0).sum())
            ids, types = (arrays[name][row, :length].tolist() for name in ("input_ids", "token_type_ids"))
            label = int(arrays["next_sentence_labels"][row, 0])
            found.append({"input_ids": ids, "token_type_ids": types, "next_sentence_label": label})
        if len(found) >= count:
            return found
    return found


def pytorch(corpus: Corpus, config: Config, data: list[dict[str, Any]], autocast: bool, compiled: bool) -> Steps:
    """transformers' classes as its documentation uses them."""
    model, optimizer = transformers_bert(config)
    forward = torch.compile(model) if compiled else model
    tokenizer = transformers.AutoTokenizer.from_pretrained(corpus.tokenizer_dir)
    # Compiled for one shape; compiling anew for every length of a longest row would take all the time.
    multiple = config.data.seq_len if compiled else None
    collator = transformers.DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.15, pad_to_multiple_of=multiple
    )
    loader: Any = torch.utils.data.DataLoader(
        cast(Any, data), batch_size=config.train.global_batch_size, shuffle=True, drop_last=True, collate_fn=collator
    )
    while True:
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = forward(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
            optimizer.step()
            yield int(batch["attention_mask"].sum())


def main() -> None:
    """Prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="by default one of Python's docstrings is built")
    parser.add_argument("--size", choices=tuple(SIZES), default="l4h512")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--rows", type=int, default=16, help="a batch")
    parser.add_argument("--turns", type=int, default=6, help="of every contender")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn, at least; two steps at least")
    parser.add_argument("--only", default="", help="contenders, separated by commas; all unless given")
    parser.add_argument("--output", type=Path, help="where to write the JSON as well")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.contender:
        take_turns(flags, Corpus.open(flags.corpus))
        return
    with tempfile.TemporaryDirectory() as folder:
        flags.corpus = flags.corpus or quickstart_corpus(Path(folder))
        measure(flags, Corpus.open(flags.corpus))


def config_of(flags: argparse.Namespace, corpus: Corpus, packing: bool, dtype: str) -> Config:
    """The run of a contender."""
    return recipe(corpus, flags.size, flags.seq_len, flags.rows, packing, dtype)


def take_turns(flags: argparse.Namespace, corpus: Corpus) -> None:
    """One contender: a turn for every line of stdin, and a line of JSON after it."""
    who, dtype, *more = flags.contender.split()
    held: dict[str, Any] = {}
    if who == "ours":
        steps = ours(corpus, config_of(flags, corpus, True, dtype), held)
    else:
        config = config_of(flags, corpus, False, "float32")
        steps = pytorch(corpus, config, pairs(corpus, config, PAIRS), dtype == "bfloat16", more == ["compiled"])
    for _ in range(3):  # compiles, warms up
        next(steps)
    print("ready", flush=True)
    for _ in sys.stdin:
        tokens, done, begin, used = 0, 0, time.perf_counter(), time.process_time()
        while done < 2 or time.perf_counter() - begin < flags.seconds:
            tokens += next(steps)
            done += 1
        rates = [tokens / (time.perf_counter() - begin), tokens / (time.process_time() - used)]
        jax.block_until_ready(held)  # nothing goes on in the next one's turn
        print(json.dumps(rates), flush=True)


def started(flags: argparse.Namespace, name: str) -> subprocess.Popen:
    """A contender in a process of its own, with what `bert-jax pretrain` sets for itself."""
    words = [sys.executable, __file__, "--contender", name, "--corpus", str(flags.corpus), "--size", flags.size]
    words += ["--seq-len", str(flags.seq_len), "--rows", str(flags.rows), "--seconds", str(flags.seconds)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if name.startswith("ours"):
        environment |= cpu_settings.wanted(["pretrain"], environment)
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer(contender: subprocess.Popen) -> str:
    """The next line that a contender says."""
    assert contender.stdout is not None
    line = contender.stdout.readline()
    if not line:
        raise RuntimeError(f"a contender ended with {contender.wait()}")
    return line


def measure(flags: argparse.Namespace, corpus: Corpus) -> None:
    """All contenders in turns."""
    names = flags.only.split(",") if flags.only else CONTENDERS
    contenders = {}
    for name in names:
        begin = time.perf_counter()
        contenders[name] = started(flags, name)
        answer(contenders[name])
        print(f"{name}: ready after {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(flags.turns):
        for name, contender in contenders.items():
            assert contender.stdin is not None
            contender.stdin.write("\n")
            contender.stdin.flush()
            rates[name].append(json.loads(answer(contender)))
    for contender in contenders.values():
        contender.kill()
    data = pairs(corpus, config_of(flags, corpus, False, "float32"), PAIRS)
    medians = {name: statistics.median(wall for wall, _ in values) for name, values in rates.items()}
    by_processor = {name: statistics.median(used for _, used in values) for name, values in rates.items()}
    real = sum(len(example["input_ids"]) for example in data) / (len(data) * flags.seq_len)
    result: dict[str, Any] = {"size": flags.size, "seq_len": flags.seq_len, "rows": flags.rows}
    result |= {"pairs_fill": round(real, 4), "vocabulary": corpus.vocab_size, "tokens_per_second": medians}
    result["tokens_per_processor_second"] = by_processor
    result["versions"] = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    for name, median in medians.items():
        print(f"{name:28}{median:10.0f} real tokens a second, {by_processor[name]:8.0f} a second of the processor")
    peers, mine = ([name for name in medians if name.startswith(who)] for who in ("pytorch", "ours"))
    if peers and mine:
        result["peer"] = max(peers, key=medians.__getitem__)
        result["ratio"] = {name: medians[name] / medians[result["peer"]] for name in mine}
        least = max(by_processor[name] for name in peers)
        result["ratio_by_processor"] = {name: by_processor[name] / least for name in mine}
        for name in mine:
            print(f"{name} is {result['ratio'][name]:.2f} times as fast as {result['peer']}")
    print(json.dumps(result))
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
