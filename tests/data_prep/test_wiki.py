"""Wikipedia dumps: pages once whatever the cut, articles as text, everything else counted by reason; hostile ones."""

import bz2
import gzip
import itertools
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from small_corpora import make_tokenizer, tree

from data_prep import byte_streams, wiki_dumps, wiki_text
from data_prep.build import build_corpus
from data_prep.documents import Document, Dropped
from data_prep.errors import InputError
from data_prep.inputs import Input
from data_prep.sources import expand, read, units
from data_prep.wiki_dumps import Namespaces

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
FOOT = "</mediawiki>\n"


def page(title: str, text: str, ns: int = 0, extra: str = "", model: str = "wikitext", attributes: str = "") -> str:
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{ns}</ns>\n    <id>7</id>\n{extra}    <revision>\n"
        f"      <id>8</id>\n      <comment>said &lt;page&gt;</comment>\n      <model>{model}</model>\n"
        f'      <text bytes="9" xml:space="preserve"{attributes}>{escape(text)}</text>\n    </revision>\n  </page>\n'
    )


def items(path: Path, unit_bytes: int = 1 << 20, on_error: str = "fail") -> list[Document | Dropped]:
    found = expand([Input("w", f"wiki:{path}")])
    return [item for source in found for unit in units(source, unit_bytes) for item in read(unit, on_error)]


PAGES = [
    page("Ärger & Wut", "'''Ärger''' ist ein [[Gefühl|Gefühl]].\n\n[[Datei:a.png|thumb|Bild]]Zweiter <b>Absatz</b>."),
    page("Zorn", "#WEITERLEITUNG [[Ärger]]", extra='    <redirect title="Ärger" />\n'),
    page("Diskussion:Ärger", "Was?", ns=1),
    page("Wut", "#REDIRECT [[Ärger]]"),
    page("Weg", "", attributes=' deleted="deleted"'),
    page("Daten", "{}", model="json"),
    page("Tief", "{{a|" * 60 + "x" + "}}" * 60),
    page("Leer", "{{Vorlage}}\n[[Kategorie:X]]"),
    page("Ende", "Schluss mit <nowiki><page></nowiki> im Text."),
]
WANTED = [
    Document("Ärger & Wut", "Ärger ist ein Gefühl.\nZweiter Absatz."),
    Dropped("Zorn", "wiki redirect"),
    Dropped("Diskussion:Ärger", "wiki namespace"),
    Dropped("Wut", "wiki redirect"),
    Dropped("Weg", "wiki hidden"),
    Dropped("Daten", "wiki model"),
    Dropped("Tief", "wiki nesting"),
    Dropped("Leer", "empty"),
    Document("Ende", "Schluss mit <page> im Text."),
]


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.xml.bz2"])
def test_every_page_is_an_article_or_has_a_reason(tmp_path, name):
    raw = (HEAD + "".join(PAGES) + FOOT).encode()
    pack = {"xml": bytes, "gz": gzip.compress, "bz2": bz2.compress}[name.rpartition(".")[2]]
    (tmp_path / name).write_bytes(pack(raw))
    assert items(tmp_path / name) == WANTED
    assert items(tmp_path / name, unit_bytes=50) == WANTED


@settings(max_examples=examples(60))
@given(data=st.data(), unit_bytes=st.integers(30, 900))
def test_any_cut_into_streams_and_ranges_gives_every_page_once(tmp_path_factory, data, unit_bytes):
    """Streams may end anywhere, as in what pbzip2 makes: inside a page, inside a tag."""
    raw = (HEAD + "".join(PAGES) + FOOT).encode()
    borders = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=8)))
    pieces = [raw[a:b] for a, b in itertools.pairwise([0, *borders, len(raw)])]
    pieces.insert(data.draw(st.integers(0, len(pieces))), b"")
    folder = tmp_path_factory.mktemp("streams")
    (folder / "a.xml.bz2").write_bytes(b"".join(map(bz2.compress, pieces)))
    (folder / "a.xml").write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_streams, "BLOCK", data.draw(st.sampled_from([7, 64, 1 << 20])))
        assert items(folder / "a.xml.bz2", unit_bytes) == WANTED
        assert items(folder / "a.xml", unit_bytes) == WANTED


