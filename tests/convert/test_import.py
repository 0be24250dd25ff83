"""Hugging Face directories come in bit for bit, or with one line that says why not."""

import dataclasses
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from saved_models import SPECIALS, WORDS, save, saved_model
from small_bert import model_config

from bert_jax import checkpoint
from bert_jax.config import Config, DataConfig, ExtendConfig, ModelConfig
from bert_jax.convert import Form, from_hf, open_model, to_hf, torch_files
from bert_jax.convert.exporting import _write_model
from bert_jax.convert.importing import read_hf
from bert_jax.convert.initialise import initial_params
from bert_jax.convert.mapping import leaves
from bert_jax.model.bert import abstract_params
from data_prep.errors import InputError
from data_prep.tokenizer import load_tokenizer

WORD = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A Hugging Face directory with both heads."""
    folder = tmp_path_factory.mktemp("exported")
    to_hf(save(folder, "nsp"), folder / "hf")
    return folder / "hf"


@pytest.fixture
def hf(exported, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(exported, tmp_path / "hf")


def change(directory, tensors=None, **fields):
    """Rewrites tensors (a function of the dict, in place) and fields of the config (None removes)."""
    if tensors:
        loaded = load_file(directory / "model.safetensors")
        tensors(loaded)
        save_file(loaded, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config))


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


def same_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_bit_for_bit(hf, tmp_path):
    from_hf(hf, tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again")
    same(load_file(hf / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors"))
    assert (hf / "config.json").read_text() == (tmp_path / "again" / "config.json").read_text()
    assert (hf / "tokenizer.json").read_bytes() == (tmp_path / "again" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("halves", [("LayerNorm",), ("bert.", "cls."), ("query",)])
def test_each_tensor_comes_back_in_its_own_kind(hf, tmp_path, halves):
    """All of a model in float16, or some of it in bfloat16; and float32 where one asks for it."""
    kind = np.float16 if len(halves) > 1 else ml_dtypes.bfloat16

    def halve(tensors):
        chosen = [name for name in tensors if any(part in name for part in halves)]
        tensors.update({name: tensors[name].astype(kind) for name in chosen})

    change(hf, halve)
    from_hf(hf, tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "again")
    before = load_file(hf / "model.safetensors")
    same(before, load_file(tmp_path / "again" / "model.safetensors"))
    usual = "float16" if len(halves) > 1 else "float32"
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == usual
    if usual == "float16":
        to_hf(tmp_path / "ours", tmp_path / "wide", form=Form("float32"))
        wide = {name: value.astype(np.float32) for name, value in before.items()}
        same(wide, load_file(tmp_path / "wide" / "model.safetensors"))


def test_what_float16_cannot_hold(tmp_path):
    model = saved_model(tmp_path, "mlm")
    model.params["mlm"]["transform"]["bias"][0] = 70000.0
    checkpoint.save_model(tmp_path / "model", model)
    with pytest.raises(InputError, match=r"--dtype float16 ends at 65504, and a bias of the model has 70000"):
        to_hf(tmp_path / "model", tmp_path / "hf", form=Form("float16"))
    assert not (tmp_path / "hf").exists()


def test_shards_with_an_index(hf):
    whole = read_hf(hf)
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, hf / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    same_trees(read_hf(hf).params, whole.params)
    (hf / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-2.safetensors does not exist"):
        read_hf(hf)
    index["weight_map"]["x"] = "../model.safetensors"
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="lies elsewhere"):
        read_hf(hf)


def test_bare_encoder_starts_heads_fresh(hf, tmp_path, capsys):
    whole = read_hf(hf)
    tensors = load_file(hf / "model.safetensors")
    bare = {name.removeprefix("bert."): value for name, value in tensors.items() if name.startswith("bert.")}
    bare["embeddings.position_ids"] = np.arange(20)[None]
    save_file(bare, hf / "model.safetensors")
    change(hf, architectures=["BertModel"])
    from_hf(hf, tmp_path / "ours")
    said = capsys.readouterr().err
    assert "no mlm head (cls.predictions.bias" in said
    assert "no nsp head (cls.seq_relationship.bias" in said
    assert "left out" not in said
    model = checkpoint.load_model(tmp_path / "ours")
    for part in ("embeddings", "layers", "pooler"):
        same_trees(model.params[part], whole.params[part])
    assert np.std(model.params["nsp"]["kernel"]) > 0
    assert np.all(model.params["mlm"]["norm"]["scale"] == 1)


def test_old_names_copies_and_half_precision(hf, capsys):
    whole = read_hf(hf)

    def old(tensors):
        tensors["cls.predictions.decoder.weight"] = tensors[WORD].copy()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
        for name in [name for name in tensors if "LayerNorm" in name]:
            end = {"weight": "gamma", "bias": "beta"}[name.split(".")[-1]]
            tensors[f"{name.rsplit('.', 1)[0]}.{end}"] = tensors.pop(name)

    change(hf, old)
    same_trees(read_hf(hf).params, whole.params)
    copies = "cls.predictions.decoder.bias, cls.predictions.decoder.weight"
    assert capsys.readouterr().err == f"{hf}: left to transformers, which makes it of others: {copies}\n"

    for kind in (np.float16, ml_dtypes.bfloat16):
        change(hf, lambda tensors, kind=kind: tensors.update({k: v.astype(kind) for k, v in tensors.items()}))
        half = jax.tree.map(lambda leaf, kind=kind: leaf.astype(kind).astype(np.float32), whole.params)
        same_trees(read_hf(hf).params, half)
        whole = read_hf(hf)


def test_untied_decoder(tmp_path, capsys):
    model = save(tmp_path, "nsp", tie_word_embeddings=False)
    to_hf(model, tmp_path / "hf")
    tensors, saved = load_file(tmp_path / "hf" / "model.safetensors"), checkpoint.load_model(model)
    decoder = saved.params["mlm"]["decoder"]
    np.testing.assert_array_equal(tensors["cls.predictions.decoder.weight"], decoder["embedding"][:27])
    assert not np.array_equal(tensors["cls.predictions.decoder.weight"], tensors[WORD])
    for name in ("cls.predictions.decoder.bias", "cls.predictions.bias"):
        np.testing.assert_array_equal(tensors[name], decoder["bias"][:27])

    from_hf(tmp_path / "hf", tmp_path / "ours")
    assert capsys.readouterr().err == ""
    to_hf(tmp_path / "ours", tmp_path / "again")
    same(tensors, load_file(tmp_path / "again" / "model.safetensors"))

    # transformers trains the decoder's own bias and leaves the other as it was
    change(tmp_path / "hf", lambda tensors: tensors["cls.predictions.bias"].fill(0.0))
    read = read_hf(tmp_path / "hf")
    np.testing.assert_array_equal(read.params["mlm"]["decoder"]["bias"][:27], decoder["bias"][:27])
    from_hf(tmp_path / "hf", tmp_path / "two")
    assert capsys.readouterr().err == ""
    to_hf(tmp_path / "two", tmp_path / "both")
    same(load_file(tmp_path / "hf" / "model.safetensors"), load_file(tmp_path / "both" / "model.safetensors"))
    change(tmp_path / "hf", lambda tensors: tensors.pop("cls.predictions.bias"))
    same_trees(read_hf(tmp_path / "hf").params, read.params)
    assert capsys.readouterr().err == "" and not read_hf(tmp_path / "hf").carried


def test_unexpected_tensors_are_named(hf, capsys):
    change(hf, lambda tensors: tensors.update({"bert.adapter.weight": np.ones(3, np.float32)}))
    read_hf(hf)
    assert "left out, since it belongs to nothing here: bert.adapter.weight" in capsys.readouterr().err


def test_however_many_unexpected_tensors_are_named(hf, capsys):
    extra = [f"bert.adapter.{i}.weight" for i in range(30)]
    change(hf, lambda tensors: tensors.update(dict.fromkeys(extra, np.ones(2, np.float32))))
    read_hf(hf)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": " + ", ".join(sorted(extra)))


def test_positions_that_do_not_count_up_are_named(hf, capsys):
    ids = "bert.embeddings.position_ids"
    for positions, said in (([0, 1, 2], "left to transformers"), ([0, 2, 1], "belongs to nothing here")):
        change(hf, lambda tensors, positions=positions: tensors.update({ids: np.array([positions])}))
        read_hf(hf)
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and line.endswith(f": {ids}")


def test_two_tensors_of_one_name(hf):
    """An old name beside today's, and a name in two shards: which one is meant nobody can know."""
    norm = "bert.embeddings.LayerNorm"
    change(hf, lambda tensors: tensors.update({f"{norm}.gamma": tensors[f"{norm}.weight"] + 5}))
    with pytest.raises(InputError, match=rf"both {norm}.gamma and {norm}.weight"):
        read_hf(hf)
    change(hf, lambda tensors: tensors.pop(f"{norm}.gamma"))
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").rename(hf / "model-1.safetensors")
    save_file({WORD: tensors[WORD] + 1}, hf / "model-2.safetensors")
    places = dict.fromkeys(tensors, "model-1.safetensors") | {WORD: "model-2.safetensors"}
    (hf / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(InputError, match=rf"model-2.safetensors holds {WORD}, and so does .*model-1.safetensors"):
        read_hf(hf)


def test_masked_model_that_carries_both_heads_keeps_them(hf):
    change(hf, architectures=["BertForMaskedLM"])
    assert read_hf(hf).objective == "nsp"


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        (None, {"architectures": ["RobotForCausalLM"]}, "RobotForCausalLM is not known; known are BertForPreTraining"),
        (None, {"architectures": 3}, "must name one of BertForPreTraining"),
        (None, {"model_type": "roberta"}, "does not belong"),
        (None, {"auto_map": {"AutoModel": "code.Model"}}, "never run"),
        (None, {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; only 'gelu'"),
        (
            None,
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; only 'absolute'",
        ),
        (None, {"is_decoder": True}, "is_decoder is True; only False"),
        (None, {"add_cross_attention": True}, "add_cross_attention is True; only False"),
        (None, {"hidden_size": "16"}, "hidden_size is '16'"),
        (None, {"hidden_size": 32}, "has shape .* asks for"),
        (None, {"num_attention_heads": 3}, "not divisible"),
        (None, {"layer_norm_eps": -1.0}, "layer_norm_eps"),
        (None, {"num_hidden_layers": 3}, "lacks bert.encoder.layer.2.attention.output.LayerNorm.bias"),
        (lambda t: t.pop("bert.encoder.layer.1.output.dense.bias"), {}, "lacks bert.encoder.layer.1.output.dense.bias"),
        (lambda t: t.pop("bert.pooler.dense.bias"), {}, "lacks bert.pooler.dense.bias"),
        (lambda t: t.update({WORD: t[WORD][:-1].copy()}), {}, "word_embeddings.weight has shape"),
        (lambda t: t.update({WORD: t[WORD].astype(np.int32)}), {}, "of type I32"),
        (lambda t: t[WORD].fill(np.nan), {}, "holds NaN"),
        (lambda t: t[WORD].fill(np.inf), {}, "holds NaN or infinity"),
        (lambda t: t.update({"cls.predictions.decoder.weight": t[WORD] + 1}), {}, "says they are tied"),
        (None, {"tie_word_embeddings": 1}, "must be true or false"),
        (None, {"tie_word_embeddings": False}, "lacks cls.predictions.decoder.weight"),
    ],
)
def test_bad_models(hf, tmp_path, tensors, fields, message):
    change(hf, tensors, **fields)
    with pytest.raises(InputError, match=message) as error:
        from_hf(hf, tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights(hf, kept):
    file = hf / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model.safetensors is damaged"):
        read_hf(hf)


def test_other_bad_directories(hf, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no steps"):
        open_model(hf, 3)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        from_hf(hf, tmp_path / "there")
    (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
    monkeypatch.setattr(torch_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"PyTorch, which is not installed: pip install 'bert-jax\[hf\]'"):
        read_hf(hf)
    (hf / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="holds no model"):
        read_hf(hf)
    (hf / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        from_hf(hf, tmp_path / "ours")


def test_tokenizer_larger_than_the_embeddings(hf, tmp_path):
    change(
        hf,
        lambda t: t.update({WORD: t[WORD][:20].copy(), "cls.predictions.bias": t["cls.predictions.bias"][:20].copy()}),
    )
    change(hf, vocab_size=20)
    with pytest.raises(InputError, match="the tokenizer has 27 entries, the embeddings 20"):
        from_hf(hf, tmp_path / "ours")


def test_padding_of_another_tokenizer(tmp_path):
    """RoBERTa's positions begin after its padding's id, so another padding would move them all."""
    saved = saved_model(tmp_path, "mlm", family="roberta", position_offset=2, type_vocab_size=1)
    _write_model(tmp_path / "words", saved, 1, Form())
    with pytest.raises(InputError, match=r"positions begin after id 1 .* \[PAD\] is 0; use the tokenizer that belongs"):
        from_hf(tmp_path / "words", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_classifier_comes_back(tmp_path):
    model = saved_model(tmp_path, "classification")
    to_hf(save(tmp_path, "classification"), tmp_path / "hf")
    read = read_hf(tmp_path / "hf")
    assert (read.objective, read.card["labels"]) == ("classification", ["bad", "good", "so so"])
    same_trees(read.params["layers"], model.params["layers"])
    same_trees(read.params["classifier"], model.params["classifier"])


@pytest.mark.parametrize("problem", [None, "regression", "single_label_classification"])
@pytest.mark.parametrize("names", [["relevance"], ["no", "yes"]])
def test_what_an_imported_classifier_says_of_its_outputs_comes_back(tmp_path, problem, names):
    if problem == "regression" and len(names) > 1:
        return
    fields = {"problem_type": problem, "id2label": {str(i): name for i, name in enumerate(names)}}
    model, head = (
        saved_model(tmp_path, "classification"),
        {"kernel": np.ones((16, len(names))), "bias": np.ones(len(names))},
    )
    model.params["classifier"] = head
    _write_model(tmp_path, dataclasses.replace(model, card={"labels": names}), 0, Form())
    change(tmp_path, **fields)
    (tmp_path / "again").mkdir()
    _write_model(tmp_path / "again", read_hf(tmp_path), 0, Form())
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in (".", "again"))
    assert after == before and after.get("problem_type") == problem and after["id2label"] == fields["id2label"]


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("bert", {"initializer_range": 0.05, "classifier_dropout": 0.3}),
        ("bert", {"classifier_dropout": None}),
        ("distilbert", {"seq_classif_dropout": 0.4, "qa_dropout": 0.3, "sinusoidal_pos_embds": True}),
    ],
)
def test_fields_of_training_come_back(tmp_path, family, fields):
    """They matter to who goes on in transformers."""
    sizes = {"type_vocab_size": 0} if family == "distilbert" else {}
    _write_model(tmp_path, saved_model(tmp_path, "classification", family=family, **sizes), 0, Form())
    said = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps(said))
    checkpoint.save_model(tmp_path / "ours", dataclasses.replace(read_hf(tmp_path), tokenizer_dir=tmp_path / "words"))
    (tmp_path / "again").mkdir()
    _write_model(tmp_path / "again", checkpoint.load_model(tmp_path / "ours"), 0, Form())
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == said


@pytest.mark.parametrize(
    ("objective", "problem"), [("classification", "single_label_classification"), ("regression", "regression")]
)
def test_what_a_classifier_trained_here_says_of_its_outputs(tmp_path, objective, problem):
    _write_model(tmp_path, saved_model(tmp_path, objective), 0, Form())
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == problem


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "multi_label_classification is not supported; each row must"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'"),
        ({"problem_type": "regression"}, "a regression of 3 numbers is not supported"),
        ({"id2label": None, "num_labels": "3"}, "num_labels is '3'"),
        ({"id2label": None, "num_labels": 0}, "num_labels is 0"),
        ({"id2label": {}}, "id2label is {}"),
        ({"id2label": {"0": "a", "1": ["b"], "2": "c"}}, r"id2label is \{'0': 'a', '1'.* must map"),
        ({"id2label": {"0": "a", "2": "b"}}, "must map"),
        ({"id2label": ["a", "b"]}, "must map"),
    ],
)
def test_labels_that_are_none(tmp_path, fields, message):
    _write_model(tmp_path, saved_model(tmp_path, "classification"), 0, Form())
    change(tmp_path, **fields)
    with pytest.raises(InputError, match=message):
        read_hf(tmp_path)


