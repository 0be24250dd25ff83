"""Vocabularies: the same bytes from every run, whole or not at all, and clear words about what cannot be."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from data_prep import vocab, vocab_directory
from data_prep.errors import InputError
from data_prep.storage import Folder, local_folder
from data_prep.tokenizer import load_tokenizer
from data_prep.vocab import train_vocab

KINDS = ["wordpiece", "unigram", "bpe"]
HEADS = "grad optim sched mom train lay mod conv atten embed norm trans back drop warm clip"
TAILS = "ient izer ule entum ing er el olution tion ding al former prop out up per"
WORDS = ["the", "a", "of", *(head + tail for head in HEADS.split() for tail in TAILS.split())]


def sentence(i: int) -> str:
    """Words with Zipf-like counts, and inflections that share stems: many ties between merges."""
    picked = [WORDS[(i * i * 31 + 7 * k + k * k * i) % (1 + (i * 5 + 29 * k) % len(WORDS))] for k in range(9)]
    picked[i % 9] += ("ing", "s", "ed", "able", "ization")[i % 5]
    return f"{' '.join(picked).capitalize()} {i % 97}x{i % 13}, é{chr(0x3B1 + i % 24)}{chr(0x4E00 + i % 30)}."


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(sentence(i) + ("\n\n" if i % 5 == 4 else "\n") for i in range(4000)))
    return path


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize(("kind", "normalize"), [*((kind, "nfc") for kind in KINDS), ("bpe", "none"), ("char", "nfc")])
def test_same_bytes_in_every_process(text, tmp_path, kind, normalize):
    code = (
        "import sys; from data_prep.vocab import train_vocab;"
        "train_vocab([sys.argv[1]], sys.argv[2], sys.argv[3], 300, normalize=sys.argv[4])"
    )
    found = []
    for run in range(3):
        output = tmp_path / str(run)
        environment = {**os.environ, "PYTHONHASHSEED": str(run), "RAYON_NUM_THREADS": str(1 + run)}
        subprocess.run(
            [sys.executable, "-c", code, text, output, kind, normalize], env=environment, check=True, timeout=120
        )
        found.append(contents(output))
    assert found[0] == found[1] == found[2]
    assert load_tokenizer(tmp_path / "0").vocab_size == (
        300 if kind != "char" else 5 + len(set(text.read_text()) - {"\n"})
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written(text, tmp_path, kind, capfd):
    summary = train_vocab([str(text)], tmp_path / "v", kind, 300, lowercase=True)
    assert summary["vocab_size"] == 300 and summary["documents"] == 800 and summary["existing"] is False
    assert summary["sample_bytes"] == len(text.read_text().replace("\n\n", "").encode())
    tokenizer = load_tokenizer(tmp_path / "v")
    assert (tokenizer.kind, tokenizer.lowercase, tokenizer.vocab_size) == (kind, True, 300)
    assert len(set(tokenizer.tokens(range(300)))) == 300
    ids = tokenizer.encode_batch(["The Optimizer schedules training."])[0]
    assert tokenizer.unk_id not in ids and len(ids) < 12
    assert [path.name for path in tmp_path.iterdir()] == ["v"]
    captured = capfd.readouterr()
    assert captured.out == "" and "vocab: training" in captured.err
    assert str(tmp_path) not in "".join(map(repr, contents(tmp_path / "v").values()))


def test_wordpiece_merges_by_count_like_the_definition(tmp_path):
    """Pairs are merged by frequency, ties by the numbers of their parts: worked out by hand for three words."""
    (tmp_path / "a.txt").write_text("ab ab ab abc abc cd cd\n")
    train_vocab([str(tmp_path / "a.txt")], tmp_path / "v", "wordpiece", 15)
    pieces = (tmp_path / "v" / "vocab.txt").read_text().split()
    # characters, those inside words, a+##b (5 times), then c+##d and ab+##c (twice): c has a lower number than ab
    assert pieces[5:] == ["a", "b", "c", "d", "##b", "##c", "##d", "ab", "cd", "abc"]


def test_one_off_characters_get_no_piece(text, tmp_path):
    (tmp_path / "a.txt").write_text(text.read_text() + "one \u1e9e\u16a0 only\n")
    for kind in KINDS:
        train_vocab([str(tmp_path / "a.txt")], tmp_path / kind, kind, 300)
        tokenizer = load_tokenizer(tmp_path / kind)
        assert not any("\u16a0" in piece for piece in tokenizer.tokens(range(300))), kind
        assert tokenizer.unk_id in tokenizer.encode_batch(["one \u16a0 only"])[0]


def test_again_and_with_other_settings(text, tmp_path, capfd):
    first = train_vocab([str(text)], tmp_path / "v", "wordpiece", 500)
    before = contents(tmp_path / "v")
    again = train_vocab([str(text)], tmp_path / "v", "wordpiece", 500)
    assert again == {**first, "existing": True} and contents(tmp_path / "v") == before
    assert "is there already" in capfd.readouterr().err
    for change in ({"size": 501}, {"seed": 1}, {"lowercase": True}, {"kind": "bpe"}):
        settings = {"kind": "wordpiece", "size": 500} | change
        with pytest.raises(InputError, match="other settings"):
            train_vocab([str(text)], tmp_path / "v", **settings)
    before = text.read_bytes()
    text.write_bytes(before.replace(b"optim", b"mitpo"))
    with pytest.raises(InputError, match="other settings or inputs"):
        train_vocab([str(text)], tmp_path / "v", "wordpiece", 500)
    text.write_bytes(before)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is no vocabulary"):
        train_vocab([str(text)], tmp_path / "mine", "wordpiece", 500)


def test_broken_off_leaves_nothing_and_goes_well_the_next_time(text, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vocab_directory.os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        train_vocab([str(text)], tmp_path / "v", "wordpiece", 300)
    assert not (tmp_path / "v").exists()
    monkeypatch.undo()
    (tmp_path / "v.partial" / "rest").write_text("left over")
    train_vocab([str(text)], tmp_path / "v", "wordpiece", 300)
    assert [path.name for path in tmp_path.iterdir()] == ["v"] and "rest" not in contents(tmp_path / "v")


@pytest.fixture(params=["memory://bucket", "file://"])
def store(request, tmp_path):
    """The URL of an empty folder in a store."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield request.param if "bucket" in request.param else f"file://{tmp_path}/bucket"
    memory.store.clear()