def test_a_dump_of_many_streams_is_work_for_many(tmp_path, capfd, monkeypatch):
    streams = [HEAD, *("".join(page(f"A{k}", f"Text {k}.") for k in range(i, i + 10)) for i in range(0, 200, 10)), FOOT]
    many, one = tmp_path / "many.xml.bz2", tmp_path / "one.xml.bz2"
    many.write_bytes(b"".join(bz2.compress(stream.encode()) for stream in streams))
    one.write_bytes(bz2.compress("".join(streams).encode()))
    (source,) = expand([Input("w", f"wiki:{many}")])
    counts = [sum(1 for _ in read(unit)) for unit in units(source, 800)]
    assert sum(counts) == 200 and sum(count > 0 for count in counts) >= 6
    assert "one bz2 stream" not in capfd.readouterr().err
    monkeypatch.setattr("data_prep.sources._LARGE_DUMP", 100)
    (source,) = expand([Input("w", f"wiki:{one}")])
    assert len(units(source, 800)) == 1
    assert "one.xml.bz2 is one bz2 stream, which one process alone must read" in capfd.readouterr().err


def test_the_same_corpus_for_any_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.build._SMALLEST_UNIT", 1000)
    monkeypatch.setattr("data_prep.build._UNITS", 100)
    streams = [
        HEAD,
        *("".join(page(f"A{k}", f"The house {k}.") for k in range(i, i + 5)) for i in range(0, 100, 5)),
        FOOT,
    ]
    (tmp_path / "a.xml.bz2").write_bytes(b"".join(bz2.compress(stream.encode()) for stream in streams))
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    words = [f"wiki=wiki:{tmp_path}/a.xml.bz2"]
    manifest = build_corpus(words, tokenizer, tmp_path / "whole", workers=1)
    for i in (2, 0, 1):
        build_corpus(words, tokenizer, tmp_path / "parts", workers=1, part=f"{i}/3")
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")
    assert manifest["audit"]["inputs"]["wiki"]["documents_in"] == 100
    assert "mwparserfromhell" in manifest["settings"]["wiki_converter"]


MARKUP = [
    ("''a'' '''b''' '''''c''''' the ''d'''s e<ref>f''</ref>", "a b c the d's e"),
    (
        "[[Haus]] [[Haus|Häuser]] [[:Datei:x]] [http://x.y Seite] [http://x.y] http://z.de",
        "Haus Häuser Datei:x Seite  http://z.de",
    ),
    ("[[Datei:a.png|thumb|Ein [[Haus]] hier]]da[[Kategorie:K]][[en:House]][[File:b.png]]", "da"),
    ("a<ref>weg</ref>b<ref name=x/>c <!-- weg -->d {{weg|{{tief}}}}e <math>x</math>f", "abc d e f"),
    ("{| class=x\n| weg\n|}\nda", "da"),
    ("== Kopf ==\nText\n== Leer ==\n=== Auch leer ===\n== Letzter ==\nmehr", "Kopf\nText\nLetzter\nmehr"),
    ("== Oben ==\n=== Unten ===\nText", "Oben\nUnten\nText"),
    ("* eins\n* zwei\n# drei\n; vier: fünf", "eins\nzwei\ndrei\nvier fünf"),
    ("a&nbsp;b &amp; c &lt;d&gt; __NOTOC__ e<br>f", "a\u00a0b & c <d>  e\nf"),
    ("L''''Italia''' è '''Dogs'''' l''''État'''", "L'Italia è Dogs' l'État"),
    ("a''''''b''''' c'''''''d'''''", "a'b c''d"),
    ("[[simple:House]][[zh-min-nan:X]]da [[:simple:House]] [[s:House]]", "da simple:House s:House"),
    ("<nowiki>[[roh]]</nowiki> <span style='x'>bunt</span>", "[[roh]] bunt"),
]


