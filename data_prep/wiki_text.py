"""A page's wiki markup to plain text: paragraphs, headings and list items, a line each.

mwparserfromhell parses; this file says which nodes are text. Templates (info boxes, citations, conversions), tables,
references, formulas, galleries, files and categories are not.
"""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep import wiki_dumps
from data_prep.byte_streams import Damaged
from data_prep.documents import Document, Dropped, document
from data_prep.errors import InputError
from data_prep.inputs import Reading
from data_prep.wiki_dumps import Namespaces, Page

# Tags whose content is no text of the article.
_HIDDEN_TAGS = {
    *(
        "table",
        "gallery",
        "imagemap",
        "timeline",
        "graph",
        "score",
        "hiero",
        "mapframe",
        "maplink",
        "ref",
        "references",
    ),
    *(
        "math",
        "chem",
        "ce",
        "syntaxhighlight",
        "source",
        "style",
        "script",
        "templatestyles",
        "templatedata",
        "section",
    ),
    *("categorytree", "inputbox", "indicator", "pagelist", "references", "section"),
}
_LINES = {"br", "p", "div", "blockquote", "li", "dd", "dt", "hr", "center", "poem"}
_SINGLE_TAGS = ("br", "hr", "li", "dd", "dt", "wbr")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z-]+)?|simple")  # prefixes of the same article in another language
_SWITCH = re.compile(r"__[A-Z]+__")  # __NOTOC__ and the like, which the parser takes for text
# Italics and bold; and the end of italics before an apostrophe, as in ''Iliad'''s.
_QUOTES = re.compile(r"'{2,}")
_POSSESSIVE = re.compile(r"(?<=[^\s'])'''s(?=[\s\x00-/:-@\[-`{-~’”»]|$)")
_REDIRECT = re.compile(r"\s*#[^\s\x00-/:-@\[-`{-\x7f]+\s*:?\s*\[\[")
_BRACKETS = re.compile(r"(\{\{|\[\[|\{\||\[(?=(?:[a-z]+:)?//|[a-z]+:))|\}\}|\]\]|\|\}|\]")
# A tag, or one that is not finished before the next.
_TAGS = re.compile(r"<(?:(/)[^<>]*>|([A-Za-z]+)[^<>/]*(?:/(?!>)[^<>/]*)*(/?>)?)")
_HEADING = re.compile(r"^=.*", re.MULTILINE)
# The parser's own limit: deeper markup it takes for text, in time that grows with the square of what stands open, and
# headings in headings for more calls than there is stack.
_DEEPEST = 40
_OPEN_TAGS = 400
_EQUAL_SIGNS = 80


def converter() -> str:
    """What determines the text of a page: part of the manifest. Raises InputError where the parser is missing."""
    try:
        return f"mwparserfromhell {metadata.version('mwparserfromhell')}, rules 2"
    except metadata.PackageNotFoundError:
        raise InputError("wiki: dumps need mwparserfromhell; install it with: pip install 'bert-jax[wiki]'") from None


def read(path: Path, name: str, start: int, end: int, reading: Reading, fail: bool) -> Iterator[Document | Dropped]:
    """Articles of the pages that begin in bytes [start, end) of a dump (`wiki_dumps.pages`)."""
    namespaces = wiki_dumps.head(path)
    try:
        for page in wiki_dumps.pages(path, start, end):
            if isinstance(page, Page):
                yield article(page, namespaces, reading.normalize)
            elif fail:
                raise InputError(f"{path}: {page.message}; mend it, or build with --on-error drop to leave it out")
            else:
                yield Dropped(name, page.reason)
    except Damaged as error:
        if fail:
            raise InputError(f"{path}: {error}; get the dump again, or build with --on-error drop") from None
        yield Dropped(name, "truncated dump")


