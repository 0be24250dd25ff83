"""Which commands go on with a run, and which are refused and why."""

import dataclasses
import json

import pytest

from bert_jax import checkpoint
from bert_jax.config import Config, DataConfig, OptimizerConfig, TrainConfig
from bert_jax.run_directory import check_same_run, prepare
from data_prep.errors import InputError

CONFIG = Config(
    data=DataConfig(corpus="there/corpus"),
    train=TrainConfig(num_steps=100, checkpoint_every=10),
    optimizer=OptimizerConfig(warmup_steps=40, learning_rate=1e-3),
)


def changed(**fields):
    """`group__field=value`."""
    config = CONFIG
    for name, value in fields.items():
        group, _, field = name.partition("__")
        value = dataclasses.replace(getattr(config, group), **{field: value}) if field else value
        config = dataclasses.replace(config, **{group: value})
    return config


class FakeCorpus:
    def __init__(self, fingerprint="f" * 64, tokenizer="t" * 64):
        self.path, self.fingerprint, self.tokenizer_fingerprint = "there/corpus", fingerprint, tokenizer


@pytest.fixture
def run(tmp_path):
    """A run of 20 updates."""
    checkpoint.write_json(tmp_path / "config.json", checkpoint.config_json(CONFIG))
    card = {"corpora": [{"name": "corpus", "fingerprint": "f" * 64, "tokenizer": "t" * 64}]}
    (tmp_path / "run.json").write_text(json.dumps(card))
    for step in (0, 10, 20):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mesh__tensor": 2},
        {"train__log_every": 3},
        {"train__eval_every": 3},
        {"train__checkpoint_every": 3},
        {"checkpoint__keep": 9},
        {"checkpoint__keep_every": 50},
        {"watchdog__peer_seconds": 9},
        {"data__corpus": "moved"},
        {"train__num_steps": 200},  # the rates so far are those of the warm-up, in both
    ],
)
def test_what_enters_no_number_may_change(run, fields):
    assert check_same_run(changed(**fields), [FakeCorpus()], run) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 1}, "config.seed=0, and this command has 1"),
        ({"model__hidden_size": 64}, "config.model.hidden_size=768"),
        ({"data__objective": "mlm"}, "config.data.objective='nsp'"),
        ({"optimizer__learning_rate": 2e-3}, "--change optimizer.learning_rate to go on with the new one"),
        ({"train__global_batch_size": 8}, "config.train.global_batch_size=256"),
        ({"train__num_steps": 20}, "config.train.num_steps=100"),  # nothing more to come
        ({"train__accumulation": 2}, "--change train.accumulation to go on with the new one"),
        ({"model__remat": "full"}, "--change model.remat to go on with the new one"),
    ],
)
def test_another_run_is_refused_with_the_difference(run, fields, message):
    with pytest.raises(InputError, match="was started with") as caught:
        check_same_run(changed(**fields), [FakeCorpus()], run)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_steps_are_fixed_once_the_rate_falls(run):
    (run / "checkpoints" / "50").mkdir()
    with pytest.raises(InputError, match=r"config\.train\.num_steps=100, and this command has 200"):
        check_same_run(changed(train__num_steps=200), [FakeCorpus()], run)


