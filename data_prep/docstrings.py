"""Prose out of docstrings: paragraphs on a line each, without code, doctests, tables and markup."""

import inspect
import re
from collections.abc import Iterator

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+_.:])\1{2,}$")
_BULLET = re.compile(r"(?:[*+•-]|\(?(?:\d{1,2}|[a-zA-Z#])[.)])\s+(?=\S)")
_DIRECTIVE = re.compile(r"\.\. +([\w:.+-]+?)::(.*)$")
_COMMENT = re.compile(r"\.\.(?: |$)")
# Directives whose body is prose; the body of any other (code, maths, figures) is dropped.
_PROSE_DIRECTIVES = (
    "note warning caution attention hint tip important danger error seealso deprecated versionadded versionchanged "
    "versionremoved deprecated-removed admonition topic rubric impl-detail"
)
# `name : type` of a NumPy parameter, `name (type): text` or `name: text` of a Google one.
_FIELD = re.compile(r"\*{0,2}[\w.,* ]{1,60}? : \S|\*{0,2}[\w.]+(?: \([^)]{1,80}\))?: |:\w+(?: [\w*]+)*: ")
_NUMPY_FIELD = re.compile(r"\*{0,2}[\w.,* ]{1,60}? : \S[^.]{0,120}$")
_LABEL = re.compile(r"[A-Z][\w ]{0,30}:$")
_FENCE = re.compile(r"(```|~~~)")
_ROLE = re.compile(r":[a-zA-Z][\w:+.-]*:`([^`]*)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{1,2}")
_QUOTED = re.compile(r"``([^`]+)``|`([^`']+)(?:`_{0,2}|')")
_REFERENCE = re.compile(r"\s*\[\d{1,3}\]_")
_STRONG = re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*\n]*[^\s*])?)\*{1,2}(?![\w*])")
_WORD = re.compile(r"[^\W\d_]{2,}")
_CODE = re.compile(r"[;{}\\]|\w\(\S*\)$|\w = \S|^[@#$%|+>]")


def prose(docstring: str) -> str:
    """A docstring's paragraphs, one a line; "" when there is no prose in it.

    Lines of a paragraph are joined. Doctests, indented and fenced code, tables, headings with their underlines and
    directives that hold no prose are dropped; list items and the descriptions of parameters become paragraphs; inline
    markup loses its marks.
    """
    paragraphs = (_inline(" ".join(lines)) for lines in _paragraphs(inspect.cleandoc(docstring).split("\n")))
    return "\n".join(paragraph for paragraph in paragraphs if _is_prose(paragraph))


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Groups of stripped lines that belong together, without those that are no prose by their place or form."""
    paragraph: list[str] = []
    indent = 0  # of the paragraph's last line
    code_above: int | None = None  # inside code: every line indented deeper than this
    fence = ""
    doctest = False
    for line in lines:
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if fence:
            fence = "" if stripped.startswith(fence) else fence
            continue
        if not stripped:
            doctest = False
            yield paragraph
            paragraph = []
            continue
        if doctest:
            continue
        if code_above is not None:
            if depth > code_above:
                continue
            code_above = None
        directive = _DIRECTIVE.match(stripped)
        if _FENCE.match(stripped):
            fence = stripped[:3]
        elif stripped.startswith(">>>"):
            doctest = True
        elif directive or _COMMENT.match(stripped):
            if not (directive and directive[1] in _PROSE_DIRECTIVES.split()):
                code_above = depth
        elif _UNDERLINE.match(stripped):
            paragraph = paragraph[:-1]  # the heading above it
        elif _LABEL.match(stripped):
            pass  # a heading such as "Returns:"
        else:
            starts = _BULLET.match(stripped) or _FIELD.match(stripped)
            if paragraph and (starts or depth < indent or (depth > indent and _NUMPY_FIELD.match(paragraph[-1]))):
                yield paragraph
                paragraph = []
            bullet = _BULLET.match(stripped)
            text = stripped[bullet.end() :] if bullet else stripped
            if text.endswith("::"):
                code_above = depth
                text = text[:-1]
            paragraph.append(text)
            indent = depth
            continue
        yield paragraph
        paragraph = []
    yield paragraph


def _inline(text: str) -> str:
    """The text without reStructuredText's and Markdown's marks for roles, literals, links and emphasis."""
    if "`" in text:
        text = _ROLE.sub(lambda role: role[1].split("<")[0].strip().lstrip("~!"), text)
        text = _LINK.sub(r"\1", text)
        text = _QUOTED.sub(lambda quoted: quoted[1] or quoted[2], text)
    if "]_" in text:
        text = _REFERENCE.sub("", text)
    if "*" in text:
        text = _STRONG.sub(r"\1", text)
    return " ".join(text.split())


def _is_prose(paragraph: str) -> bool:
    """At least three words of letters, most of the paragraph made of them, and nothing that reads as code or as a
    type.
    """
    words = _WORD.findall(paragraph)
    if len(words) < 3 or _NUMPY_FIELD.match(paragraph):
        return False
    letters = sum(map(len, words))
    if letters < 0.6 * len(paragraph.replace(" ", "")):
        return False
    return not (_CODE.search(paragraph) and paragraph[-1] not in ".!?:")