def test_to_a_store(text, tmp_path, store, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    summary = train_vocab([str(text)], tmp_path / "v", "wordpiece", 300)
    assert train_vocab([str(text)], f"{store}/v", "wordpiece", 300) == summary
    folder = Folder(f"{store}/v")
    assert {name: folder.read(name) for name in folder.sizes()} == contents(tmp_path / "v")
    # No folder named after the scheme.
    assert {path.name for path in tmp_path.iterdir()} <= {"v", "bucket"}
    assert train_vocab([str(text)], f"{store}/v", "wordpiece", 300) == {**summary, "existing": True}
    assert f"{store}/v is there already" in capfd.readouterr().err
    with pytest.raises(InputError, match=f"{store}/v holds a vocabulary of other settings"):
        train_vocab([str(text)], f"{store}/v", "wordpiece", 301)
    Folder(f"{store}/thesis").write("chapter.tex", b"x")
    with pytest.raises(InputError, match=f"{store}/thesis exists and is no vocabulary"):
        train_vocab([str(text)], f"{store}/thesis", "wordpiece", 300)
    folder.write("tokenizer.json", b"{")
    with pytest.raises(InputError, match=f"^{store}/v/tokenizer.json: broken JSON"):
        train_vocab([str(text)], f"{store}/v", "wordpiece", 300)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_broken_off_in_a_store(text, tmp_path, store, kind, monkeypatch):
    """After any number of its writes: nothing that loads as another tokenizer, and the same command completes it."""
    train_vocab([str(text)], tmp_path / "v", kind, 300, lowercase=True)
    want = load_tokenizer(tmp_path / "v").fingerprint
    folder = Folder(f"{store}/v")
    real = Folder.write
    for count in range(len(contents(tmp_path / "v"))):
        left = [count]

        def limited(self, name, content, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(self, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", limited)
            with pytest.raises(KeyboardInterrupt):
                train_vocab([str(text)], f"{store}/v", kind, 300, lowercase=True)
        with local_folder(folder) as copy:
            try:
                assert load_tokenizer(copy).fingerprint == want
            except InputError as error:
                assert "no tokenizer in it" in str(error)
    assert train_vocab([str(text)], f"{store}/v", kind, 300, lowercase=True)["existing"] is False
    assert {name: folder.read(name) for name in folder.sizes()} == contents(tmp_path / "v")


@pytest.mark.parametrize("kind", KINDS)
def test_more_pieces_than_the_text_has(tmp_path, kind, capfd):
    (tmp_path / "a.txt").write_text("only a few words here, and again only a few words.\n" * 20)
    summary = train_vocab([str(tmp_path / "a.txt")], tmp_path / "v", kind, 30000)
    real = load_tokenizer(tmp_path / "v").vocab_size
    assert summary["vocab_size"] == real < 200
    assert f"the text has pieces for {real} only, not 30000" in capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_pieces_than_the_text_has_characters(text, tmp_path, kind):
    with pytest.raises(InputError, match="--size is 40, and the text's characters alone take"):
        train_vocab([str(text)], tmp_path / "v", kind, 40)
    assert not (tmp_path / "v").exists()


def test_bad_settings_and_inputs(text, tmp_path):
    for place in (text / "v", text / "folder" / "v"):
        with pytest.raises(InputError, match="v: cannot be written"):
            train_vocab([str(text)], place, "wordpiece", 300)
    with pytest.raises(InputError, match="--kind is 'word'"):
        train_vocab([str(text)], tmp_path / "v", "word", 500)
    for kind in ("wordpiece", "unigram"):
        with pytest.raises(InputError, match=f"keeps white space, which --kind {kind} cannot"):
            train_vocab([str(text)], tmp_path / "v", kind, 500, normalize="none")
    with pytest.raises(InputError, match="--normalize is 'nfkc'"):
        train_vocab([str(text)], tmp_path / "v", "bpe", 500, normalize="nfkc")
    with pytest.raises(InputError, match="leave one of them out"):
        train_vocab([str(text)], tmp_path / "v", "bpe", 500, normalize="none", lowercase=True)
    with pytest.raises(InputError, match="alone take 261"):
        train_vocab([str(text)], tmp_path / "v", "bpe", 260, normalize="none")
    with pytest.raises(InputError, match="--size is 5;"):
        train_vocab([str(text)], tmp_path / "v", "bpe", 5)
    with pytest.raises(InputError, match="no such file"):
        train_vocab([str(tmp_path / "none.txt")], tmp_path / "v", "bpe", 500)
    (tmp_path / "blank.txt").write_text(" \n\n \n")
    with pytest.raises(InputError, match="no text in it"):
        train_vocab([str(tmp_path / "blank.txt")], tmp_path / "v", "bpe", 500)
    (tmp_path / "bad.jsonl").write_text('{"text": "' + "good words " * 50 + '"}\n{"text"\n')
    with pytest.raises(InputError, match=r"bad.jsonl:2: broken JSON"):
        train_vocab([str(tmp_path / "bad.jsonl")], tmp_path / "v", "wordpiece", 30)
    assert (
        train_vocab([str(tmp_path / "bad.jsonl")], tmp_path / "v", "wordpiece", 30, on_error="drop")["documents"] == 1
    )


def test_what_is_dropped_is_said(tmp_path, capfd):
    (tmp_path / "a.jsonl").write_text('{"text": "' + "good words " * 50 + '"}\n{"text"\n{"text": 3}\n{"text"\n')
    (tmp_path / "b.jsonl").touch()
    train_vocab([str(tmp_path / "*.jsonl")], tmp_path / "v", "wordpiece", 30, on_error="drop")
    assert capfd.readouterr().err.count("vocab: dropped: 2 broken json, 1 empty file, 1 text not a string\n") == 1
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "a.jsonl").write_text('{"text": "' + "good words " * 50 + '"}\n')
    train_vocab([str(tmp_path / "*.jsonl")], tmp_path / "w", "wordpiece", 30, on_error="drop")
    assert "dropped" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["big.txt", "big.txt.gz", "big.jsonl"])
def test_the_sample_is_bounded_and_seeded(tmp_path, monkeypatch, name):
    monkeypatch.setattr(vocab, "_SAMPLE_UNIT", 2000)
    seen = []
    monkeypatch.setattr(
        vocab.vocab_training,
        "train_wordpiece",
        lambda texts, *_: seen.append(texts) or load_tokenizer(tmp_path / "any"),
    )
    monkeypatch.setattr(vocab.vocab_directory, "write", lambda *_: None)
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "vocab.txt").write_text(
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n" + "\n".join(map(str, range(500)))
    )
    texts = [f"document {i} " + sentence(i) for i in range(2000)]
    raw = "".join(json.dumps({"text": t}) + "\n" if "json" in name else f"{t}\n\n" for t in texts).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    for seed in (0, 0, 1):
        train_vocab([str(tmp_path / name)], tmp_path / "v", "wordpiece", 100, seed=seed, max_sample_bytes=20_000)
    for sample in seen:
        assert 10_000 < sum(len(text.encode()) for text in sample) <= 20_000
    assert seen[0] == seen[1] and (seen[0] != seen[2] or name.endswith("gz"))
    if not name.endswith("gz"):
        numbers = sorted(int(text.split()[1]) for text in seen[0])
        assert numbers[-1] - numbers[0] > 1000  # from all over the input, not its head


def test_one_document_larger_than_the_sample(tmp_path):
    (tmp_path / "a.txt").write_text("é few words over and over " * 1000)
    assert (
        990
        <= train_vocab([str(tmp_path / "a.txt")], tmp_path / "v", "wordpiece", 60, max_sample_bytes=1000)[
            "sample_bytes"
        ]
        <= 1000
    )
