"""Leaks against a search written out word by word; every kind of evaluation file; what a build makes of them."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from small_corpora import make_tokenizer, many_texts, tree, write_jsonl

from data_prep.build import build_corpus
from data_prep.errors import InputError
from data_prep.leaks import Exclusions

WORDS = st.lists(st.sampled_from(["a", "B", "a,", "B!", "é"]), max_size=30).map(" ".join)

PLACE = st.integers(0, 20)


def slow_words(text):
    return re.findall(r"[abé]+", text.casefold())


def windows(words, size):
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


@settings(max_examples=examples(60))
@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(st.tuples(WORDS, st.integers(0, 3), PLACE, PLACE), max_size=6))
def test_found_where_words_overlap(tmp_path_factory, texts, documents):
    """Documents that quote a part of a text, long enough or not."""
    quotes = [(before, texts[i % len(texts)].split(" ")[a : a + b]) for before, i, a, b in documents]
    documents = [" ".join([before, *quote, "a"]) for before, quote in quotes]
    file = tmp_path_factory.mktemp("leaks") / "eval.txt"
    file.write_text("\n".join(texts))
    lists = [slow_words(text) for text in texts]
    passages = set().union(*(windows(words, 13) for words in lists), {tuple(w) for w in lists if 8 <= len(w) < 13})
    if not passages:
        with pytest.raises(InputError, match="no text of at least 8 words"):
            Exclusions([file])
        return
    exclusions = Exclusions([file])
    assert exclusions.files[0]["passages"] == len(passages)
    assert exclusions.files[0]["texts"] == sum(bool(words) for words in lists)
    assert exclusions.files[0]["too_short"] == sum(2 <= len(words) < 8 for words in lists)
    for document, leak in zip(documents, exclusions.find(documents), strict=True):
        words = slow_words(document)
        held = {passage for passage in passages if passage in windows(words, len(passage))}
        assert (leak is not None) == bool(held)
        if leak is not None:
            assert leak.file == "eval.txt" and tuple(slow_words(leak.passage)) in held
            assert leak.passage in document.casefold()


LONG = "In the beginning, the old House stood over a green river and a stone bird walked there."
SHORT = "A green bird walked over the old stone."
CONTENTS = {
    "a.txt": f"Other\r\n{LONG}\r\n{SHORT}\n",
    "a.jsonl": json.dumps({"id": 1, "paragraphs": [{"context": LONG}, [SHORT]], "label": None}) + "\n\n",
    "a.json": json.dumps({"data": [{"qas": {"question": LONG, "answer": SHORT}}]}, indent=1),
    "a.tsv": f'sentence\tlabel\n"{LONG}\t1\n{SHORT}\t0\n',
    "a.csv": f'label,title,text\n1,"{LONG}","line\n{SHORT}"\n2,{SHORT},\n',
}


@pytest.mark.parametrize("name", CONTENTS)
def test_kinds_of_files(tmp_path, name):
    (tmp_path / name).write_text(CONTENTS[name], newline="")
    exclusions = Exclusions([tmp_path / name])
    found = exclusions.find(
        [LONG, LONG.upper().replace(",", " --"), f"({SHORT})", " ".join(LONG.split()[:12]), "A bird."]
    )
    assert [leak is not None for leak in found] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("a.parquet", b"x", "unknown kind"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n{broken\n', r"a\.jsonl:2: no JSON"),
        ("a.json", b"{", "no JSON"),
        ("a.tsv", b"yes\t1\n", "no text of at least 8 words"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, name, raw, said):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=said):
        Exclusions([tmp_path / name])
    with pytest.raises(InputError, match="cannot be read"):
        Exclusions([tmp_path / "none.txt"])


def test_globs_and_urls(tmp_path):
    (tmp_path / "a").mkdir()
    for name, text in (
        ("a/one.txt", LONG),
        ("a/two.txt", SHORT),
        ("three.jsonl", json.dumps(LONG + " More.")),
        ("x", ""),
    ):
        (tmp_path / name).write_text(text)
    plain = [tmp_path / "a" / "one.txt", tmp_path / "a" / "two.txt", tmp_path / "three.jsonl"]
    url = f"file://{tmp_path}"
    for names in ([f"{tmp_path}/**/*.txt", plain[2]], [f"{url}/a/*.txt", f"{url}/three.jsonl"]):
        exclusions = Exclusions(names)
        assert exclusions.files == Exclusions(plain).files
        assert all(exclusions.find([LONG, SHORT]))
    for missing in (f"{tmp_path}/*.csv", f"{url}/*.csv"):
        with pytest.raises(InputError, match=r"csv: no (file|object) matches"):
            Exclusions([missing])


def test_a_csv_with_a_book_in_a_field(tmp_path):
    (tmp_path / "a.csv").write_text(f'1,"{"x " * 100_000}\n{SHORT}"\n')
    assert Exclusions([tmp_path / "a.csv"]).files[0]["texts"] == 2


# "The house on the green river had been closed since the autumn storms, and nobody in the town expected it to open."
CHINESE = "绿河边上的房子自从秋天的暴风雨以后就一直关着，镇上没有一个人相信它会在五月以前重新打开。"


def test_letters_that_are_words_are_counted_by_two(tmp_path):
    """A Chinese word is some two letters: what 13 and 8 words are elsewhere are 26 and 16 letters."""
    letters = re.sub("[，。]", "", CHINESE)
    name = "中华人民共和国国务院"  # the name of an office, in many articles
    (tmp_path / "a.txt").write_text(
        f"{CHINESE}\n{letters[:15]}\n{name}\n他们昨天在图书馆里看了一整天的书\nthree plain words\n"
    )
    exclusions = Exclusions([tmp_path / "a.txt"])
    assert exclusions.files[0]["too_short"] == 3 and exclusions.files[0]["texts"] == 5
    assert exclusions.files[0]["passages"] == len(letters) - 25 + 1
    found = exclusions.find(
        [
            f"{name}今天开会。",
            letters[3:29],
            letters[3:28],
            "（他们昨天在图书馆里看了一整天的书）",
            "昨天在图书馆里看了一整天的书",
        ]
    )
    assert [leak is not None for leak in found] == [False, True, False, True, False]
    (tmp_path / "b.txt").write_text(name)
    with pytest.raises(InputError, match="no text of at least 8 words"):
        Exclusions([tmp_path / "b.txt"])


def test_mixed_scripts_go_by_what_most_words_are(tmp_path):
    (tmp_path / "a.txt").write_text(f"{LONG} 他们看书\n他们看书 x {CHINESE}\n")
    exclusions = Exclusions([tmp_path / "a.txt"])
    found = exclusions.find(
        [" ".join(LONG.split()[-9:]) + " 他们看书", "看书 x 绿河边上的房子自从秋天", "x 绿" + CHINESE[1:28]]
    )
    assert [leak is not None for leak in found] == [True, False, True]


def test_order_and_repetition_of_files_do_not_matter(tmp_path):
    for folder, text in (("sst", LONG), ("rte", SHORT), ("copy", SHORT)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "dev.txt").write_text(text)
    paths = [tmp_path / folder / "dev.txt" for folder in ("sst", "rte", "copy")]
    one, two = Exclusions(paths), Exclusions([*paths[::-1], paths[0]])
    assert one.files == two.files and {file["name"] for file in one.files} == {"sst/dev.txt", "copy/dev.txt"}
    assert one.find([LONG, SHORT]) == two.find([LONG, SHORT])


def test_a_build_drops_them_and_says_so(tmp_path, capsys):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    texts = [*many_texts(40), f"Before. {LONG} After.", f"{SHORT}\nMore.", f"{SHORT} Or not."]
    source = str(write_jsonl(tmp_path / "in.jsonl", texts))
    (tmp_path / "one.txt").write_text(LONG)
    (tmp_path / "two.csv").write_text(f"{SHORT},a few words\n")
    files = [tmp_path / "one.txt", tmp_path / "two.csv"]
    manifest = build_corpus([source], tokenizer, tmp_path / "out", workers=1, exclude=files)
    assert "1 texts of 2 to 7 words are too short" in capsys.readouterr().err
    audit = manifest["audit"]
    assert audit["dropped"]["leak"] == 3 == audit["sources"]["in.jsonl"]["dropped"]["leak"]
    assert audit["documents_in"] == 43 == audit["documents_kept"] + sum(audit["dropped"].values())
    assert {file["name"]: file["documents_dropped"] for file in audit["leaks"]["files"]} == {"one.txt": 1, "two.csv": 2}
    sample = {(item["file"], item["dropped"]) for item in audit["leaks"]["sample"]}
    assert sample == {("one.txt", texts[-3]), ("two.csv", texts[-2]), ("two.csv", texts[-1])}
    assert str(tmp_path) not in json.dumps(manifest)
    # The same files elsewhere are the same corpus, other ones another.
    (tmp_path / "moved").mkdir()
    for file in files:
        file.rename(tmp_path / "moved" / file.name)
    moved = [tmp_path / "moved" / file.name for file in files]
    assert build_corpus([source], tokenizer, tmp_path / "out", workers=1, exclude=moved) == manifest
    build_corpus([source], tokenizer, tmp_path / "again", workers=2, exclude=moved[::-1])
    assert tree(tmp_path / "again") == tree(tmp_path / "out")
    for other in ((), moved[:1]):
        with pytest.raises(InputError, match="exclude is"):
            build_corpus([source], tokenizer, tmp_path / "out", workers=1, exclude=other)
    moved[0].write_text(LONG + " More.")
    with pytest.raises(InputError, match="exclude is"):
        build_corpus([source], tokenizer, tmp_path / "out", workers=1, exclude=moved)


def test_nothing_left(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    source = str(write_jsonl(tmp_path / "in.jsonl", [LONG]))
    (tmp_path / "one.txt").write_text(LONG)
    with pytest.raises(InputError, match="1 leak"):
        build_corpus([source], tokenizer, tmp_path / "out", workers=1, exclude=[tmp_path / "one.txt"])
