"""Documents from .txt and .jsonl files, plain or compressed, whole or a byte range of them.

A range owns the documents that start in it, so that any cut of a file into ranges gives every document exactly once.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_prep import byte_streams
from data_prep.byte_streams import Damaged, open_unpacked, read_block
from data_prep.documents import Document, Dropped, clean, document, unwrapped
from data_prep.errors import InputError
from data_prep.inputs import DEFAULT_READING, Reading

BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_DROP = "mend it, or build with --on-error drop to leave it out"


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of a file, and how it is read; a compressed file is always read whole, whatever its range."""

    path: Path
    name: str
    start: int
    end: int
    reading: Reading = DEFAULT_READING

    @property
    def packed(self) -> bool:
        """Whether the file is compressed."""
        return bool(byte_streams.compression(self.path.name))

    def ends_before(self, offset: int) -> bool:
        """Whether what begins at `offset` belongs to a later range."""
        return not self.packed and offset >= self.end


def read_txt(part: Range, fail: bool) -> Iterator[Document | Dropped]:
    """Documents of a text file: a blank line (nothing but ASCII white space) ends one, every other line is a
    paragraph.
    """
    found: list[bytes] = []  # lines of the document so far
    document_start = 0
    with open_unpacked(part.path) as stream:
        start, mid_document = _first_line(part, stream)
        if part.ends_before(start):
            return
        try:
            for offset, line in _lines(stream, start):
                if offset == 0:
                    line = line.removeprefix(BOM)
                if line.strip():
                    if not found:
                        if part.ends_before(offset):
                            return
                        if mid_document:
                            continue
                        document_start = offset
                    found.append(line)
                    continue
                mid_document = False
                if found:
                    yield _txt_document(part, document_start, found, fail)
                    found = []
                if part.ends_before(offset + len(line) + 1):
                    return
        except Damaged as error:
            yield _damaged(part, error, fail)
            return
    if found:
        yield _txt_document(part, document_start, found, fail)


def read_txt_file(part: Range, fail: bool) -> Iterator[Document | Dropped]:
    """A text file as one document, if there is text in it."""
    blocks: list[bytes] = []
    with open_unpacked(part.path) as stream:
        try:
            while block := read_block(stream):
                blocks.append(block)
        except Damaged as error:
            yield _damaged(part, error, fail)
            return
    raw = b"".join(blocks).removeprefix(BOM)
    del blocks
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + len(_LINE_END.findall(raw, 0, error.start))
        yield _report(part, line, "invalid utf-8", _not_utf8(raw, error), fail)
        return
    del raw
    if part.reading.documents == "wrapped-file":
        text = unwrapped(text)
    yield document(part.name, text, part.reading.normalize)


def read_jsonl(part: Range, fail: bool) -> Iterator[Document | Dropped]:
    """Documents of a JSON-lines file: an object a line with a text (a string) and perhaps an id, in the fields that
    the reading names; blank lines are passed over.
    """
    with open_unpacked(part.path) as stream:
        start = 0 if part.packed else _line_at_or_after(stream, part.start, part.end)
        if part.ends_before(start):
            return
        try:
            for offset, line in _lines(stream, start):
                if part.ends_before(offset):
                    return
                if offset == 0:
                    line = line.removeprefix(BOM)
                if line.strip():
                    yield _jsonl_document(part, offset, line, fail)
        except Damaged as error:
            yield _damaged(part, error, fail)


def _txt_document(part: Range, offset: int, lines: list[bytes], fail: bool) -> Document | Dropped:
    raw = b"\n".join(lines)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        # Line ends of two bytes are one in `raw`: count lines, not bytes.
        line = _line_number(part, offset) + raw.count(b"\n", 0, error.start)
        return _report(part, line, "invalid utf-8", _not_utf8(raw, error), fail, offset)
    return document(f"{part.name}:{offset}", text, part.reading.normalize)


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16, not UTF-8; convert it with: iconv -f UTF-16 -t UTF-8"
    return f"invalid UTF-8 (byte 0x{raw[error.start]:02x})"


def _jsonl_document(part: Range, offset: int, line: bytes, fail: bool) -> Document | Dropped:
    field = part.reading.text_field
    try:
        record = json.loads(line.decode("utf-8"))
        if not isinstance(record, dict):
            reason, message = "broken json", "the line is no JSON object"
        elif field not in record:
            has = ", ".join(list(record)[:8]) or "none"
            reason, message = "missing text", f"no field `{field}` (there are: {has}); name another with --text-field"
        elif not isinstance(record[field], str):
            reason, message = "text not a string", f"`{field}` is {_json_type(record[field])}, not a string"
        else:
            name = identifier(record.get(part.reading.id_field)) or f"{part.name}:{offset}"
            return document(name, record[field], part.reading.normalize)
    except UnicodeDecodeError as error:
        reason, message = "invalid utf-8", f"invalid UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})"
    except json.JSONDecodeError as error:
        reason, message = "broken json", f"broken JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        reason, message = "broken json", f"broken JSON ({str(error).split(';')[0]})"
    return _report(part, _line_number(part, offset), reason, message, fail, offset)


