"""The config's edge: what is right passes unchanged, what is wrong ends in one line that helps."""

import dataclasses
from pathlib import Path

import pytest

from bert_jax.config import Config, DataConfig, default_config, from_dict, max_predictions, to_dict
from bert_jax.config_check import parse
from bert_jax.config_file import load
from data_prep.errors import InputError

CONFIGS = Path(__file__).parent.parent / "configs"


def changed(**fields):
    config = default_config()
    for name, value in fields.items():
        group, _, field = name.partition("__")
        if field:
            config[group][field] = value
        else:
            config[group] = value
    return config


def test_defaults_are_those_of_the_dataclasses():
    assert parse(default_config()) == Config()


def test_a_config_survives_its_json():
    config = parse(changed(train__phases=[dict(num_steps=9, seq_len=128, global_batch_size=8)], seed=5))
    assert from_dict(Config, to_dict(config)) == config
    assert config.num_steps() == 9


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_shipped_recipes_are_right_and_open_with_their_command(path):
    config = load(str(path), ["--config.data.corpus=somewhere"])
    assert config.data.corpus == "somewhere"
    text = path.read_text()
    assert f"bert-jax pretrain --config configs/{path.name}" in text and "Hardware:" in text


def test_the_papers_recipe():
    for name, layers, size in (("bert_base", 12, 768), ("bert_large", 24, 1024)):
        config = load(str(CONFIGS / f"{name}.py"), [])
        assert (config.model.num_layers, config.model.hidden_size) == (layers, size)
        assert [(phase.num_steps, phase.seq_len) for phase in config.phases()] == [(900_000, 128), (100_000, 512)]


@pytest.mark.parametrize(("seq_len", "expected"), [(128, 20), (512, 77), (20, 3)])
def test_max_predictions_is_rounded_up(seq_len, expected):
    assert max_predictions(DataConfig(), seq_len) == expected
    assert max_predictions(dataclasses.replace(DataConfig(), max_predictions=5), seq_len) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model__hidden_size=100), "hidden_size=100 is not divisible by num_heads=12"),
        (dict(data__objective="npp"), "did you mean nsp"),
        (dict(data__masking="xyz"), "known: span, token, whole_word"),
        (dict(data__mlm_documents="across"), "'across' is for objective mlm"),
        (dict(optimizer__decay_share=0.0), "decay_share=0.0 is no share"),
        (dict(optimizer__schedule="cosin"), "did you mean cosine"),
        (
            dict(train__phases=[dict(num_steps=9, seq_len=128, global_batch_size=8, warmup_steps=2)]),
            r"phases\[0\].warmup_steps=2 warms up to no learning_rate",
        ),
        (dict(data__mask_prob=1.5), "mask_prob=1.5"),
        (dict(data__seq_len=1024), "max_position_embeddings=512"),
        (
            dict(train__global_batch_size=10, train__accumulation=4),
            "global_batch_size=10 is not divisible by accumulation=4",
        ),
        (dict(train__num_steps=0), "num_steps=0 is too small"),
        (dict(seed=-1), "config.seed=-1"),
        (dict(optimizer__name="adam"), "did you mean adamw"),
    ],
)
def test_values_that_cannot_work_are_said(fields, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(changed(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "--config.model.hiden_size=64",
            r"config\.model\.hiden_size is not a field; did you mean config\.model\.hidden_size\?",
        ),
        ("--config.modle.hidden_size=64", r"did you mean config\.model\?|known"),
        ("--config.model.hidden_size=wide", "config.model.hidden_size=wide"),
        ("--config.seed.x=1", r"config\.seed\.x is not a field"),
        ("--steps=3", "is not an option"),
    ],
)
def test_overrides_that_are_wrong_are_said(word, message):
    with pytest.raises(InputError, match=message) as caught:
        load(str(CONFIGS / "bert_tiny.py"), [word])
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipe_are_said(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(str(tmp_path / "no.py"), [])
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(InputError, match="does not give a recipe"):
        load(str(broken), [])
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    with pytest.raises(InputError, match="does not give a recipe"):
        load(str(empty), [])


def test_a_field_of_the_wrong_type_is_said():
    with pytest.raises(InputError, match=r"config\.train\.phases\[0\]\.steps is not a field"):
        from_dict(Config, {"train": {"phases": [{"steps": 3}]}})
    with pytest.raises(InputError, match="must be of type int"):
        from_dict(Config, {"train": {"num_steps": "many"}})
    with pytest.raises(InputError, match="must be a group of fields"):
        from_dict(Config, {"train": 3})


def test_the_large_batch_recipe():
    config = load(str(CONFIGS / "bert_large_lamb.py"), [])
    assert config.optimizer.name == "lamb"
    first, second = config.phases()
    assert (first.num_steps, first.global_batch_size, second.num_steps, second.global_batch_size) == (
        *(7038, 65_536),
        *(1563, 32_768),
    )
    assert first.warmup_steps == pytest.approx(0.2843 * 7038, abs=2)
    assert second.warmup_steps == pytest.approx(0.128 * 1563, abs=2)