def run_of(model: ModelConfig, init, objective="nsp", seed=0) -> Config:
    return Config(seed=seed, init=str(init), model=model, data=DataConfig(objective=objective))


def test_starting_a_run_from_a_directory(hf, tmp_path, capsys):
    tokenizer, saved = load_tokenizer(hf), read_hf(hf)
    assert initial_params(run_of(saved.config, ""), tokenizer) is None
    same_trees(initial_params(run_of(saved.config, hf, "sop"), tokenizer), saved.params)
    assert capsys.readouterr().err == ""
    masked = initial_params(run_of(saved.config, hf, "mlm"), tokenizer)
    assert masked.keys() == {"embeddings", "layers", "mlm"}
    assert capsys.readouterr().err == f"{hf}: its nsp, pooler left out, which objective mlm has no use for\n"
    _write_model(hf, saved_model(tmp_path, "classification"), 0, Form())
    initial_params(run_of(saved.config, hf, "mlm"), tokenizer)
    said = capsys.readouterr().err
    assert "no mlm head: started fresh" in said and "its classifier, pooler left out" in said
    carrying = dataclasses.replace(saved_model(tmp_path, "mlm"), carried={"pooler": saved.params["pooler"]})
    _write_model(hf, carrying, 0, Form())
    initial_params(run_of(saved.config, hf, "mlm"), tokenizer)
    assert capsys.readouterr().err == f"{hf}: its pooler left out, which objective mlm has no use for\n"

    to_hf(save(tmp_path, "mlm"), tmp_path / "masked")
    both = initial_params(run_of(saved.config, tmp_path / "masked"), tokenizer)
    assert "no nsp, pooler head: started fresh" in capsys.readouterr().err
    assert jax.tree.map(np.shape, both) == jax.tree.map(np.shape, saved.params)

    with pytest.raises(InputError, match=r"has hidden_size=16, the run asks for config.model.hidden_size=32"):
        initial_params(run_of(model_config(vocab_size=27, hidden_size=32), hf), tokenizer)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text((hf / "vocab.txt").read_text().replace("river", "mountain"))
    with pytest.raises(InputError, match="another tokenizer"):
        initial_params(run_of(saved.config, hf), load_tokenizer(tmp_path / "other"))