def test_what_the_user_lets_change_changes_and_is_told(run):
    config = changed(optimizer__learning_rate=2e-3)
    changes = check_same_run(config, [FakeCorpus()], run, ["optimizer.learning_rate"])
    assert changes == [{"step": 20, "field": "optimizer.learning_rate", "old": 1e-3, "new": 2e-3}]
    with pytest.raises(InputError, match="--change seed is not possible; fields that may change: optimizer"):
        check_same_run(changed(seed=1), [FakeCorpus()], run, ["seed"])
    with pytest.raises(InputError, match=r"config\.seed=0"):
        check_same_run(changed(seed=1), [FakeCorpus()], run, ["optimizer.learning_rate"])


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ([FakeCorpus(fingerprint="e" * 64)], "is another corpus than .* eeeeeeeeeeee and ffffffffffff"),
        ([FakeCorpus(tokenizer="s" * 64)], "built with another tokenizer than .* ssssssssssss and tttttttttttt"),
        ([FakeCorpus(), FakeCorpus()], "was started with 1 corpora, and this command has 2"),
    ],
)
def test_another_corpus_is_refused_with_the_difference(run, corpora, message):
    with pytest.raises(InputError, match=message):
        check_same_run(CONFIG, corpora, run)


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty and holds no run"):
        check_same_run(CONFIG, [FakeCorpus()], tmp_path)
    assert check_same_run(CONFIG, [FakeCorpus()], tmp_path / "new") == []


def test_a_kill_while_the_directory_is_prepared_does_not_lock_it(tmp_path, monkeypatch):
    corpus = FakeCorpus()
    corpus.tokenizer_dir = tmp_path / "tokenizer"
    corpus.tokenizer_dir.mkdir()
    (corpus.tokenizer_dir / "vocab.txt").write_text("[PAD]")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".123.config.json").write_text('{"half')
    assert check_same_run(CONFIG, [corpus], run) == []

    def dies(source, to):
        to.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("bert_jax.run_directory.shutil.copytree", dies)
        prepare(CONFIG, [corpus], run, [])
    assert check_same_run(CONFIG, [corpus], run) == []
    prepare(CONFIG, [corpus], run, [])
    assert (run / "tokenizer" / "vocab.txt").read_text() == "[PAD]"


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_where_there_can_be_no_directory_it_is_said(tmp_path, place):
    (tmp_path / "file").write_text("")
    workdir = tmp_path / place
    with pytest.raises(InputError, match="name a"):
        check_same_run(CONFIG, [FakeCorpus()], workdir)
        prepare(CONFIG, [FakeCorpus()], workdir, [])


@pytest.mark.parametrize("content", ["", '{"corpora": [', "[]"])
def test_a_damaged_run_card_is_said_and_its_absence_stops_nothing(run, content):
    (run / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json .*; remove it and run the same command again"):
        check_same_run(CONFIG, [FakeCorpus()], run)
    (run / "run.json").unlink()
    assert check_same_run(CONFIG, [FakeCorpus()], run) == []


def start(config, run, monkeypatch=None):
    """One start of the run; a kill when it is about to write the config, where there is a monkeypatch."""
    (run / "tokenizer").mkdir(exist_ok=True)
    changes = check_same_run(config, [FakeCorpus()], run, ["optimizer.learning_rate"])
    write = checkpoint.write_json

    def dies(path, fields):
        if path.name == "config.json":
            raise KeyboardInterrupt
        write(path, fields)

    if monkeypatch is None:
        return prepare(config, [FakeCorpus()], run, changes)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("bert_jax.checkpoint.write_json", dies)
        prepare(config, [FakeCorpus()], run, changes)


def test_no_change_is_lost_or_told_twice_by_a_kill(run, monkeypatch):
    def recorded():
        changes = json.loads((run / "run.json").read_text())["changes"]
        assert all(change["step"] == 20 for change in changes)
        return [(change["old"], change["new"]) for change in changes]

    faster, slower = changed(optimizer__learning_rate=2e-3), changed(optimizer__learning_rate=5e-4)
    start(faster, run, monkeypatch)
    assert recorded() == [(1e-3, 2e-3)]
    start(faster, run)
    assert recorded() == [(1e-3, 2e-3)]
    start(slower, run, monkeypatch)
    assert recorded() == [(1e-3, 2e-3), (2e-3, 5e-4)]
    start(faster, run)  # after all: the change that was cut short has not come about
    assert recorded() == [(1e-3, 2e-3)]
    start(slower, run)
    start(faster, run)
    assert recorded() == [(1e-3, 2e-3), (2e-3, 5e-4), (5e-4, 2e-3)]