def identifier(value: object) -> str:
    """A document's name from a field of its record: a string or an integer, else ""."""
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return clean(str(value)).replace("\n", " ") if known else ""


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", list: "a list", dict: "an object"}.get(type(value), "a number")


def _damaged(part: Range, error: Damaged, fail: bool) -> Dropped:
    packing = byte_streams.COMPRESSIONS[byte_streams.compression(part.path.name)]
    return _report(part, None, f"truncated {packing}", str(error), fail)


def _report(part: Range, line: int | None, reason: str, message: str, fail: bool, offset: int | None = None) -> Dropped:
    if fail:
        place = f"{part.path}:{line}" if line else str(part.path)
        raise InputError(f"{place}: {message}; {_DROP}")
    return Dropped(f"{part.name}:{'' if offset is None else offset}", reason)


def _lines(stream: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line without its end) from byte `start`, a line's beginning, on. A line of any length is joined once."""
    if start:
        stream.seek(start)
    head: list[bytes] = []  # the line begun in earlier blocks
    line_start = start
    while True:
        block = read_block(stream)
        if not block:
            break
        while block.endswith(b"\r"):  # whether the line ends here or one byte later is in the next byte
            more = read_block(stream, 1)
            block += more
            if not more:
                break
        if b"\r" in block:
            begin = 0
            for end in _LINE_END.finditer(block):
                line = block[begin : end.start()]
                if head:
                    line = b"".join([*head, line])
                    head = []
                yield line_start, line
                line_start += len(line) + end.end() - end.start()
                begin = end.end()
            tail = block[begin:]
        else:
            *lines, tail = block.split(b"\n")
            for line in lines:
                if head:
                    line = b"".join([*head, line])
                    head = []
                yield line_start, line
                line_start += len(line) + 1
        if tail:
            head.append(tail)
    if head:
        yield line_start, b"".join(head)


def _line_at_or_after(stream: BinaryIO, start: int, end: int) -> int:
    """Offset of the first line that begins at `start` or later; any offset past `end` when there is none before it."""
    if start == 0:
        return 0
    stream.seek(start - 1)
    offset = start - 1
    while offset < end:
        block = read_block(stream)
        if not block:
            return offset
        while block.endswith(b"\r"):
            more = read_block(stream, 1)
            block += more
            if not more:
                break
        found = _LINE_END.search(block)
        if found:
            return offset + found.end()
        offset += len(block)
    return offset


def _first_line(part: Range, stream: BinaryIO) -> tuple[int, bool]:
    """Where a text range begins to read, and whether it begins inside a document that an earlier range owns."""
    if part.packed or part.start == 0:
        return 0, False
    first = _line_at_or_after(stream, part.start, part.end)
    return first, not _blank_line_before(stream, first)


def _blank_line_before(stream: BinaryIO, line_start: int) -> bool:
    """Whether the line that ends just before `line_start` is blank. Reads back only as far as it is white space."""
    ends_seen = 0
    after = b""  # the byte after the one looked at
    position = line_start
    while position > 0:
        size = min(4096, position)
        stream.seek(position - size)
        block = stream.read(size)
        for i in range(size - 1, -1, -1):
            byte = block[i : i + 1]
            if byte in (b"\r", b"\n"):
                if not (byte == b"\r" and after == b"\n"):
                    ends_seen += 1
                if ends_seen == 2:
                    return True
            elif not byte.isspace():
                # The byte order mark is no text: a file may open with it and a blank line.
                return position - size + i == len(BOM) - 1 and block[: len(BOM)] == BOM
            after = byte
        position -= size
    return True


def _line_number(part: Range, offset: int) -> int:
    """The number, from 1, of the line that begins at `offset`: counted only when an error needs it."""
    ends, position, last = 0, 0, b""
    with open_unpacked(part.path) as stream:
        while position < offset:
            block = stream.read(min(byte_streams.BLOCK, offset - position))
            if not block:
                break
            ends += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
            ends -= last == b"\r" and block.startswith(b"\n")
            last = block[-1:]
            position += len(block)
    return ends + 1
