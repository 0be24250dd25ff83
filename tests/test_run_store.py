"""The store of a run: what is whole in it, whose copy counts, what damage and refusals do to it.

`memory://` is a store in this process; a machine is a `BERT_JAX_CACHE`.
"""

import shutil

import fsspec
import pytest

from bert_jax import checkpoint, checksums
from bert_jax.run_copy import local_run
from bert_jax.run_store import NotFetched, RunStore, StoreRefused, stored_steps
from data_prep.errors import InputError
from data_prep.storage import Folder


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Opens the store as a machine sees it."""
    fsspec.filesystem("memory").store.clear()

    def open_at(machine):
        monkeypatch.setenv("BERT_JAX_CACHE", str(tmp_path / machine))
        return RunStore("memory://bucket/run")

    return open_at


def save(opened, step, content=b"x"):
    """A checkpoint in the mirror."""
    folder = opened.mirror / "checkpoints" / str(step)
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "a").write_bytes(content + b" a" * step)
    (folder / "params" / "b").write_bytes(content)
    checksums.write(folder)


def begin(opened):
    """What a command does before it trains."""
    opened.fetch(leader=True)
    (opened.mirror / "config.json").write_text("{}")
    (opened.mirror / "tokenizer").mkdir(exist_ok=True)
    (opened.mirror / "tokenizer" / "vocab.txt").write_text("[PAD]")
    opened.begin()


def stay(*staying):
    return lambda steps: [step in staying for step in steps]


ALL = stay(*range(1000))


def objects():
    return set(Folder("memory://bucket/run").sizes())


def test_what_is_in_the_store_and_what_other_machines_get(store):
    one = store("one")
    begin(one)
    for step, staying in ((0, ALL), (5, ALL), (10, stay(0, 10))):
        save(one, step)
        (one.mirror / "metrics.jsonl").write_text(f"logged before {step}")
        one.upload(step, staying)
    names = {f"checkpoints/{step}/{name}" for step in (0, 10) for name in ("params/a", "params/b", checksums.FILE)}
    assert objects() == names | {".run_id", "config.json", "tokenizer/vocab.txt", "metrics.jsonl"}
    two = store("two")
    two.fetch(leader=True)
    assert checkpoint.saved_steps(two.mirror) == [10] and (two.mirror / "metrics.jsonl").read_text()[-2:] == "10"
    assert (two.mirror / "tokenizer" / "vocab.txt").exists() and two.mirror != one.mirror
    two.fetch_checkpoint(0)
    assert checksums.damage(two.mirror / "checkpoints" / "0") is None


def test_what_the_store_did_not_take_counts_unless_somebody_went_on_elsewhere(store):
    one = store("one")
    begin(one)
    save(one, 0)
    one.upload(0, ALL)
    save(one, 5, b"of one")
    (one.mirror / "metrics.jsonl").write_text("of one")
    kept = shutil.copytree(one.mirror, one.mirror.with_name("kept"))

    two = store("two")
    begin(two)
    save(two, 3)
    two.upload(3, ALL)
    one = store("one")
    begin(one)
    assert stored_steps(list(objects())) == [0, 3] and checkpoint.saved_steps(one.mirror) == [0, 3]
    assert not (one.mirror / "metrics.jsonl").exists()

    shutil.rmtree(one.mirror)
    kept.rename(one.mirror)
    Folder("memory://bucket/run/checkpoints/3").remove()
    begin(one)
    assert stored_steps(list(objects())) == [0, 5]
    assert Folder("memory://bucket/run").read("metrics.jsonl") == b"of one"


def test_a_change_is_in_the_card_of_the_store_before_it_is_in_its_config(store, monkeypatch):
    one = store("one")
    begin(one)
    real = Folder.write

    def refuse_config(self, name, content):
        if name == "config.json":
            raise InputError("killed here")
        real(self, name, content)

    monkeypatch.setattr(Folder, "write", refuse_config)
    (one.mirror / "run.json").write_text('{"changes": [{"field": "train.accumulation"}]}')
    (one.mirror / "config.json").write_text('{"changed": true}')
    with pytest.raises(InputError, match="killed here"):
        one.begin()
    two = store("two")
    two.fetch(leader=True)
    assert "train.accumulation" in (two.mirror / "run.json").read_text()
    assert (two.mirror / "config.json").read_text() == "{}"


def test_a_log_goes_up_when_it_has_changed_and_not_again(store, monkeypatch):
    written, real = [], Folder.write

    def write(self, name, content):
        written.append(name)
        real(self, name, content)

    def sent():
        names = {name for name in written if name not in (".run_id", "config.json", checksums.FILE)}
        written.clear()
        return names

    one = store("one")
    begin(one)
    monkeypatch.setattr(Folder, "write", write)
    logs = {"metrics.jsonl": "0", "events.jsonl": "a", "run.json": "{}", "tensorboard/first": "x"}
    for step, changed in ((0, logs), (5, {"metrics.jsonl": "1"}), (10, {"tensorboard/second": "y"}), (15, {})):
        for name, text in changed.items():
            (one.mirror / name).parent.mkdir(exist_ok=True)
            (one.mirror / name).write_text(text)
        save(one, step)
        one.upload(step, ALL)
        assert sent() == set(changed)
    begin(store("one"))
    assert sent() == set()
    (one.mirror / "run.json").write_text("finished")  # and the store refused
    begin(store("one"))
    assert sent() == {"run.json"}
    real(Folder("memory://bucket/run"), "events.jsonl", b"of another machine, without a checkpoint")
    begin(store("one"))
    assert sent() == {"events.jsonl"} and Folder("memory://bucket/run").read("events.jsonl") == b"a"


def test_a_mirror_of_another_run_that_had_the_url_is_not_used(store):
    one = store("one")
    begin(one)
    save(one, 7, b"old")
    one.upload(7, ALL)
    Folder("memory://bucket/run").remove()
    begin(one)
    assert checkpoint.saved_steps(one.mirror) == [] and stored_steps(list(objects())) == []
    Folder("memory://bucket/run").remove()
    two = store("two")
    begin(two)
    save(two, 7, b"new")
    two.upload(7, ALL)
    one = store("one")
    one.fetch(leader=True)
    assert (one.mirror / "checkpoints" / "7" / "params" / "b").read_bytes() == b"new"


DAMAGES = {
    "a bit": lambda folder: folder.write("params/b", b"y"),
    "truncated": lambda folder: folder.write("params/a", b""),
    "gone": lambda folder: folder.remove(["params/a"]),
    "no checksums in it": lambda folder: folder.write(checksums.FILE, b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_the_store_is_found_out_by_a_machine_that_has_nothing(store, capsys, damage):
    one = store("one")
    begin(one)
    for step in (0, 5):
        save(one, step)
        one.upload(step, ALL)
    newest = Folder("memory://bucket/run/checkpoints/5")
    DAMAGES[damage](newest)
    there = set(newest.sizes())
    two = store("two")
    two.fetch(leader=False)
    assert checkpoint.saved_steps(two.mirror) == [0] and capsys.readouterr().err == ""  # the leader's to say
    two.fetch(leader=True)
    assert checkpoint.saved_steps(two.mirror) == [0] and stored_steps(list(objects())) == [0]
    assert capsys.readouterr().err.count("moved to 5.damaged, taking the one before\n") == 1
    assert set(Folder("memory://bucket/run/checkpoints/5.damaged").sizes()) == there
    Folder("memory://bucket/run/checkpoints/0").write("params/a", b"?")
    with pytest.raises(InputError, match=r"none of the checkpoints in memory://bucket/run/checkpoints is sound"):
        store("three").fetch(leader=True)


def test_what_an_upload_left_that_was_broken_off_is_removed_and_what_lies_aside_stays(store):
    one = store("one")
    begin(one)
    for step in ("5", "5.damaged"):
        Folder(f"memory://bucket/run/checkpoints/{step}").write("params/a", b"half")
    begin(one)
    assert {name for name in objects() if name.startswith("checkpoints")} == {"checkpoints/5.damaged/params/a"}


def test_a_refusal_is_waited_out_and_then_told(store, monkeypatch):
    monkeypatch.setattr("bert_jax.run_store._PAUSES", (0.0, 0.0))
    one = store("one")
    begin(one)
    save(one, 0)
    real, calls = Folder.upload, []

    def fails_twice(self, files):
        calls.append(files)
        if len(calls) <= 2:
            raise InputError("the store refused")
        return real(self, files)

    monkeypatch.setattr(Folder, "upload", fails_twice)
    one.upload(0, ALL)
    assert stored_steps(list(objects())) == [0] and len(calls) == 3
    save(one, 5)

    def fails(self, files):
        raise InputError("the store refused")

    monkeypatch.setattr(Folder, "upload", fails)
    with pytest.raises(StoreRefused, match="the store refused"):
        one.upload(5, ALL)
    assert stored_steps(list(objects())) == [0] and checkpoint.saved_steps(one.mirror) == [0, 5]


def test_a_checkpoint_that_a_host_does_not_get_is_asked_for_again_and_then_told(store, monkeypatch):
    monkeypatch.setattr("bert_jax.run_store._PAUSES", (0.0, 0.0))
    one = store("one")
    begin(one)
    save(one, 5)
    one.upload(5, ALL)
    two, real, calls = store("two"), Folder.download, []

    def fails_twice(self, files, *verify):
        calls.append(files)
        if len(calls) <= 2:
            raise InputError("the store refused")
        return real(self, files, *verify)

    monkeypatch.setattr(Folder, "download", fails_twice)
    two.fetch_checkpoint(5)
    assert checkpoint.saved_steps(two.mirror) == [5] and len(calls) == 3

    def fails(self, files, *verify):
        raise InputError("the store refused")

    monkeypatch.setattr(Folder, "download", fails)
    with pytest.raises(NotFetched, match="the store refused"):
        store("three").fetch_checkpoint(5)
    monkeypatch.setattr(Folder, "download", real)
    Folder("memory://bucket/run/checkpoints/5").write("params/a", b"other")
    with pytest.raises(NotFetched, match="checkpoints/5 is damaged"):
        store("four").fetch_checkpoint(5)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///dev/null/run", "file:///dev/null/run.* the store refused"),
        ("nonsense://bucket/run", "nonsense://bucket/run"),
        ("memory://bucket/letters", "memory://bucket/letters is not empty and holds no run; name a new --workdir"),
    ],
)
def test_places_that_are_no_run_are_told_at_the_start(store, tmp_path, monkeypatch, url, message):
    monkeypatch.setenv("BERT_JAX_CACHE", str(tmp_path))
    Folder("memory://bucket/letters").write("letter.txt", b"dear")
    with pytest.raises(InputError, match=message):
        begin(RunStore(url))


def test_a_directory_without_checkpoints_is_copied_whole_and_mistakes_name_the_url(store):
    folder = Folder("memory://bucket/hf")
    folder.write("config.json", b"{}")
    folder.write("model.safetensors", b"weights")
    with local_run("memory://bucket/hf") as copy:
        assert {path.name for path in copy.iterdir()} == {"config.json", "model.safetensors"} and copy.name == "hf"
    assert not copy.exists()
    with (
        pytest.raises(InputError, match=r"^memory://bucket/hf/run\.json does not exist"),
        local_run(str(folder)) as copy,
    ):
        checkpoint.read_json(copy / "run.json")
    with (
        pytest.raises(InputError, match=r"^memory://bucket/nothing does not exist"),
        local_run("memory://bucket/nothing"),
    ):
        pass


def test_a_reader_copies_one_checkpoint_and_knows_of_the_others(store):
    one = store("one")
    begin(one)
    for step in (0, 5, 10):
        save(one, step)
        one.upload(step, ALL)
    for step, expected in ((None, 10), (5, 5)):
        with local_run("memory://bucket/run", step) as copy:
            assert checkpoint.saved_steps(copy) == [0, 5, 10]
            assert [path.parent.parent.name for path in copy.glob("checkpoints/*/params/a")] == [str(expected)]
    with local_run("memory://bucket/run", params=False) as copy:
        assert not list(copy.glob("checkpoints/*/params")) and (copy / "tokenizer" / "vocab.txt").exists()
    with local_run(one.mirror) as itself:
        assert itself == one.mirror
