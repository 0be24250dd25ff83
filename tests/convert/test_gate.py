"""Every way in which a converter has been wrong elsewhere is caught before anything appears."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from saved_models import save, saved_model
from small_bert import random_params
from wrong_exports import break_tensor, change_config, refuse

from bert_jax import checkpoint
from bert_jax.convert import ConversionMismatch, Form, exporting, gate, parse_size, to_hf
from bert_jax.convert.bert import BERT
from bert_jax.convert.mapping import Row, Tensor
from bert_jax.convert.verify import verify
from bert_jax.model import bert, encoder, layers
from data_prep.errors import InputError

SQUARE = [
    "layers/attention/query/kernel",
    "layers/attention/key/kernel",
    "layers/attention/value/kernel",
    "layers/attention/output/kernel",
    "pooler/kernel",
    "mlm/transform/kernel",
]
OF_OTHERS = ("classifier/", "tagger/", "span/", "carried/")
BIASES = [row.ours for row in BERT.table if row.ours.endswith("/bias") and not row.ours.startswith(OF_OTHERS)]
NORMS = ["embeddings/norm", "layers/attention_norm", "layers/mlp_norm", "mlm/norm"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Just initialised: zero biases and unit norms, behind which most mistakes hide."""
    return save(tmp_path_factory.mktemp("fresh"), "nsp", fresh=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every number off its first value."""
    return save(tmp_path_factory.mktemp("trained"), "nsp")


@pytest.fixture
def other_code(monkeypatch):
    """For tests that change the model's code: nothing compiled before or after is used."""
    gate._outputs.cache_clear()
    yield monkeypatch
    gate._outputs.cache_clear()


def use_table(monkeypatch, renamed):
    """Exports with rows whose names on their side are exchanged."""
    table = tuple(dataclasses.replace(row, theirs=renamed.get(row.theirs, row.theirs)) for row in BERT.table)
    monkeypatch.setitem(exporting.FAMILIES, "bert", dataclasses.replace(BERT, table=table))


def theirs(ours):
    return next(row.theirs for row in BERT.table if row.ours == ours)


def test_right_export_passes(model, trained, tmp_path):
    to_hf(trained, tmp_path / "trained")
    to_hf(model, tmp_path / "hf")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"config.json", "model.safetensors", "probe.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "trial" not in names


@pytest.mark.parametrize("ours", SQUARE)
def test_transposed_square_kernel(model, trained, tmp_path, monkeypatch, ours):
    break_tensor(monkeypatch, ours, np.transpose)
    assert "differs from the model's by" in refuse(model, tmp_path)
    assert "differs from the model's by" in refuse(trained, tmp_path)


@pytest.mark.parametrize("ours", BIASES)
def test_dropped_bias(model, tmp_path, monkeypatch, ours):
    break_tensor(monkeypatch, ours, np.zeros_like)
    refuse(model, tmp_path)


@pytest.mark.parametrize("ours", ["mlm/decoder/embedding", "mlm/decoder/bias"])
def test_untied_decoder_that_is_lost(tmp_path, monkeypatch, ours):
    model = save(tmp_path, "nsp", fresh=True, tie_word_embeddings=False)
    break_tensor(monkeypatch, ours, np.zeros_like)
    with pytest.raises(ConversionMismatch):
        to_hf(model, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_missing_tensor(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "to_tensors", without("bert.encoder.layer.1.attention.self.key.bias"))
    assert "bert.encoder.layer.1.attention.self.key.bias is missing" in refuse(model, tmp_path)


def test_tensor_too_many(model, tmp_path, monkeypatch):
    extra = {"bert.embeddings.position_ids": Tensor((4,), lambda: np.arange(4, dtype=np.float32))}
    right = exporting.to_tensors
    monkeypatch.setattr(exporting, "to_tensors", lambda *arguments: right(*arguments) | extra)
    assert "belongs to nothing" in refuse(model, tmp_path)


def without(name):
    right = exporting.to_tensors
    return lambda *arguments: {key: value for key, value in right(*arguments).items() if key != name}


@pytest.mark.parametrize("place", ["layers", "mlm"])
def test_tanh_gelu(model, tmp_path, other_code, place):
    other_code.setattr(encoder if place == "layers" else bert, "gelu", lambda x: jax.nn.gelu(x, approximate=True))
    refuse(model, tmp_path)


def test_tanh_gelu_in_the_config(model, tmp_path, monkeypatch):
    change_config(monkeypatch, "bert", hidden_act="gelu_new")
    refuse(model, tmp_path)


@pytest.mark.parametrize("norm", NORMS)
def test_other_epsilon_in_one_norm(model, tmp_path, other_code, norm):
    """The model's code computes with 1e-6 in one place, whatever its config says."""
    modules = {"embeddings/norm": bert.Embeddings, "mlm/norm": bert.MlmHead}
    owner = modules.get(norm, encoder.Layer)
    right = owner.__call__

    def wrong(self, *arguments):
        object.__setattr__(getattr(self, norm.split("/")[-1]), "epsilon", 1e-6)
        return right(self, *arguments)

    other_code.setattr(owner, "__call__", wrong)
    refuse(model, tmp_path)


def test_other_epsilon_in_the_config(model, tmp_path, monkeypatch):
    change_config(monkeypatch, "bert", layer_norm_eps=1e-6)
    refuse(model, tmp_path)


@pytest.mark.parametrize("pair", [("embeddings/norm", "mlm/norm"), ("layers/attention_norm", "layers/mlp_norm")])
def test_swapped_norms(model, tmp_path, monkeypatch, pair):
    renamed = {}
    for part in ("scale", "bias"):
        first, second = (theirs(f"{norm}/{part}") for norm in pair)
        renamed |= {first: second, second: first}
    use_table(monkeypatch, renamed)
    refuse(model, tmp_path)


@pytest.mark.parametrize("norm", NORMS)
def test_swapped_scale_and_bias(model, tmp_path, monkeypatch, norm):
    scale, bias = theirs(f"{norm}/scale"), theirs(f"{norm}/bias")
    use_table(monkeypatch, {scale: bias, bias: scale})
    refuse(model, tmp_path)


def test_swapped_query_and_key(model, tmp_path, monkeypatch):
    renamed = {}
    for part in ("kernel", "bias"):
        first, second = (theirs(f"layers/attention/{name}/{part}") for name in ("query", "key"))
        renamed |= {first: second, second: first}
    use_table(monkeypatch, renamed)
    refuse(model, tmp_path)


def test_last_positions_exchanged(model, tmp_path, monkeypatch):
    def exchange(table):
        table[[-1, -2]] = table[[-2, -1]]
        return table

    break_tensor(monkeypatch, "embeddings/position/embedding", lambda table: exchange(table.copy()))
    refuse(model, tmp_path)


def test_layers_in_reverse(model, tmp_path, monkeypatch):
    right = Row.names
    monkeypatch.setattr(Row, "names", lambda self, count: right(self, count)[::-1])
    refuse(model, tmp_path)


def test_norm_without_centre(model, tmp_path, other_code):
    """An RMS norm in the model where the files say layer norm."""

    def wrong(self, x):
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.scale[...] + self.bias[...]

    other_code.setattr(layers.LayerNorm, "__call__", wrong)
    refuse(model, tmp_path)


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm", "classification", "regression"])
def test_what_an_export_holds(tmp_path, objective):
    model = save(tmp_path, objective)
    to_hf(model, tmp_path / "hf")
    fields = json.loads((tmp_path / "hf" / "config.json").read_text())
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    names = {"nsp": "BertForPreTraining", "sop": "BertForPreTraining", "mlm": "BertForMaskedLM"}
    assert fields["architectures"] == [names.get(objective, "BertForSequenceClassification")]
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert "bert.embeddings.position_ids" not in tensors
    assert "cls.predictions.decoder.weight" not in tensors
    assert tensors["bert.embeddings.word_embeddings.weight"].shape[0] == fields["vocab_size"]
    assert ("bert.pooler.dense.weight" in tensors) == (objective != "mlm")
    assert ("cls.seq_relationship.weight" in tensors) == (objective in ("nsp", "sop"))
    if objective == "classification":
        assert fields["id2label"] == {"0": "bad", "1": "good", "2": "so so"}
        assert fields["label2id"] == {"bad": 0, "good": 1, "so so": 2}
    probe = load_file(tmp_path / "hf" / "probe.safetensors")
    assert probe["attention_mask"].min() == 0
    assert probe["token_type_ids"].max() == 1
    assert probe["input_ids"].dtype == np.int64


@pytest.mark.parametrize("bias_of", ["pooler/bias", "classifier/bias", "layers/mlp/down/bias"])
def test_classifiers_pass_the_same_gate(tmp_path, monkeypatch, bias_of):
    model = save(tmp_path, "classification")
    break_tensor(monkeypatch, bias_of, np.zeros_like)
    with pytest.raises(ConversionMismatch):
        to_hf(model, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("ours", ["carried/pooler/kernel", "carried/pooler/bias", "carried/decoder_bias"])
def test_what_is_only_carried_passes_the_same_gate(tmp_path, monkeypatch, ours):
    """A pooler is square, and a bias that is not in use changes no output."""
    saved = saved_model(tmp_path, "mlm", tie_word_embeddings=False)
    bias = np.pad(np.ones(27, np.float32), (0, 101))
    carried = {"pooler": random_params(saved.config, "nsp", 1)["pooler"], "decoder_bias": bias}
    checkpoint.save_model(tmp_path / "model", dataclasses.replace(saved, carried=carried))
    break_tensor(monkeypatch, ours, np.transpose if ours.endswith("kernel") else np.zeros_like)
    with pytest.raises(ConversionMismatch):
        to_hf(tmp_path / "model", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_existing_output_is_kept(model, tmp_path):
    (tmp_path / "hf").mkdir()
    with pytest.raises(InputError, match="exists already"):
        to_hf(model, tmp_path / "hf")
    assert list((tmp_path / "hf").iterdir()) == []


def test_deep_model_agrees(tmp_path):
    """Rounding over many layers stays far inside of what is allowed."""
    model = save(tmp_path, "nsp", fresh=True, num_layers=12, hidden_size=32, intermediate_size=64)
    to_hf(model, tmp_path / "hf")


FORMS = {
    "shards": Form("float32", 6000),
    "bfloat16": Form("bfloat16"),
    "bfloat16 shards": Form("bfloat16", 4000),
    "float16": Form("float16"),
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def test_shards_and_halves_hold_the_model(trained, tmp_path, form):
    to_hf(trained, tmp_path / "whole")
    to_hf(trained, tmp_path / "hf", form=form)
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    files = sorted((tmp_path / "hf").glob("model*.safetensors"))
    tensors = {}
    for file in files:
        part = load_file(file)
        assert not tensors.keys() & part.keys()
        tensors |= part
    if form.max_shard_size:
        index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
        assert [file.name for file in files] == sorted(set(index["weight_map"].values())) and len(files) > 2
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        sizes = [sum(tensor.nbytes for tensor in load_file(file).values()) for file in files]
        most = max(tensor.nbytes for tensor in tensors.values())
        assert all(size <= max(form.max_shard_size, most) for size in sizes)
    assert tensors.keys() == whole.keys()
    for name, tensor in whole.items():
        expected = tensor.astype(jax.numpy.dtype(form.dtype))
        assert tensors[name].dtype == expected.dtype and tensors[name].tobytes() == expected.tobytes(), name
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == form.dtype
    report, wrong = verify(tmp_path / "hf")
    assert wrong is None and report["agrees"] and report["dtype"] == form.dtype
    assert report["numpy"]["prediction_logits"]["largest_difference"] < report["numpy"]["prediction_logits"]["allowed"]


@pytest.mark.parametrize("ours", ["layers/attention/key/bias", "layers/attention/key/kernel", "mlm/decoder/bias"])
def test_what_is_lost_in_shards_or_halves(model, tmp_path, monkeypatch, form, ours):
    break_tensor(monkeypatch, ours, np.transpose if ours.endswith("kernel") else np.zeros_like)
    with pytest.raises(ConversionMismatch):
        to_hf(model, tmp_path / "hf", form=form)
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_what_changed(trained, tmp_path):
    to_hf(trained, tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(weights)
    tensors["bert.pooler.dense.bias"] += 1e-3
    save_file(tensors, weights)
    report, wrong = verify(tmp_path / "hf")
    assert not report["agrees"] and "seq_relationship_logits differs from the stored one by" in wrong
    del tensors["bert.pooler.dense.bias"]
    save_file(tensors, weights)
    assert "bert.pooler.dense.bias is missing" in verify(tmp_path / "hf")[1]
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="is damaged"):
        verify(tmp_path / "hf")
    (tmp_path / "hf" / "probe.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no probe.safetensors"):
        verify(tmp_path / "hf")


@pytest.mark.parametrize("size", ["0GB", "2", "GB", "-1MB", "1TB"])
def test_sizes_that_are_none(size):
    with pytest.raises(InputError, match="is no size"):
        parse_size(size)


def test_sizes():
    assert [parse_size(size) for size in ("2GB", "1.5MB", "3 kib")] == [2 * 10**9, 1500000, 3072]
