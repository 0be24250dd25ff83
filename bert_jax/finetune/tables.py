"""Task files as tables: .tsv (split at tabs, no quoting), .csv (quoted as in RFC 4180), .jsonl (an object a line)."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.errors import InputError

LABEL = "label"
_MOST_TEXTS = 2


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a file, each with a value a column; `lines` says where a row begins, for messages."""

    path: Path
    columns: list[str]
    rows: list[list[Any]]
    lines: list[int]

    def where(self, row: int) -> str:
        """File and line of a row."""
        return f"{self.path}:{self.lines[row]}"

    def text_columns(self) -> list[str]:
        """Every column but the label, in order.

        Raises:
          InputError: there are none, or more than two.
        """
        columns = [name for name in self.columns if name != LABEL]
        if not 1 <= len(columns) <= _MOST_TEXTS:
            raise InputError(
                f"{self.path} has {len(columns)} columns beside {LABEL!r} ({', '.join(columns)}); "
                "keep one or two, with text"
            )
        return columns

    def texts(self, columns: Sequence[str]) -> list[tuple[str, ...]]:
        """The texts of every row, one or two.

        Raises:
          InputError: a column is missing, or a value is no text.
        """
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise InputError(f"{self.path} has no column {missing[0]!r}; it has {', '.join(self.columns)}")
        places = [self.columns.index(name) for name in columns]
        for i, row in enumerate(self.rows):
            for name, place in zip(columns, places, strict=True):
                if not isinstance(row[place], str):
                    raise InputError(f"{self.where(i)}: {name} is {row[place]!r}; it must be text")
        return [tuple(row[place] for place in places) for row in self.rows]

    def labels(self) -> list[str]:
        """The label of every row, as text.

        Raises:
          InputError: there is no such column, or a label is missing or no text, number or truth value.
        """
        if LABEL not in self.columns:
            raise InputError(f"{self.path} has no column {LABEL!r}; it has {', '.join(self.columns)}")
        place = self.columns.index(LABEL)
        labels = []
        for i, row in enumerate(self.rows):
            value = row[place]
            text = value.strip() if isinstance(value, str) else json.dumps(value)
            if not text or value is None or isinstance(value, list | dict):
                raise InputError(f"{self.where(i)}: the label is {value!r}; give every row one")
            labels.append(text)
        return labels

    def numbers(self) -> list[float]:
        """The label of every row as a finite number; InputError otherwise."""
        numbers = []
        for i, label in enumerate(self.labels()):
            try:
                numbers.append(float(label))
            except ValueError:
                raise InputError(
                    f"{self.where(i)}: the label {label!r} is no number; regression needs numbers"
                ) from None
            if not abs(numbers[-1]) < float("inf"):
                raise InputError(f"{self.where(i)}: the label {label!r} is not finite; regression needs finite numbers")
        return numbers


def read_table(path: str | Path) -> Table:
    """Reads a task file; the first line of .tsv and .csv names the columns.

    Raises:
      InputError: no such file, an unknown ending, no rows, or a broken line (with its number).
    """
    path = Path(path)
    readers = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; known are {', '.join(readers)}")
    content = read_text(path)
    table = readers[path.suffix](path, content)
    if not table.rows:
        raise InputError(f"{path} has a header but no rows; give it some")
    return table


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
      InputError: no such file, nothing in it, or no UTF-8.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}; convert it") from None
    if not content.strip():
        raise InputError(f"{path} is empty; give it rows")
    return content


def _checked(path: Path, records: list[tuple[int, list[str]]]) -> Table:
    """(line, fields) of every record, the header first, as a table; blank lines at the end are none."""
    while len(records) > 1 and records[-1][1] in ([], [""]):
        records.pop()
    columns = records[0][1]
    if len(set(columns)) != len(columns):
        raise InputError(f"{path}: two columns have the same name in {', '.join(columns)}; rename one")
    for line, fields in records[1:]:
        if len(fields) != len(columns):
            raise InputError(f"{path}:{line}: {len(fields)} fields where the header has {len(columns)}; mend the line")
    return Table(path, columns, [fields for _, fields in records[1:]], [line for line, _ in records[1:]])


def _read_tsv(path: Path, content: str) -> Table:
    lines = (line.removesuffix("\r") for line in content.split("\n"))
    return _checked(path, [(number, line.split("\t")) for number, line in enumerate(lines, 1)])


def _read_csv(path: Path, content: str) -> Table:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    records, line = [], 1
    try:
        for fields in reader:
            records.append((line, fields or [""]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{line}: broken quoting ({error}); mend the line") from None
    return _checked(path, records)


def _read_jsonl(path: Path, content: str) -> Table:
    columns: list[str] = []
    rows, lines = [], []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: broken JSON ({error}); mend the line") from None
        if not isinstance(fields, dict):
            raise InputError(f"{path}:{number}: no JSON object; every line must be one")
        columns = columns or list(fields)
        if set(fields) != set(columns):
            odd = sorted(set(fields) ^ set(columns))
            raise InputError(
                f"{path}:{number}: not the fields of the first line ({', '.join(odd)}); give all rows the same"
            )
        rows.append([fields[name] for name in columns])
        lines.append(number)
    return Table(path, columns, rows, lines)