@pytest.mark.parametrize(("markup", "text"), MARKUP)
def test_markup(markup, text):
    from data_prep.documents import clean

    namespaces = Namespaces(frozenset({"datei", "file", "kategorie"}))
    assert clean(wiki_text.plain_text(markup, namespaces)) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("[[Bild:a.png|mini|Unter]] da [[ Image : b.png|x]][[Файл:c.png|x]][[画像:d.png|x]][[Tập_tin:e.png|x]]", "da"),
        ("[[Catégorie:A]][[Categoría:B]][[Категория:C]][[分类:D]]da [[Bilder: ein Roman]]", "da Bilder: ein Roman"),
    ],
)
def test_names_of_namespaces_that_no_head_tells(tmp_path, markup, text):
    (tmp_path / "a.xml").write_text(HEAD + page("A", markup) + FOOT)
    assert items(tmp_path / "a.xml") == [Document("A", text)]


def test_an_entity_bomb_is_refused(tmp_path):
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<?xml version="1.0"?>\n<!DOCTYPE m [<!ENTITY l0 "lol">{lol}]>\n'
    (tmp_path / "a.xml").write_text(bomb + HEAD + page("A", "text").replace("text", "&l9;") + FOOT)
    begun = time.monotonic()
    for on_error in ("fail", "drop"):
        with pytest.raises(InputError, match=r"a\.xml declares a document type") as caught:
            items(tmp_path / "a.xml", on_error=on_error)
        assert "\n" not in str(caught.value)
    # Behind the head nothing can be declared, and an entity that is not is no XML.
    inside = PAGES[0] + "<!DOCTYPE x [<!ENTITY l9 'x'>]>" + page("A", "text").replace(">text<", ">&l9;<") + PAGES[-1]
    (tmp_path / "b.xml").write_text(HEAD + inside + FOOT)
    with pytest.raises(InputError, match=r"b\.xml: broken XML \(undefined entity.*after the page 'Ärger & Wut'"):
        items(tmp_path / "b.xml")
    found = items(tmp_path / "b.xml", on_error="drop")
    assert found == [WANTED[0], Dropped("b.xml", "broken xml"), WANTED[-1]]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("markup", "kept"),
    [
        ("{{a|" * 100_000, False),
        ("{{a|" * 100_000 + "x" + "}}" * 100_000, False),
        ("{{a|[[b|<i>" * 5000, False),
        ("<b>" * 50_000, False),
        ("<ref " * 50_000, False),
        ("<!--" * 50_000, False),
        ("[http://a " * 50_000, False),
        ("=a=" * 200_000, False),
        ("{{a|" * 40 + "x" + "}}" * 40 + "kept", True),
        ("<br>" * 2000 + "kept", True),
        ("{{a}}" * 5000 + "kept", True),
        ("a < b <c" * 100 + "kept", True),
    ],
)
def test_hostile_markup_ends_soon(tmp_path, markup, kept):
    """Unguarded, the parser takes hours for some of these, and for one all of the stack."""
    (tmp_path / "a.xml").write_text(HEAD + page("A", markup) + PAGES[-1] + FOOT)
    begun = time.process_time()
    first, last = items(tmp_path / "a.xml")
    assert last == WANTED[-1]
    assert first.text.endswith("kept") if kept else first == Dropped("A", "wiki nesting")
    assert time.process_time() - begun < 10


def test_broken_dumps(tmp_path):
    path = tmp_path / "a.xml.bz2"
    whole = (HEAD + "".join(PAGES * 20) + FOOT).encode()
    streams = [bz2.compress(whole[i : i + 5000]) for i in range(0, len(whole), 5000)]
    path.write_bytes(b"".join(streams)[:-50])
    with pytest.raises(InputError, match=r"a\.xml\.bz2: the bzip2 file is truncated.*--on-error drop"):
        items(path)
    assert items(path, on_error="drop")[-1] == Dropped("a.xml.bz2", "truncated dump")
    (tmp_path / "b.xml").write_bytes(whole[: -len(FOOT) - 100])
    with pytest.raises(InputError, match=r"b\.xml: the dump ends inside a page"):
        items(tmp_path / "b.xml")
    (tmp_path / "c.xml").write_text(HEAD + PAGES[0].replace("</title>", "</titel>") + PAGES[-1] + FOOT)
    with pytest.raises(InputError, match=r"c\.xml: broken XML \(mismatched tag.*at the beginning"):
        items(tmp_path / "c.xml")
    assert items(tmp_path / "c.xml", on_error="drop") == [Dropped("c.xml", "broken xml"), WANTED[-1]]
    for name, raw in (("d.xml", b"<html/>"), ("e.xml.bz2", b"no bzip2"), ("f.xml", b"<mediawiki><page")):
        (tmp_path / name).write_bytes(raw)
    for name, message in (("d.xml", "is no MediaWiki dump"), ("e.xml.bz2", "the bzip2 file is damaged")):
        with pytest.raises(InputError, match=message):
            items(tmp_path / name)
    assert items(tmp_path / "f.xml") == []


