"""Every family's classes: our model and the reference compute what transformers computes, from the same files."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from family_models import CLASSES, CONFIGS, make
from safetensors.torch import load_file, save_file
from saved_models import write_tokenizer

from bert_jax import checkpoint
from bert_jax.convert import Form, gate, to_hf
from bert_jax.convert.exporting import _write_model
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_writing import write_directory
from bert_jax.convert.importing import read_hf
from bert_jax.convert.mapping import to_tensors
from bert_jax.convert.verify import verify


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
    write_directory(tmp_path, fields, to_tensors(FAMILIES[family], saved.config, saved.arrays))
    before, after = load_file(tmp_path / "theirs" / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() <= after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_config_json_does_not_say_is_what_transformers_takes(family):
    said = CONFIGS[family]().__class__().to_dict()
    assert FAMILIES[family].config_from_hf({}, "") == FAMILIES[family].config_from_hf(said, "")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_tensor_keeps_its_own_kind(tmp_path, family, kind):
    """Norms in float32, all else in a half, as mixed precision leaves them."""
    make(family, dict(CLASSES[::-1])[family], tie_word_embeddings=False).save_pretrained(tmp_path)
    before = {
        name: tensor if "norm" in name.lower() else tensor.to(kind)
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(before, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "again").mkdir()
    _write_model(tmp_path / "again", read_hf(tmp_path), 0, Form())
    after = load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and {tensor.dtype for tensor in before.values()} == {kind, torch.float32}
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor), name


BARE = [
    ("bert", "BertModel"),
    ("roberta", "RobertaModel"),
    ("xlm-roberta", "XLMRobertaModel"),
    ("distilbert", "DistilBertModel"),
    ("electra", "ElectraModel"),
]


def ours_from(directory, folder):
    """What `from-hf` makes of a directory, with a tokenizer of a few words."""
    tokenizer = write_tokenizer(folder / "words")
    checkpoint.save_model(folder / "ours", dataclasses.replace(read_hf(directory), tokenizer_dir=tokenizer))
    return folder / "ours"


@pytest.mark.parametrize(("family", "kind"), BARE)
def test_a_bare_encoder_comes_back(tmp_path, capsys, family, kind):
    """Every tensor bit for bit, and with them hidden states and the pooler's output; nothing of it is named as lost."""
    theirs = make(family, kind)
    theirs.save_pretrained(tmp_path / "theirs")
    saved = read_hf(tmp_path / "theirs")
    assert "left out" not in capsys.readouterr().err
    fields = FAMILIES[family].config_to_hf(saved.config)
    (tmp_path / "hf").mkdir()
    write_directory(tmp_path / "hf", fields, to_tensors(FAMILIES[family], saved.config, saved.arrays))
    again, info = getattr(transformers, kind).from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    before, after = theirs.state_dict(), again.eval().state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    inputs = {name: torch.from_numpy(value) for name, value in gate.probe_inputs(saved.config).items()}
    with torch.no_grad():
        for name, expected in theirs(**inputs).items():
            assert torch.equal(again(**inputs)[name], expected), name


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "BertForMaskedLM"),
        ("bert", "BertForTokenClassification"),
        ("roberta", "RobertaModel"),
        ("roberta", "RobertaForSequenceClassification"),
    ],
)
def test_a_pooler_that_the_class_does_not_use_comes_back(tmp_path, capsys, family, kind):
    """Old checkpoints have one; the model beside it computes what it computed."""
    make(family, kind).save_pretrained(tmp_path / "theirs")
    weights = tmp_path / "theirs" / "model.safetensors"
    before, draw = load_file(weights), torch.Generator().manual_seed(5)
    if kind == "RobertaModel":
        before = {f"roberta.{name}": tensor for name, tensor in before.items()}
    for name, shape in (("weight", (24, 24)), ("bias", (24,))):
        before[f"{family}.pooler.dense.{name}"] = torch.randn(shape, generator=draw)
    save_file(before, weights, metadata={"format": "pt"})
    read = read_hf(weights.parent)
    tokenizer = write_tokenizer(tmp_path / "words", pad_id=max(0, read.config.position_offset - 1))
    checkpoint.save_model(tmp_path / "ours", dataclasses.replace(read, tokenizer_dir=tokenizer))
    assert "left out" not in capsys.readouterr().err
    to_hf(tmp_path / "ours", tmp_path / "hf", form=Form(max_shard_size=8000))
    after = {}
    for file in (tmp_path / "hf").glob("model*.safetensors"):
        after |= load_file(file)
    assert before.keys() <= after.keys()  # a bare one gets a head
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    report, wrong = verify(tmp_path / "hf")
    assert wrong is None and report["numpy"].keys() == report["pytorch"].keys() | {"pooler_output"}
