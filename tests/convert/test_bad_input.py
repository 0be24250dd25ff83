"""What `convert` is given wrong, by the command: one line, exit 2, nothing left behind."""

import contextlib
import json
import resource
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from saved_models import save

from bert_jax.cli import main
from bert_jax.convert import reading, to_hf

WORD, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model of ours, and the same as a Hugging Face directory."""
    folder = tmp_path_factory.mktemp("whole")
    to_hf(save(folder, "nsp", hidden_size=64, intermediate_size=256), folder / "hf")
    return folder


def refused(capsys, *words) -> str:
    """The one line of a command that must exit with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == "" and said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


def change_fields(**changes):
    def damage(hf):
        fields = json.loads((hf / "config.json").read_text())
        (hf / "config.json").write_text(json.dumps(fields | changes))

    return damage


def change_tensors(change):
    def damage(hf):
        tensors = load_file(hf / "model.safetensors")
        change(tensors)
        save_file(tensors, hf / "model.safetensors")

    return damage


def cut(hf):
    file = hf / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def bare_with_nan(hf):
    """Two heads begin fresh, which nobody needs to know of a model that cannot be read."""
    tensors = {name.removeprefix("bert."): value for name, value in load_file(hf / "model.safetensors").items()}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("cls.")}
    tensors["pooler.dense.bias"][0] = np.nan
    save_file(tensors, hf / "model.safetensors")
    change_fields(architectures=["BertModel"])(hf)


def scramble(hf):
    (hf / "model.safetensors").write_bytes(b"\xff" * 4096)


def smaller_embeddings(hf):
    change_tensors(lambda t: t.update({name: t[name][:20].copy() for name in (WORD, BIAS)}))(hf)
    change_fields(vocab_size=20)(hf)


DAMAGES = {
    "unknown architecture": (change_fields(architectures=["RobotModel"]), "RobotModel is not known; known are BertFor"),
    "truncated": (cut, "model.safetensors is damaged"),
    "damaged": (scramble, "model.safetensors is damaged"),
    "NaN": (change_tensors(lambda t: t[WORD][3].fill(np.nan)), "holds NaN or infinity"),
    "NaN, bare": (bare_with_nan, "tensor pooler.dense.bias holds NaN or infinity"),
    "infinity": (change_tensors(lambda t: t[BIAS][:1].fill(-np.inf)), "holds NaN or infinity"),
    "shapes": (change_fields(intermediate_size=32), "has shape (64, 256); config.json asks for (64, 32)"),
    "tokenizer": (smaller_embeddings, "the tokenizer has 27 entries, the embeddings 20"),
    "many words": (change_fields(vocab_size=10**13), "vocab_size is 10000000000000; it must be"),
    "many positions": (change_fields(max_position_embeddings=10**14), "max_position_embeddings is 1000000"),
    "many layers": (change_fields(num_hidden_layers=10**8), "num_hidden_layers is 100000000; it must be"),
    "remote code": (change_fields(auto_map={"AutoModel": "modeling.Model"}), "never run"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_bad_models(whole, tmp_path, capsys, name):
    damage, message = DAMAGES[name]
    damage(shutil.copytree(whole / "hf", tmp_path / "hf"))
    assert message in refused(capsys, "convert", "from-hf", tmp_path / "hf", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_no_room_is_made_for_sizes_that_are_wrong(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading.np, "zeros", lambda *arguments: pytest.fail("made room"))
    change_fields(vocab_size=10**9)(shutil.copytree(whole / "hf", tmp_path / "hf"))
    said = refused(capsys, "convert", "from-hf", tmp_path / "hf", tmp_path / "ours")
    assert "has shape (27, 64); config.json asks for (1000000000, 64)" in said or "asks for (1000000000,)" in said


@pytest.mark.parametrize(("way", "source"), [("from-hf", "hf"), ("to-hf", "model")])
def test_output_that_exists(whole, tmp_path, capsys, way, source):
    (tmp_path / "there").mkdir()
    assert "there exists already" in refused(capsys, "convert", way, whole / source, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(("way", "source"), [("from-hf", "hf"), ("to-hf", "model")])
@pytest.mark.parametrize("below", ["file/out", "file/deep/out", "dangling", "dangling/out"])
def test_output_where_none_can_be(whole, tmp_path, capsys, way, source, below):
    (tmp_path / "file").write_text("text")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    said = refused(capsys, "convert", way, whole / source, tmp_path / below)
    assert "exists already" in said if below == "dangling" else "is no directory" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@contextlib.contextmanager
def files_of_at_most(size):
    """No file can grow past `size` bytes: a write fails in the middle, as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("size", [1000, 60_000])  # fails in the tokenizer's files; in the weights
@pytest.mark.parametrize(("way", "source"), [("from-hf", "hf"), ("to-hf", "model")])
def test_no_space(whole, tmp_path, capsys, way, source, size):
    with files_of_at_most(size):
        said = refused(capsys, "convert", way, whole / source, tmp_path / "new" / "deep" / "out")
    assert "File too large" in said and "free" in said
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(whole, tmp_path, capsys):
    (tmp_path / "old").mkdir()
    with files_of_at_most(1000):
        refused(capsys, "convert", "from-hf", whole / "hf", tmp_path / "old" / "new" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"intermediate_size": 32}, 1, "has shape (256, 64); config.json says (32, 64)"),
        ({"vocab_size": "x"}, 1, "has shape (27, 64); config.json says ('x', 64)"),
        ({"hidden_size": "x"}, 1, "config.json says (27, 'x')"),
        ({"num_attention_heads": 0}, 2, "is damaged"),
        ({"hidden_act": "relu"}, 2, "is damaged"),
        ({"architectures": []}, 2, "architectures is []; it must name one class"),
        ({"architectures": None}, 2, "architectures is None; it must name one class"),
        ({"architectures": [3]}, 2, "architectures is [3]; it must name one class"),
    ],
)
def test_verify_of_a_config_that_was_changed(whole, tmp_path, capsys, fields, code, message):
    """With PyTorch or without (a notice says so): the comparison failed, or there is none."""
    change_fields(**fields)(shutil.copytree(whole / "hf", tmp_path / "hf"))
    with pytest.raises(SystemExit) as end:
        main(["verify", str(tmp_path / "hf")])
    said = capsys.readouterr()
    (error,) = (line for line in said.err.splitlines() if not line.startswith("PyTorch is not installed"))
    assert end.value.code == code and message in error, said.err
    assert (code == 1) == bool(said.out) and (code == 2 or not json.loads(said.out)["agrees"])
