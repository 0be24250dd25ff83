"""Every family's classes: our model and the reference compute what transformers computes, from the same files."""

import numpy as np
import pytest
import torch
from family_models import CLASSES, make
from safetensors.torch import load_file

from bert_jax.convert import gate
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_writing import write_directory
from bert_jax.convert.importing import read_hf
from bert_jax.convert.mapping import to_tensors


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("family", "kind"), CLASSES)
def test_equal_outputs_and_tensors(tmp_path, family, kind, tied):
    theirs = make(family, kind, tie_word_embeddings=tied, num_labels=2 if kind.endswith("QuestionAnswering") else 3)
    theirs.save_pretrained(tmp_path / "theirs")
    saved = read_hf(tmp_path / "theirs")
    inputs = gate.probe_inputs(saved.config)
    with torch.no_grad():
        outputs = theirs(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    ours, reference = gate.model_outputs(saved, inputs), gate.forward(tmp_path / "theirs", inputs)
    used = inputs["attention_mask"] > 0
    for name, values in reference.items():
        expected = outputs[name].numpy()
        allowed = 2e-5 + 1e-5 * np.abs(expected).max()
        assert np.abs(values - expected).max() <= allowed
        of_tokens = expected.shape[:2] == used.shape
        difference = np.abs(ours[name] - expected)
        assert (difference[used] if of_tokens else difference).max() <= allowed

    fields = FAMILIES[family].config_to_hf(saved.config)
    write_directory(tmp_path, fields, to_tensors(FAMILIES[family], saved.config, saved.params))
    before, after = load_file(tmp_path / "theirs" / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() <= after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
