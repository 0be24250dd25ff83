"""Pages of MediaWiki dumps (`pages-articles`), plain or compressed, whole or a range of them.

A range of a bzip2 dump owns the bz2 streams that begin in its bytes, a range of a plain one the bytes themselves, and
with them the pages that begin there. The dumps that Wikipedia calls multistream, and those that pbzip2 packed, have a
stream every megabyte or so; of one stream nothing but the whole can be read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from data_prep import byte_streams
from data_prep.byte_streams import Damaged, bz2_streams, open_bytes, open_unpacked, read_block
from data_prep.errors import InputError

_OPEN, _CLOSE = b"<page>", b"</page>"
# MediaWiki's own limit of a page is 2 MB; a dump of whole histories, which has all versions of a page in one, is the
# wrong one.
_LARGEST_PAGE = 16 << 20
# The head of a dump is some ten kilobytes.
_LARGEST_HEAD = 1 << 20
# In this much of a dump of many streams the second one has begun.
_LARGEST_STREAM = 16 << 20


class Page(NamedTuple):
    """What a dump says of a page; `markup` is that of its last version, None where that is hidden."""

    title: str
    namespace: int
    redirect: bool
    model: str  # "wikitext", or what else the page holds: "css", "json", ...
    markup: str | None


class BrokenPage(NamedTuple):
    """A page that is no XML, or bigger than any page: what is wrong, and where."""

    reason: str
    message: str


# What wikis call, or have called, the namespaces of files and categories: a dump's head tells the last name only.
_FILES = (
    "file image media datei bild fichier archivo imagen bestand afbeelding immagine ficheiro imagem arquivo plik "
    "grafika fil bilde billede tiedosto kuva fitxer imatge fișier fişier imagine soubor obrázek súbor obrázok fájl kép "
    "dosya resim berkas gambar dosiero файл изображение зображення датотека слика картинка αρχείο εικόνα קובץ תמונה "
    "ملف صورة پرونده تصویر चित्र ไฟล์ ภาพ 파일 그림 ファイル 画像 文件 图像 圖像 檔案 档案"
)
_CATEGORIES = (
    "category kategorie catégorie categoría categoria categorie kategoria kategori kategória kategorija kategorio "
    "luokka категория категорія категорија κατηγορία קטגוריה تصنيف رده श्रेणी หมวดหมู่ 분류 カテゴリ 分类 分類"
)


@dataclass(frozen=True)
class Namespaces:
    """Names, in lower case, of the namespaces whose links show no text: files and categories."""

    hidden: frozenset[str] = frozenset([*_FILES.split(), *_CATEGORIES.split(), "tập tin", "hình", "thể loại"])


def splittable(path: Path) -> bool:
    """Whether ranges of the dump can be read on their own. Raises InputError for a dump without a head."""
    head(path)
    packing = byte_streams.compression(path.name)
    if packing != "bz2":
        return not packing
    with open_bytes(path) as stream:
        return next(_stream_starts(stream.read(_LARGEST_STREAM)[1:]), None) is not None


def head(path: Path) -> Namespaces:
    """What stands before the first page. Raises InputError where this is no dump, or declares what no dump declares."""
    found = b""
    with open_unpacked(path) as stream:
        try:
            while _OPEN not in found and len(found) < _LARGEST_HEAD:
                block = read_block(stream, 1 << 16)
                if not block:
                    break
                found += block
        except Damaged as error:
            if b"<mediawiki" not in found:
                raise InputError(f"{path}: {error}; get the dump again") from None
    before = found.partition(_OPEN)[0]
    if b"<mediawiki" not in before:
        raise InputError(f"{path} is no MediaWiki dump (it does not begin with <mediawiki>)")
    names = set(Namespaces().hidden)

    def refuse(*_: object) -> None:
        raise InputError(f"{path} declares a document type, which no MediaWiki dump does and entity bombs do")

    inside: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        inside.append(attributes.get("key", "") if tag == "namespace" else "")

    def text(content: str) -> None:
        if inside and inside[-1] in ("-2", "6", "14"):
            names.add(content.strip().lower())

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.buffer_text = True
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _: inside.pop()
    try:
        parser.Parse(before, False)
    except (expat.ExpatError, ValueError) as error:
        raise InputError(f"{path} is no MediaWiki dump (before its first page: {error})") from None
    return Namespaces(frozenset(names))


def pages(path: Path, start: int, end: int) -> Iterator[Page | BrokenPage]:
    """The pages that begin in bytes [start, end) of the file. Raises Damaged after those that come before damage."""
    seen = ""
    for raw in _raw_pages(_blocks(path, start, end)):
        page = _parse(raw) if raw is not None else BrokenPage("wiki page too large", "a page larger than any page is")
        if isinstance(page, BrokenPage):
            where = f"after the page {seen!r}" if seen else "at the beginning"
            page = page._replace(message=f"{page.message}, {where} of bytes {start} to {end}")
        else:
            seen = page.title
        yield page


def _blocks(path: Path, start: int, end: int) -> Iterator[tuple[bytes, bool]]:
    """Blocks of XML from the range's beginning on, and whether they belong to it; it never ends before the file."""
    packing = byte_streams.compression(path.name)
    with open_bytes(path) as stream:
        if packing == "bz2":
            first = 0 if start == 0 else _first_stream(stream, start, end)
            if first is not None:
                for begin, block in bz2_streams(stream, first):
                    yield block, begin < end
            return
        if not packing:
            stream.seek(start)
            while block := stream.read(min(byte_streams.BLOCK, end - start)):
                yield block, True
                start += len(block)
                if start >= end:
                    break
            while block := stream.read(byte_streams.BLOCK):
                yield block, False
            return
    with open_unpacked(path) as unpacked:
        while block := read_block(unpacked):
            yield block, True