def article(page: Page, namespaces: Namespaces, normalize: str) -> Document | Dropped:
    """An article as a document, or why it is none: another namespace, a redirect, hidden, no wiki text, or markup
    nested deeper than the parser goes.
    """
    if page.namespace != 0:
        return Dropped(page.title, "wiki namespace")
    if page.redirect or (page.markup and _REDIRECT.match(page.markup)):
        return Dropped(page.title, "wiki redirect")
    if page.markup is None:
        return Dropped(page.title, "wiki hidden")
    if page.model != "wikitext":
        return Dropped(page.title, "wiki model")
    if too_nested(page.markup):
        return Dropped(page.title, "wiki nesting")
    return document(page.title, plain_text(page.markup, namespaces), normalize)


def plain_text(markup: str, namespaces: Namespaces) -> str:
    """The text of wiki markup, a paragraph, a list item or a heading a line. A heading over no text is left out."""
    import mwparserfromhell
    from mwparserfromhell.nodes import Heading

    # The parser gives up a reference or a link for one apostrophe too many in it: they are left to _QUOTES.
    parsed = mwparserfromhell.parse(_SWITCH.sub("", markup), skip_style_tags=True)
    found: list[tuple[int, str]] = []  # level (0 for text) and text
    for node in parsed.nodes:
        if isinstance(node, Heading):
            found.append((node.level, "".join(_texts(node.title, namespaces)).strip()))
        else:
            found.append((0, "".join(_node(node, namespaces))))
    kept: list[str] = []
    below = 7  # the level of the heading, or 0 for text, that follows: nothing yet
    for level, text in reversed(found):
        if level:
            if below == 0 or level < below < 7:
                kept.append(f"\n{text}\n")
                below = level
        else:
            kept.append(text)
            below = 0 if text.strip() else below
    return "".join(reversed(kept))


def too_nested(markup: str) -> bool:
    """Whether brackets, tags or headings are nested deeper, or more of them left open, than the parser can take."""
    if markup.count("<!--", markup.rfind("-->") + 1) > _DEEPEST:
        return True
    depth = 0
    for found in _BRACKETS.finditer(markup):
        depth = depth + 1 if found[1] else max(depth - 1, 0)
        if depth > _DEEPEST:
            return True
    depth = 0
    for found in _TAGS.finditer(markup):
        if found[1]:
            depth = max(depth - 1, 0)
        elif found[3] is None or (found[3] == ">" and found[2].lower() not in _SINGLE_TAGS):
            depth += 1
            if depth > _OPEN_TAGS:
                return True
    return any(found[0].count("=") > _EQUAL_SIGNS for found in _HEADING.finditer(markup))


def _texts(code: Any, namespaces: Namespaces) -> Iterator[str]:
    for node in code.nodes:
        yield from _node(node, namespaces)


def _node(node: Any, namespaces: Namespaces) -> Iterator[str]:
    kind = type(node).__name__
    if kind == "Text":
        yield _QUOTES.sub(_apostrophes, _POSSESSIVE.sub("'s", node.value))
    elif kind == "HTMLEntity":
        yield node.normalize()
    elif kind == "Wikilink":
        yield from _link(node, namespaces)
    elif kind == "ExternalLink":
        if not node.brackets:
            yield str(node.url)
        elif node.title is not None:
            yield from _texts(node.title, namespaces)
    elif kind == "Heading":
        yield "\n"
        yield from _texts(node.title, namespaces)
        yield "\n"
    elif kind == "Tag":
        name = str(node.tag).strip().lower()
        if name not in _HIDDEN_TAGS:
            border = "\n" if name in _LINES and not node.wiki_markup else ""
            yield border
            if node.contents is not None:
                yield from _texts(node.contents, namespaces)
                yield border


def _apostrophes(quotes: re.Match[str]) -> str:
    """Those that are shown: to MediaWiki four are one before bold, and more than five some before bold italics."""
    count = len(quotes[0])
    return "'" if count == 4 else "'" * (count - 5)


def _link(node: Any, namespaces: Namespaces) -> Iterator[str]:
    """The words that a link shows: none for files, categories and the same article in another language."""
    title = str(node.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and (prefix.replace("_", " ").strip().lower() in namespaces.hidden or _LANGUAGE.fullmatch(prefix.strip())):
        return
    if node.text is not None:
        yield from _texts(node.text, namespaces)
    else:
        yield title.removeprefix(":")