def extended(config: Config, **changes) -> Config:
    """The same run, with sizes of its model changed, that may extend what it starts from."""
    model = dataclasses.replace(config.model, **changes)
    return dataclasses.replace(config, model=model, extend=ExtendConfig(vocabulary=True, positions=True))


def grown(hf, directory, *words, take=None):
    """The tokenizer of a directory with words added behind, and one in the place of the piece `take`."""
    directory.mkdir()
    text = (hf / "vocab.txt").read_text()
    (directory / "vocab.txt").write_text(
        (text.replace(take, "swapped") if take else text) + "".join(f"{w}\n" for w in words)
    )
    return load_tokenizer(directory)


def test_added_tokens_begin_as_the_mean(hf, tmp_path, capsys):
    saved, words = read_hf(hf), [f"word{i}" for i in range(110)]  # past the 128 rows of the padded table
    tokenizer = grown(hf, tmp_path / "more", *words)
    run = run_of(dataclasses.replace(saved.config, vocab_size=137), hf)
    with pytest.raises(InputError, match=r"lacks 110 tokens .* --config.extend.vocabulary=True"):
        initial_params(run, tokenizer)
    params = initial_params(extended(run), tokenizer)
    assert "lacks 110 tokens (word0 word1 word2 word3 word4 ...)" in capsys.readouterr().err
    for path in ("embeddings/word/embedding", "mlm/decoder/bias"):
        old, new = (dict(leaves(tree))[path] for tree in (saved.params, params))
        assert new.shape[0] == 256
        np.testing.assert_array_equal(new[:27], old[:27])
        np.testing.assert_allclose(
            new[27:137], np.broadcast_to(old[:27].mean(0), new[27:137].shape), rtol=1e-5, atol=1e-7
        )
        assert not new[137:].any()
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, abstract_params(run.model, "nsp"))


