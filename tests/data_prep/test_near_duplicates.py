"""Near duplicates with known similarity: who is dropped, whatever the workers; clusters against plain union-find."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from similar_texts import changed, jaccard
from small_corpora import WORDS, make_tokenizer, start_script, tree, write_jsonl

from data_prep import build, corpus_files, near_duplicates
from data_prep.build import build_corpus
from data_prep.check import check
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.index import open_columns, pack
from data_prep.manifest import manifest_bytes, manifest_fingerprint
from data_prep.minhash import PERMUTATIONS
from data_prep.near_duplicates import bands, clusters


@given(st.integers(1, 30), st.data())
def test_clusters_are_connected_components(count, data):
    node = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(node, node), max_size=40))
    component = list(range(count))
    for a, b in pairs:
        low, high = sorted((component[a], component[b]))
        component = [low if c == high else c for c in component]
    found = clusters(count, np.array(pairs, np.int64).reshape(-1, 2))
    assert found.tolist() == [component.index(c) for c in component]


def test_a_long_chain_is_one_cluster():
    order = np.random.default_rng(0).permutation(5000)
    assert not clusters(5000, np.stack([order[1:], order[:-1]], 1)).any()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95, 1.0])
def test_bands_miss_almost_nothing_at_the_threshold(threshold):
    count, rows = bands(threshold)
    assert count * rows <= PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** count >= 0.999
    longer = PERMUTATIONS // (rows + 1)
    assert rows == PERMUTATIONS or 1 - (1 - threshold ** (rows + 1)) ** longer < 0.999


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def document(words):
    return ". ".join(" ".join(words[i : i + 8]) for i in range(0, len(words), 8)) + "."


def family(draw, targets, length=300):
    """A text, and one for every target whose true similarity to it is close to that."""
    words = [f"w{i}" for i in draw.integers(10**6, size=length)]
    members, true = [words], [1.0]
    for target in targets:
        # Each change far from the others costs five n-grams.
        changes = max(1, round(length * (1 - target) / (1 + target) / 5))
        members.append(changed(words, changes, draw))
        true.append(jaccard(words, members[-1]))
    return [document(member) for member in members], true


def kept_texts(path, texts):
    """Places of the texts that are kept, by their hashes."""
    found = set()
    for name in corpus_files.SPLITS:
        split = Corpus.open(path).split(name)
        numbers = split.kept_records(np.arange(split.num_kept))
        hashes = np.concatenate([split.columns(i)["text_hash"] for i in range(split.num_shards)] or [np.empty(0)])
        found |= set(hashes[numbers].tolist())
    from data_prep.shards import text_hash

    return [i for i, text in enumerate(texts) if text_hash(text) in found]


def test_precision_and_recall_with_known_similarity(tmp_path, tokenizer):
    """Texts that are clearly alike are dropped, those that are clearly not stay; near the threshold most are told."""
    draw = np.random.default_rng(0)
    texts, true = [], []
    for i in range(120):
        members, similar = family(draw, [[0.97], [0.9], [0.7], [0.5]][i % 4])
        texts += members
        true += [0.0, similar[1]]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    manifest = build_corpus([str(source)], tokenizer, tmp_path / "out", workers=1, near_duplicates=0.8)
    kept = set(kept_texts(tmp_path / "out", texts))
    dropped = [i not in kept for i in range(len(texts))]
    for similarity, out in zip(true, dropped, strict=True):
        # Four standard deviations of the estimate.
        if similarity > 0.8 + 4 * np.sqrt(0.16 / PERMUTATIONS):
            assert out, similarity
        if similarity < 0.8 - 4 * np.sqrt(0.16 / PERMUTATIONS):
            assert not out, similarity
    right = sum(out == (similarity >= 0.8) for out, similarity in zip(dropped, true, strict=True))
    assert right == len(texts) and 50 < sum(dropped) < 70
    audit = manifest["audit"]
    near = audit["near_duplicates"]
    assert audit["dropped"] == {"near duplicate": sum(dropped)} == {"near duplicate": near["documents_dropped"]}
    assert near["threshold"] == 0.8 and near["clusters"] == sum(dropped) and near["largest_cluster"] == 2
    assert audit["documents_in"] == len(texts) == audit["documents_kept"] + sum(dropped)
    assert audit["tokens"] == sum(Corpus.open(tmp_path / "out").split(name).kept_tokens for name in corpus_files.SPLITS)
    assert audit["tokens"] == sum(
        Corpus.open(tmp_path / "out").split(n).token_counts().sum() for n in corpus_files.SPLITS
    )
    assert audit["sources"]["in.jsonl"]["dropped"] == audit["dropped"]
    assert len(near["sample"]) == 20
    for pair in near["sample"]:
        at = [
            next(i for i, t in enumerate(texts) if squeeze(t).startswith(squeeze(pair[k]))) for k in ("kept", "dropped")
        ]
        assert at[0] in kept and any(
            not_kept not in kept and abs(pair["similarity"] - true[not_kept]) < 0.15 for not_kept in (at[0] + 1, at[1])
        )
    assert check(tmp_path / "out")[1] is None


def squeeze(text):
    return "".join(text.split())


def test_the_first_of_a_chain_stays_and_short_texts_count(tmp_path, tokenizer):
    """B is like A and C like B; C goes though it is less like A. A text shorter than an n-gram goes only for the same
    words; texts without words never go for each other."""
    draw = np.random.default_rng(5)
    words = [f"w{i}" for i in draw.integers(10**6, size=300)]
    second = [*changed(words[:150], 2, draw), *words[150:]]
    third = [*second[:150], *changed(second[150:], 5, draw)]
    assert jaccard(words, second) > 0.9 > jaccard(words, third)
    texts = [document(w) for w in (words, second, third)]
    texts += ["The house.", "the HOUSE!", "The river.", "...", "!!!"]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    manifest = build_corpus([str(source)], tokenizer, tmp_path / "out", near_duplicates=0.85, workers=1)
    assert kept_texts(tmp_path / "out", texts) == [0, 3, 5, 6, 7]
    assert manifest["audit"]["near_duplicates"]["largest_cluster"] == 3
    assert manifest["audit"]["near_duplicates"]["clusters"] == 2


def test_samples_are_of_kept_documents(tmp_path, tokenizer):
    """Of each of a hundred texts the first of three versions, which begin with another word."""
    draw = np.random.default_rng(3)
    families = [" ".join(f"w{i}" for i in draw.integers(10**6, size=40)) for _ in range(100)]
    texts = [f"{word} {rest}" for rest in families for word in ("stone", "bird", "river")]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    audit = build_corpus([str(source)], tokenizer, tmp_path / "out", workers=1, near_duplicates=0.8)["audit"]
    assert audit["documents_kept"] == 100
    assert len(set(audit["sample_sentences"])) == 20
    assert all(sample.startswith("stone") for sample in audit["sample_sentences"])


@pytest.fixture
def small_units(monkeypatch):
    monkeypatch.setattr(build, "_SMALLEST_UNIT", 3000)
    monkeypatch.setattr(build, "_UNITS", 1000)


def test_same_corpus_for_workers_and_parts_and_across_splits(tmp_path, tokenizer, small_units):
    """With leaks and near duplicates in other units and splits than what they are like."""
    draw = np.random.default_rng(1)
    families = [family(draw, [0.95, 0.9], 120)[0] for _ in range(16)]
    texts = [members[i] for i in (1, 0, 2) for members in families]
    write_jsonl(tmp_path / "a.jsonl", texts[:25] + texts[:5])
    write_jsonl(tmp_path / "b.jsonl", texts[25:])
    (tmp_path / "eval.txt").write_text("\n".join(text.split(".")[0] + text.split(".")[1] for text in texts[3:6]))
    sources, options = [str(tmp_path / "*.jsonl")], {"near_duplicates": 0.75, "validation_share": 0.5}
    options["exclude"] = [str(tmp_path / "eval.txt")]
    one = build_corpus(sources, tokenizer, tmp_path / "one", workers=1, **options)
    script = start_script(
        tmp_path / "run.py",
        "import data_prep.build as build\nbuild._SMALLEST_UNIT, build._UNITS = 3000, 1000\n"
        "if __name__ == '__main__':\n"
        f"    build.build_corpus({sources!r}, {str(tokenizer)!r}, sys.argv[1], workers=3, **{options!r})\n",
        tmp_path / "three",
    )
    assert script.wait(120) == 0, script.stderr.read()
    for i in (2, 0, 1):
        build_corpus(sources, tokenizer, tmp_path / "parts", workers=1, part=f"{i}/3", **options)
    assert tree(tmp_path / "one") == tree(tmp_path / "three") == tree(tmp_path / "parts")
    assert sum(len(entry["shards"]) for entry in one["splits"].values()) > 10
    audit = one["audit"]
    # Of three families the leak is out, and with it perhaps its likes: they hold the same passage.
    assert kept_texts(tmp_path / "one", texts[:16]) == [i for i in range(16) if i not in (3, 4, 5)]
    assert audit["splits"]["train"]["documents"] and audit["splits"]["validation"]["documents"]
    assert audit["dropped"]["duplicate"] == 3 and audit["dropped"]["leak"] >= 5
    assert audit["dropped"]["near duplicate"] >= 26


def test_what_memory_holds_does_not_matter_and_is_counted_plainly(tmp_path, tokenizer, small_units, monkeypatch):
    """Bands, pairs and clusters in pieces of two or three; some texts end in another split or several records."""
    draw = np.random.default_rng(2)
    texts = [text for i in range(12) for text in family(draw, [0.95, 0.9, 0.6][: 1 + i % 3], 120)[0]]
    source = str(write_jsonl(tmp_path / "in.jsonl", [texts[i] for i in draw.permutation(len(texts))]))
    options = {"workers": 1, "near_duplicates": 0.75, "validation_share": 0.3}
    manifest = build_corpus([source], tokenizer, tmp_path / "large", **options)
    for name, at_once in (("AT_ONCE", 3), ("_COMPARED_AT_ONCE", 2)):
        monkeypatch.setattr(near_duplicates, name, at_once)
    build_corpus([source], tokenizer, tmp_path / "small", **options)
    assert tree(tmp_path / "large") == tree(tmp_path / "small")
    columns = [
        Corpus.open(tmp_path / "large").split(name).columns(shard)
        for name in corpus_files.SPLITS
        for shard in range(len(manifest["splits"][name]["shards"]))
    ]
    signatures = np.concatenate([column["signature"] for column in columns], 1)
    assert len(columns) > 4 and signatures.shape[1] == len(texts)
    rows = bands(0.75)[1]
    grouped = signatures[: len(signatures) // rows * rows].reshape(-1, rows, len(texts))
    pairs, alike = 0, []
    for one, other in itertools.combinations(range(len(texts)), 2):
        if (grouped[:, :, one] == grouped[:, :, other]).all(1).any():
            pairs += 1
            if (signatures[:, one] == signatures[:, other]).mean() >= 0.75:
                alike.append((one, other))
    near = manifest["audit"]["near_duplicates"]
    # Where three or more agree in a band, not all pairs of them are compared, but enough to join them.
    assert 0 < near["pairs_alike"] <= near["pairs_compared"] <= pairs and near["pairs_alike"] <= len(alike)
    members = clusters(len(texts), np.array(alike))
    assert near["documents_dropped"] == np.count_nonzero(members != np.arange(len(texts)))
    assert near["largest_cluster"] == np.bincount(members).max()


def test_what_cannot_be_asked(tmp_path, tokenizer):
    source = str(write_jsonl(tmp_path / "in.jsonl", ["The house."]))
    for options in (
        {"near_duplicates": 0.3},
        {"near_duplicates": 1.2},
        {"near_duplicates": 0.8, "keep_duplicates": True},
    ):
        with pytest.raises(InputError, match="near-duplicates"):
            build_corpus([source], tokenizer, tmp_path / "out", **options)
    build_corpus([source], tokenizer, tmp_path / "out", near_duplicates=0.8, workers=1)
    with pytest.raises(InputError, match=r"near_duplicates is 0\.8 there, 0\.9 now"):
        build_corpus([source], tokenizer, tmp_path / "out", near_duplicates=0.9, workers=1)


def test_a_corpus_of_a_version_before_signatures_is_read_and_continued(tmp_path, tokenizer):
    source = str(
        write_jsonl(tmp_path / "in.jsonl", [f"The {a} {b}." for a, b in itertools.product(WORDS[:5], repeat=2)])
    )
    build_corpus([source], tokenizer, tmp_path / "out", workers=1)
    before = tree(tmp_path / "out")
    file = tmp_path / "out" / corpus_files.MANIFEST
    manifest = json.loads(file.read_bytes())
    assert manifest["format_version"] == 1
    for name in ("near_duplicates", "exclude"):
        del manifest["settings"][name]
    for name in ("scripts", "padding", "trivial_negatives", "duplicated_lines_share"):
        del manifest["audit"][name]
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    file.write_bytes(manifest_bytes(manifest))
    report, damage = check(tmp_path / "out")
    assert damage is None and report["documents_in"] == 25
    assert Corpus.open(tmp_path / "out").split("train").num_kept > 0
    assert build_corpus([source], tokenizer, tmp_path / "out", workers=1) == manifest
    index = next(name for name in before if name.startswith("index/train") and name.endswith("safetensors"))
    assert "signature" not in open_columns(tmp_path / "out" / index)


def test_signatures_of_the_wrong_shape_are_damage(tmp_path, tokenizer):
    source = str(write_jsonl(tmp_path / "in.jsonl", ["The house.", "The river. Over."]))
    build_corpus([source], tokenizer, tmp_path / "out", workers=1, near_duplicates=0.8, validation_share=0)
    file = tmp_path / "out" / corpus_files.index_name("train", 0, 1)
    columns = {name: np.array(values) for name, values in open_columns(file).items()}
    assert columns["signature"].shape == (PERMUTATIONS, 2)
    file.write_bytes(pack(columns))
    open_columns(file)
    columns["signature"] = columns["signature"][:, :1]
    file.write_bytes(pack(columns))
    with pytest.raises(InputError, match="damaged"):
        open_columns(file)
