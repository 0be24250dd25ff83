"""A training step on the CPU: ours against PyTorch's BertForPreTraining, in one run, turn by turn.

    python benchmarks/step_cpu.py --output step_cpu.json

Both take the same batch (rows without padding, 15 % of the positions masked), the same sizes, dropout 0.1, MLM and NSP,
clipping and AdamW. PyTorch runs eager and compiled (which needs a C++ compiler), in float32 and under bfloat16
autocast, with scaled_dot_product_attention and the fused AdamW; it counts at its best. Ours runs in both dtypes too.
Contenders take turns, so that whatever else the machine does hits all of them; the figures to quote are the ratios of
the medians. Needs torch and transformers (the extra `hf`).
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from bert_jax import cpu_settings
from bert_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.sharding import make_mesh
from bert_jax.train_state import create_state
from bert_jax.train_step import make_train_step

Step = Callable[[], float]  # runs one update, returns its loss


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The options that `recipe` reads."""
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=128)


def recipe(flags: argparse.Namespace) -> Config:
    """The run that is measured, in float32."""
    return Config(
        model=ModelConfig(
            vocab_size=30522,
            hidden_size=flags.hidden,
            num_layers=flags.layers,
            num_heads=flags.hidden // 64,
            intermediate_size=4 * flags.hidden,
            dtype="float32",
        ),
        data=DataConfig(seq_len=flags.seq_len),
        train=TrainConfig(num_steps=1000, global_batch_size=flags.batch),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10),
    )


def make_batch(config: Config, rows: int) -> dict[str, np.ndarray]:
    """Random tokens: one pair a row, no padding, evenly spread predictions."""
    draw = np.random.default_rng(0)
    seq_len, vocab = config.data.seq_len, config.model.vocab_size
    predictions = round(config.data.mask_prob * seq_len + 0.5)
    tokens = draw.integers(1000, vocab, (rows, seq_len))
    positions = np.sort([1 + draw.permutation(seq_len - 2)[:predictions] for _ in range(rows)], axis=1)
    masked = tokens.copy()
    np.put_along_axis(masked, positions, 103, axis=1)
    batch = {
        "input_ids": masked,
        "token_type_ids": np.tile(np.arange(seq_len) >= seq_len // 2, (rows, 1)),
        "position_ids": np.tile(np.arange(seq_len), (rows, 1)),
        "segment_ids": np.ones((rows, seq_len)),
        "cls_positions": np.zeros((rows, 1)),
        "next_sentence_labels": draw.integers(0, 2, (rows, 1)),
        "rows": np.arange(rows),
        "masked_lm_positions": positions,
        "masked_lm_labels": np.take_along_axis(tokens, positions, axis=1),
    }
    return {name: np.ascontiguousarray(values, np.int32) for name, values in batch.items()}


def ours(config: Config, batch: dict[str, np.ndarray], options: dict[str, str] | None = None) -> Step:
    """Our step on one device, compiled with `options` of XLA's."""
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    step = make_train_step(config, mesh, lambda batch, seed, step: batch)  # masked already, as PyTorch's
    held = {"state": create_state(config, mesh)}
    program = step.lower(held["state"], batch).compile(compiler_options=options)  # type: ignore[attr-defined]

    def run() -> float:
        held["state"], metrics = program(held["state"], batch)
        return float(metrics["loss"])

    return run


def transformers_bert(config: Config) -> tuple[transformers.BertForPreTraining, torch.optim.AdamW]:
    """transformers' BertForPreTraining at its fastest, and PyTorch's fused AdamW."""
    model_config = transformers.BertConfig(
        vocab_size=config.model.vocab_size,
        hidden_size=config.model.hidden_size,
        num_hidden_layers=config.model.num_layers,
        num_attention_heads=config.model.num_heads,
        intermediate_size=config.model.intermediate_size,
        max_position_embeddings=config.model.max_position_embeddings,
        attn_implementation="sdpa",  # type: ignore[call-arg]  # of every config
    )
    model = transformers.BertForPreTraining(model_config).train()
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, eps=settings.eps, weight_decay=settings.weight_decay, fused=True
    )
    return model, optimizer