def test_tokens_in_the_place_of_unused_ones(tmp_path):
    source = tmp_path / "words_vocab"
    source.mkdir()
    (source / "vocab.txt").write_text("\n".join([*SPECIALS, "[unused0]", *WORDS]) + "\n")
    load_tokenizer(source).save(tmp_path / "words")
    model = saved_model(tmp_path, "mlm", vocab_size=28)
    checkpoint.save_model(tmp_path / "model", model)
    tokenizer = grown(source, tmp_path / "more", take="[unused0]")
    params = initial_params(extended(run_of(model.config, tmp_path / "model", "mlm")), tokenizer)
    old, new = (tree["embeddings"]["word"]["embedding"] for tree in (model.params, params))
    kept = np.delete(np.arange(28), 5)
    np.testing.assert_array_equal(new[kept], old[kept])
    np.testing.assert_allclose(new[5], old[kept].mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_more_positions_repeat_the_learned_ones(tmp_path, family):
    sizes = {"family": family, "position_offset": 1 if family == "roberta" else 0}
    saved, directory = saved_model(tmp_path, "mlm", **sizes), save(tmp_path, "mlm", **sizes)
    tokenizer = load_tokenizer(saved.tokenizer_dir)
    run = run_of(dataclasses.replace(saved.config, max_position_embeddings=50), directory, "mlm")
    with pytest.raises(InputError, match=r"max_position_embeddings=20, .*=50; .* --config.extend.positions=True"):
        initial_params(run, tokenizer)
    params = initial_params(extended(run), tokenizer)
    table, learned = params["embeddings"]["position"]["embedding"], saved.params["embeddings"]["position"]["embedding"]
    offset = saved.config.position_offset
    first, learned = learned[:offset], learned[offset:]
    np.testing.assert_array_equal(table, np.concatenate([first, learned, learned, learned[:10]]))
    same_trees(params["layers"], saved.params["layers"])
    with pytest.raises(InputError, match=r"has max_position_embeddings=20, the run asks for .*=10; give"):
        initial_params(extended(run, max_position_embeddings=10), tokenizer)


def test_untied_tables_grow_together(hf, tmp_path):
    words, saved = [f"word{i}" for i in range(110)], saved_model(tmp_path, "mlm", tie_word_embeddings=False)
    checkpoint.save_model(tmp_path / "model", saved)
    run = run_of(dataclasses.replace(saved.config, vocab_size=137), tmp_path / "model", "mlm")
    params = initial_params(extended(run), grown(hf, tmp_path / "more", *words))
    for path in ("embeddings/word/embedding", "mlm/decoder/embedding", "mlm/decoder/bias"):
        old, new = (dict(leaves(tree))[path] for tree in (saved.params, params))
        np.testing.assert_array_equal(new[:27], old[:27])
        mean = np.broadcast_to(old[:27].mean(0), new[27:137].shape)
        np.testing.assert_allclose(new[27:137], mean, rtol=1e-5, atol=1e-7, err_msg=path)
        assert len(new) == 256 and not new[137:].any()
    tables = params["embeddings"]["word"]["embedding"], params["mlm"]["decoder"]["embedding"]
    assert not np.array_equal(*tables)


def test_rows_past_the_tokenizer_are_left_out(tmp_path):
    model = saved_model(tmp_path, vocab_size=200)
    checkpoint.save_model(tmp_path / "model", model)
    run = run_of(dataclasses.replace(model.config, vocab_size=27), tmp_path / "model")
    params = initial_params(run, load_tokenizer(model.tokenizer_dir))
    old, new = (tree["embeddings"]["word"]["embedding"] for tree in (model.params, params))
    assert new.shape == (128, 16)
    np.testing.assert_array_equal(new[:27], old[:27])
    assert not new[27:].any()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda text: text.replace("river", "mountain") + "more\n",
            "id 13 is 'river' in it, 'mountain' in the corpus's",
        ),
        (lambda text: text.replace("sad\n", ""), "it has 27 entries, the corpus's 26"),
        (lambda text: text + "Upper\n", "its normalizer is"),
    ],
)
def test_a_tokenizer_that_does_not_extend_the_models(hf, tmp_path, damage, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text(damage((hf / "vocab.txt").read_text()))
    with pytest.raises(InputError, match=f"another tokenizer than the corpus: {message}"):
        initial_params(extended(run_of(read_hf(hf).config, hf)), load_tokenizer(tmp_path / "other"))
