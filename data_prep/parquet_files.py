"""Documents from .parquet files, by row groups: the one place that knows pyarrow's readers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.byte_streams import open_bytes
from data_prep.documents import Document, Dropped, Unreadable, document
from data_prep.errors import InputError
from data_prep.inputs import Reading
from data_prep.text_files import identifier

# Rows that are held in memory at once.
_BATCH_ROWS = 64
_BUFFER = 1 << 20


def row_groups(path: Path, reading: Reading) -> list[int]:
    """Bytes, unpacked, that the text column has in each row group.

    Raises Unreadable for a file that is no parquet file, InputError for one that has no rows, and for a text column
    that is missing or no text.
    """
    with _open(path) as file:
        _check_column(path, file.schema_arrow, reading.text_field)
        meta = file.metadata
        if not meta.num_rows:
            raise InputError(f"{path}: the file has no rows; remove it from the inputs")
        column = [meta.schema.column(i).path for i in range(meta.num_columns)].index(reading.text_field)
        return [meta.row_group(i).column(column).total_uncompressed_size for i in range(meta.num_row_groups)]


def read(path: Path, name: str, start: int, end: int, reading: Reading, fail: bool) -> Iterator[Document | Dropped]:
    """Documents of the row groups [start, end): a row each. Rows are numbered from 1, through the whole file."""
    with _open(path) as file:
        ids = [reading.id_field] if reading.id_field in file.schema_arrow.names else []
        first = sum(file.metadata.row_group(i).num_rows for i in range(start))
        # One group after the other: damage in one of them costs its rows only.
        for group in range(start, end):
            row = first
            try:
                for texts, names in _batches(file, group, reading.text_field, ids):
                    for raw, given in zip(texts, names, strict=True):
                        row += 1
                        yield _row(path, f"{name}:{row}", row, raw.as_py(), given, reading, fail)
            except _Damaged as error:
                if fail:
                    raise InputError(
                        f"{path}: row {row + 1} or one soon after: {error}; mend it, or build with --on-error drop"
                    ) from None
                yield Dropped(f"{name}:{row + 1}", "damaged parquet")
            first += file.metadata.row_group(group).num_rows


class _Damaged(Exception):
    pass


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    with open_bytes(path) as stream:
        try:
            file = parquet.ParquetFile(stream, buffer_size=_BUFFER)
        except (pyarrow.ArrowException, OSError) as error:
            raise Unreadable(
                f"{path}: no parquet file, or a damaged one ({_line(error)}); mend it, or build with --on-error drop",
                "damaged parquet",
            ) from None
        yield file


def _batches(file: Any, group: int, text_field: str, ids: list[str]) -> Iterator[tuple[Any, list[Any]]]:
    """Texts, as bytes, and ids: nobody promises that a parquet file's strings are UTF-8."""
    import pyarrow

    try:
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[text_field, *ids], use_threads=False):
            texts = batch.column(batch.schema.get_field_index(text_field))
            if pyarrow.types.is_dictionary(texts.type):
                texts = texts.dictionary_decode()
            names = [name for column in ids for name in batch.column(column).to_pylist()]
            yield texts.cast(pyarrow.large_binary()), names or [None] * len(texts)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _Damaged(f"the parquet file is damaged ({_line(error)})") from None


def _row(
    path: Path, name: str, row: int, raw: bytes | None, given: object, reading: Reading, fail: bool
) -> Document | Dropped:
    if raw is None:
        reason, message = "text not a string", f"`{reading.text_field}` is null, not a string"
    else:
        try:
            return document(identifier(given) or name, raw.decode("utf-8"), reading.normalize)
        except UnicodeDecodeError as error:
            reason, message = "invalid utf-8", f"invalid UTF-8 (byte 0x{raw[error.start]:02x})"
    if fail:
        raise InputError(f"{path}: row {row}: {message}; mend it, or build with --on-error drop to leave it out")
    return Dropped(name, reason)


def _check_column(path: Path, schema: Any, field: str) -> None:
    from pyarrow import types

    if field not in schema.names:
        has = ", ".join(schema.names[:12]) or "none"
        raise InputError(f"{path}: no column `{field}` (there are: {has}); name another with --text-field")
    kind = schema.field(field).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if not any(is_text(kind) for is_text in (*texts, types.is_binary, types.is_large_binary, types.is_binary_view)):
        raise InputError(f"{path}: the column `{field}` is {kind}, no text; name another with --text-field")


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
