"""Self-attention alone, forwards and backwards: this program's ways against the field's, on TPUs and on the CPU.

    python benchmarks/attention.py --device v4:2x2x1 --output attention.json

For a TPU core that is not here (extra `tpu`): `einsum` and `pallas` with dropout 0.1 and without, and `splash`, jax's
own Pallas kernel with segment ids, which has no dropout. Cycles are the compiler's estimates of everything but kernels,
and of kernels the instruction bundles of their final schedule, a grid step's times the steps: what they take if nothing
stalls. (`step_tpu_aot.py` counts kernels by another rule, which needs no dump of the compiler.) On this CPU: `einsum`
in both dtypes against jax.nn.dot_product_attention and, with the extra `hf`, PyTorch's scaled_dot_product_attention, in
turns. Rows are packed, four segments each. Figures are for a row, all heads.
"""

import argparse
import functools
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_tpu_aot import absent_core, one_core

from bert_jax.topology import Topology, parse_topology

HEAD = 64
RATE = 0.1


def contenders(length: int, heads: int) -> dict[str, tuple[Callable, int]]:
    """By name: (what a projection gives, [B,S,3*N*H], segment_ids, row_keys) to the context, and rows times heads of a
    grid step of its kernels (0: none)."""
    import jax
    import jax.numpy as jnp

    from bert_jax import random_bits
    from bert_jax.model import attention_kernel
    from bert_jax.model.attention import einsum_attention

    def apart(projected):
        heads_apart = projected.reshape(*projected.shape[:2], heads, 3, HEAD)
        return [heads_apart[:, :, :, place] for place in range(3)]

    def by_einsum(rate, projected, segment_ids, row_keys):
        def drop(x):
            return jnp.where(random_bits.score_keep_mask(rate, row_keys, x.shape[1:]), x / (1.0 - rate), 0.0)

        query, key, value = apart(projected)
        return einsum_attention(query, key, value, segment_ids, drop if rate else None)

    def by_kernel(rate, projected, segment_ids, row_keys):
        bias, first = jnp.zeros(projected.shape[-1]), jnp.zeros(1, jnp.int32)
        return attention_kernel.attend(HEAD, rate, False, projected, bias, segment_ids, row_keys, first)

    def by_splash(projected, segment_ids, row_keys):
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

        blocks: dict[str, Any] = {"use_fused_bwd_kernel": True} | dict.fromkeys(
            ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute"), length
        )
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([masks.FullMask((length, length))] * heads),
            block_sizes=splash.BlockSizes(**blocks),
            head_shards=1,
            q_seq_shards=1,
        )
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in apart(projected))
        context = jax.vmap(kernel)(query * HEAD**-0.5, key, value, splash.SegmentIds(segment_ids, segment_ids))
        return jnp.swapaxes(context, 1, 2)

    together = attention_kernel.heads_together(HEAD) * max(1, 1024 // length)
    return {
        "einsum": (functools.partial(by_einsum, 0.0), 0),
        "einsum, dropout": (functools.partial(by_einsum, RATE), 0),
        "pallas": (functools.partial(by_kernel, 0.0), together),
        "pallas, dropout": (functools.partial(by_kernel, RATE), together),
        "splash": (by_splash, 1),
    }


def tpu_cycles(topology: Topology, batch: int, length: int, heads: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Of each contender the cycles a row: of kernels by their schedules, and of the rest."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from bert_jax.program_cycles import operations

    here = NamedSharding(Mesh(np.array([absent_core(topology)]), ("data",)), PartitionSpec())
    wide = jax.ShapeDtypeStruct((batch, length, 3 * heads * HEAD), jnp.bfloat16)
    segments, keys = jax.ShapeDtypeStruct((batch, length), jnp.int32), jax.ShapeDtypeStruct((2, batch), jnp.uint32)
    told = {}
    for name, (attend, heads_a_step) in contenders(length, heads).items():
        for old in folder.iterdir():
            old.unlink()

        def both(projected, gradient, segment_ids, row_keys, attend=attend):
            attended, back = jax.vjp(lambda x: attend(x, segment_ids, row_keys).astype(jnp.bfloat16), projected)
            return attended, back(gradient)

        gradient = jax.eval_shape(lambda *x, attend=attend: attend(*x), wide, segments, keys)
        gradient = jax.ShapeDtypeStruct(gradient.shape, jnp.bfloat16)
        jitted = jax.jit(both, in_shardings=here, out_shardings=here)
        compiled = jitted.lower(wide, gradient, segments, keys).compile()
        found = operations(_with_estimates(compiled.as_text() or ""), one_core(topology)[0])
        rest = sum(operation.total for operation in found if operation.opcode != "custom-call") / batch
        bundles = kernel_bundles(folder) if heads_a_step else []
        kernels = sum(bundles) * heads / heads_a_step if bundles else 0.0
        told[name] = {"cycles": round(rest + kernels), "kernels": round(kernels), "bundles": bundles}
        print(f"rows of {length}, {name}: {told[name]}", file=sys.stderr, flush=True)
    return told


def _with_estimates(text: str) -> str:
    """The program with a cost of nothing for the kernels that say none: they are counted by their schedules."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if 'custom_call_target="tpu_custom_call"' in line and '"cost_estimate"' not in line:
            lines[number] = line + ' "cost_estimate":{"flops":"0","bytes_accessed":"0"}'
    return "\n".join(lines)


def kernel_bundles(folder: Path) -> list[int]:
    """Instruction bundles of the kernels that the compiler has dumped: their programs are the long ones by name."""
    counts = []
    for path in sorted(folder.glob("*schedule-analysis_final_bundles.txt")):
        if re.search(r"attention|splash|flash", path.name):
            found = re.search(r"total scheduled bundles:\s*(\d+)", path.read_text())
            counts.append(int(found[1]) if found else 0)
    return counts


def cpu_seconds(batch: int, length: int, heads: int, rounds: int) -> dict[str, float]:
    """Medians of seconds a row on this CPU, without dropout."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from bert_jax.model.attention import einsum_attention

    draw = np.random.default_rng(0)
    values = [draw.normal(size=(batch, length, heads, HEAD)).astype(np.float32) for _ in range(4)]
    segments = np.repeat(np.arange(1, 5, dtype=np.int32), length // 4)[None].repeat(batch, 0)

    def jitted(attend, dtype):
        arrays = [jnp.asarray(x, dtype) for x in values]

        def both(query, key, value, gradient):
            attended, back = jax.vjp(attend, query, key, value)
            return attended, back(gradient.astype(attended.dtype))

        compiled = jax.jit(both)
        return lambda: jax.block_until_ready(compiled(*arrays))

    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    field = functools.partial(jax.nn.dot_product_attention, mask=jnp.asarray(mask), implementation="xla")
    einsum = functools.partial(einsum_attention, segment_ids=jnp.asarray(segments))
    ways = {"einsum float32": jitted(einsum, jnp.float32), "einsum bfloat16": jitted(einsum, jnp.bfloat16)}
    ways["jax.nn float32"], ways["jax.nn bfloat16"] = jitted(field, jnp.float32), jitted(field, jnp.bfloat16)
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed, and left out", file=sys.stderr)
    else:
        for name in ("float32", "bfloat16"):
            kind = getattr(torch, name)
            tensors = [torch.tensor(x).transpose(1, 2).to(kind) for x in values]
            ways[f"pytorch {name}"] = functools.partial(torch_step, torch, tensors, torch.tensor(mask))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, run in ways.items():
            begin = time.perf_counter()
            run()
            if number > 1:  # the first ones compile and warm up
                seconds[name].append((time.perf_counter() - begin) / batch)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def torch_step(torch: Any, tensors: list, mask: Any) -> None:
    """Forwards and backwards in PyTorch."""
    query, key, value = (x.detach().requires_grad_() for x in tensors[:3])
    torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).backward(tensors[3])


def main() -> None:
    """Prints tables and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="v4:2x2x1", help="a slice, of which one core is used; or none")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch for the TPU")
    parser.add_argument("--cpu-tokens", type=int, default=1024, help="of a batch for the CPU; 0: not there")
    parser.add_argument("--rounds", type=int, default=20, help="timed turns on the CPU")
    parser.add_argument("--output", type=Path, help="where to write the JSON as well")
    flags = parser.parse_args()
    told: dict[str, Any] = {"heads": flags.heads, "device": flags.device, "tpu_cycles_a_row": {}, "cpu_us_a_row": {}}
    with tempfile.TemporaryDirectory() as folder:
        if flags.device != "none":
            topology = parse_topology(flags.device)
            os.environ.update(topology.environment)  # before jax meets a device
            os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
            for length in flags.lengths:
                args = (topology, flags.tokens // length, length, flags.heads, Path(folder))
                told["tpu_cycles_a_row"][length] = tpu_cycles(*args)
    for length in flags.lengths if flags.cpu_tokens else ():
        seconds = cpu_seconds(flags.cpu_tokens // length, length, flags.heads, flags.rounds)
        told["cpu_us_a_row"][length] = {name: round(1e6 * value) for name, value in seconds.items()}
    for title, table in (("TPU, cycles", told["tpu_cycles_a_row"]), ("CPU, microseconds", told["cpu_us_a_row"])):
        for length, row in table.items():
            for name, value in row.items():
                print(f"{title:18} {length:4} {name:18} {value['cycles'] if isinstance(value, dict) else value:9,}")
    print(json.dumps(told))
    if flags.output:
        flags.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