def _raw_pages(blocks: Iterator[tuple[bytes, bool]]) -> Iterator[bytes | None]:
    """The bytes from <page> to </page> of every page whose first byte is in a block of the range; None for one that
    is too large. Inside a page "<" is written "&lt;", so these are tags wherever they stand.
    """
    rest, own = b"", 0  # bytes not yet told, of which the first `own` are of the range
    for block, is_own in blocks:
        own = own + len(block) if is_own else own
        rest += block
        at = 0
        while True:
            begin = rest.find(_OPEN, at)
            if begin < 0 or begin >= own:
                # The last bytes may be the beginning of a tag.
                at = max(at, len(rest) - len(_OPEN) + 1) if begin < 0 else begin
                break
            close = rest.find(_CLOSE, begin)
            if close < 0:
                at = begin
                break
            at = close + len(_CLOSE)
            yield rest[begin:at]
        rest, own = rest[at:], max(own - at, 0)
        if own == 0 and not is_own:
            return
        if len(rest) > _LARGEST_PAGE:
            yield None
            rest, own = rest[-len(_CLOSE) :], 0 if not is_own else len(_CLOSE)
    if rest.startswith(_OPEN) and own:
        raise Damaged("the dump ends inside a page: it is truncated")


def _stream_starts(raw: bytes) -> Iterator[int]:
    return (found.start() for found in re.finditer(byte_streams.BZ2_MAGIC, raw))


def _first_stream(stream, start: int, end: int) -> int | None:
    """Offset of the first bz2 stream that begins in [start, end), None if there is none."""
    stream.seek(start)
    offset, rest = start, b""
    while offset < end:
        block = stream.read(byte_streams.BLOCK)
        if not block:
            return None
        rest += block
        found = next(_stream_starts(rest), None)
        if found is not None:
            return offset + found if offset + found < end else None
        # A magic may lie across two blocks.
        keep = min(len(rest), 9)
        offset, rest = offset + len(rest) - keep, rest[len(rest) - keep :]
    return None


def _parse(raw: bytes) -> Page | BrokenPage:
    """A page from its XML, which stands alone, so that an entity can have been declared nowhere."""
    fields = {"title": "", "ns": "0", "model": "wikitext"}
    path: list[str] = []
    texts: list[str] = []
    hidden = redirect = False

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal hidden, redirect
        path.append(tag)
        redirect = redirect or path == ["page", "redirect"]
        if path == ["page", "revision", "text"]:
            hidden = "deleted" in attributes
            texts.clear()
        elif path in (["page", "title"], ["page", "ns"], ["page", "revision", "model"]):
            fields[tag] = ""

    def text(content: str) -> None:
        if path == ["page", "revision", "text"]:
            texts.append(content)
        elif path in (["page", "title"], ["page", "ns"], ["page", "revision", "model"]):
            fields[path[-1]] += content

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _: path.pop()
    try:
        parser.Parse(raw, True)
        namespace = int(fields["ns"])
    except (expat.ExpatError, ValueError) as error:
        return BrokenPage("broken xml", f"broken XML ({error})")
    return Page(fields["title"], namespace, redirect, fields["model"], None if hidden else "".join(texts))