def test_a_page_of_any_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(wiki_dumps, "_LARGEST_PAGE", 3 << 20)
    raw = HEAD + page("A", "x" * (5 << 20)) + PAGES[-1] + FOOT
    for name, pack in (("a.xml", bytes), ("a.xml.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(raw.encode()))
        with pytest.raises(InputError, match="a page larger than any page is"):
            items(tmp_path / name)
        assert items(tmp_path / name, on_error="drop") == [Dropped(name, "wiki page too large"), WANTED[-1]]


@pytest.fixture(scope="module")
def real_dump(request) -> Path:
    """The shortened English dump of 2016 in the test data of the gensim wheel, kept in pytest's cache."""
    folder = Path(request.config.cache.mkdir("gensim"))
    if not list(folder.glob("*.bz2")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, "gensim==4.4.0"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError):
            pytest.skip("the gensim wheel, which holds a short Wikipedia dump, cannot be downloaded")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if "enwiki-latest-pages-articles1.xml" in name)
            (folder / "enwiki.xml.bz2").write_bytes(archive.read(name))
        wheel.unlink()
    return folder / "enwiki.xml.bz2"


def test_a_real_dump(real_dump):
    path = real_dump
    found = items(path)
    articles = [item for item in found if isinstance(item, Document)]
    reasons = [item.reason for item in found if isinstance(item, Dropped)]
    assert (len(articles), reasons.count("wiki redirect"), reasons.count("wiki namespace")) == (106, 99, 1)
    assert len(found) == bz2.decompress(path.read_bytes()).count(b"<page>")
    by_title = {item.id: item.text for item in articles}
    assert by_title["Anarchism"].startswith(
        "Anarchism is a political philosophy that advocates self-governed societies based on voluntary institutions. "
    )
    everything = "\n".join(by_title.values())
    for markup in ("{{", "[[", "<ref", "''"):
        assert markup not in everything


def test_a_sample_of_a_dump(tmp_path):
    """Of a dump of many streams whole pieces are drawn, by several processes; of one stream the beginning is taken."""
    from data_prep import vocab

    streams = [
        HEAD,
        *("".join(page(f"A{k}", f"Number {k}. " * 9) for k in range(i, i + 50)) for i in range(0, 1000, 50)),
    ]
    packed = [bz2.compress(stream.encode()) for stream in [*streams, FOOT]]
    (tmp_path / "many.xml.bz2").write_bytes(b"".join(packed))
    (tmp_path / "one.xml.bz2").write_bytes(bz2.compress("".join([*streams, FOOT]).encode()))
    numbers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocab, "_SAMPLE_UNIT", 2000)
        for name in ("many", "one"):
            found = expand([Input("w", f"wiki:{tmp_path}/{name}.xml.bz2")])
            total = sum(len(f"Number {k}. " * 9) - 1 for k in range(1000))
            texts, readings = vocab._sample(found, 0, total // 4, "fail", Counter())
            assert len(readings) == len(texts)
            numbers[name] = [int(text.split()[1][:-1]) for text in texts]
    assert numbers["one"] == list(range(len(numbers["one"]))) and 0 < len(numbers["one"]) < 400
    drawn = {k // 50 for k in numbers["many"]}
    assert 4 <= len(drawn) <= 12 and drawn != set(range(len(drawn)))
    assert len(set(numbers["many"])) == len(numbers["many"]) > 150