def pytorch(config: Config, batch: dict[str, np.ndarray], autocast: bool, compiled: bool) -> Step:
    """transformers' BertForPreTraining, as its documentation trains it."""
    model, optimizer = transformers_bert(config)
    forward = torch.compile(model) if compiled else model
    labels = np.full(batch["input_ids"].shape, -100)
    np.put_along_axis(labels, batch["masked_lm_positions"], batch["masked_lm_labels"], axis=1)
    inputs = {
        "input_ids": torch.tensor(batch["input_ids"]).long(),
        "token_type_ids": torch.tensor(batch["token_type_ids"]).long(),
        "attention_mask": torch.tensor(batch["segment_ids"]).long(),
        "labels": torch.tensor(labels).long(),
        "next_sentence_label": torch.tensor(batch["next_sentence_labels"][:, 0]).long(),
    }

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = forward(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
        optimizer.step()
        return float(loss)

    return run


def main() -> None:
    """Prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rounds", type=int, default=10, help="timed turns of every contender")
    parser.add_argument("--only", default="", help="contenders, separated by commas; all unless given")
    parser.add_argument("--output", type=Path, help="where to write the JSON as well")
    flags = parser.parse_args()

    config = recipe(flags)
    in_bfloat16 = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    batch = make_batch(config, flags.batch)
    makers: dict[str, Callable[[], Step]] = {
        "ours float32": lambda: ours(config, batch),
        "ours bfloat16": lambda: ours(in_bfloat16, batch),
        "pytorch float32": lambda: pytorch(config, batch, autocast=False, compiled=False),
        "pytorch bfloat16": lambda: pytorch(config, batch, autocast=True, compiled=False),
        "pytorch float32 compiled": lambda: pytorch(config, batch, autocast=False, compiled=True),
        "pytorch bfloat16 compiled": lambda: pytorch(config, batch, autocast=True, compiled=True),
    }
    chosen = flags.only.split(",") if flags.only else list(makers)
    steps = {name: makers[name]() for name in chosen}
    losses = {name: [step() for _ in range(2)] for name, step in steps.items()}  # compiles, warms up
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(flags.rounds):
        for name, step in steps.items():
            time.sleep(0.05)  # threads of the one before stop spinning
            start = time.perf_counter()
            losses[name].append(step())
            seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    tokens = flags.batch * flags.seq_len
    result = {
        "layers": flags.layers,
        "hidden": flags.hidden,
        "batch": flags.batch,
        "seq_len": flags.seq_len,
        "predictions_a_row": batch["masked_lm_labels"].shape[1],
        "rounds": flags.rounds,
        "versions": {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "step_seconds": medians,
        "tokens_per_second": {name: tokens / median for name, median in medians.items()},
        "last_loss": {name: values[-1] for name, values in losses.items()},
    }
    peers = [name for name in medians if name.startswith("pytorch")]
    mine = [name for name in medians if name.startswith("ours")]
    print(f"{'':26}{'step, s':>9}{'tokens/s':>10}{'last loss':>11}")
    for name, median in medians.items():
        print(f"{name:26}{median:9.3f}{tokens / median:10.0f}{losses[name][-1]:11.4f}")
    if peers and mine:
        peer = min(peers, key=medians.__getitem__)
        result["peer"] = peer
        result["ratio"] = {name: medians[peer] / medians[name] for name in mine}
        for name in mine:
            print(f"{name} is {result['ratio'][name]:.2f} times as fast as {peer}")
    print(json.dumps(result))
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    cpu_settings.take(cpu_settings.wanted(["pretrain"], {**os.environ, "JAX_PLATFORMS": "cpu"}))
    jax.config.update("jax_platforms", "cpu")
    jnp.zeros(()).block_until_ready()
    main()
