"""Documents from datasets that tensorflow-datasets has prepared as ArrayRecord, which need no TensorFlow to be read."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.documents import Document, Dropped, document
from data_prep.errors import InputError
from data_prep.inputs import Reading
from data_prep.storage import is_url
from data_prep.text_files import identifier

# ArrayRecord takes longer to find one example the more its file holds, and as long to find a run of them.
_READ_AT_ONCE = 64
_DAMAGE = (RuntimeError, ValueError, IndexError, OSError)
_FORM = "tfds:NAME/SPLIT, as in tfds:wikipedia/20230601.en/train, or tfds:FOLDER/SPLIT for a prepared dataset's folder"


def size(what: str, reading: Reading) -> tuple[str, int, int]:
    """The same name on every machine, examples, and bytes of "NAME/SPLIT".

    Raises InputError for a dataset that is not there, is stored in a format that needs TensorFlow, or has no such split
    or text field.
    """
    builder, split = _builder(what)
    stored = getattr(builder.info.file_format, "value", builder.info.file_format)
    if stored != "array_record":
        raise InputError(
            f"tfds:{what} is stored as {stored}, which needs TensorFlow to be read; prepare it again with: "
            f"tfds build {builder.info.name} --file_format=array_record"
        )
    features = builder.info.features
    if reading.text_field not in features:
        raise InputError(
            f"tfds:{what}: no field `{reading.text_field}` (there are: {', '.join(sorted(features))}); "
            "name another with --text-field"
        )
    info = builder.info.splits[split]
    full_name = builder.info.full_name.replace(":", "/")
    return f"tfds/{full_name}/{split}", info.num_examples, max(info.num_bytes or 0, info.num_examples)


def read(what: str, name: str, start: int, end: int, reading: Reading, fail: bool) -> Iterator[Document | Dropped]:
    """Documents of the examples [start, end), numbered from 0."""
    for number, example in _examples(what, start, end, fail):
        if example is None:
            yield Dropped(f"{name}:{number}", "damaged example")
            continue
        raw = example[reading.text_field]
        try:
            text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
            if not isinstance(text, str):
                reason, message = "text not a string", f"`{reading.text_field}` is no string"
            else:
                own_name = identifier(_plain(example.get(reading.id_field)))
                yield document(own_name or f"{name}:{number}", text, reading.normalize)
                continue
        except UnicodeDecodeError as error:
            reason, message = "invalid utf-8", f"invalid UTF-8 (byte 0x{raw[error.start]:02x})"
        if fail:
            raise InputError(f"tfds:{what}: example {number}: {message}; build with --on-error drop to leave it out")
        yield Dropped(f"{name}:{number}", reason)


def _examples(what: str, start: int, end: int, fail: bool) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Number and content of the examples [start, end); None for one that is damaged, unless that is to `fail`."""
    builder, split = _builder(what)
    source = builder.as_data_source(split)
    for begin in range(start, end, _READ_AT_ONCE):
        numbers = range(begin, min(begin + _READ_AT_ONCE, end))
        try:
            examples = source.__getitems__(numbers)
        except _DAMAGE:
            pass  # one of them, or several: alone, each says so itself
        else:
            yield from zip(numbers, examples, strict=True)
            continue
        for number in numbers:
            try:
                yield number, source[number]
            except _DAMAGE as error:
                if fail:
                    detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                    raise InputError(
                        f"tfds:{what}: example {number} cannot be read ({detail}); prepare it again"
                    ) from None
                yield number, None


def _plain(value: Any) -> Any:
    """A scalar of NumPy's as Python has it, and bytes as text."""
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _builder(what: str) -> tuple[Any, str]:
    """A builder that reads what has been prepared, and the split."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow_datasets as tfds

    name, slash, split = what.rpartition("/")
    if not (slash and name and split):
        raise InputError(f"tfds:{what}: no split is named; write {_FORM}")
    if is_url(name):
        raise InputError(
            f"tfds:{what}: a prepared dataset is read from a disk; copy its folder to this machine, or mount the "
            "store, and write tfds:FOLDER/SPLIT"
        )
    try:
        if os.path.isdir(name) and os.path.exists(os.path.join(name, "dataset_info.json")):
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.core.read_only_builder.builder_from_files(name)
    except tfds.core.DatasetNotFoundError:
        raise InputError(
            f"tfds:{what}: no prepared dataset of this name is found; prepare it with: tfds build {name} "
            f"--file_format=array_record, and set TFDS_DATA_DIR to where it lies; the form is {_FORM}"
        ) from None
    except (ValueError, OSError, AssertionError) as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"tfds:{what}: the dataset cannot be opened ({detail}); the form is {_FORM}") from None
    try:
        builder.info.splits[split]  # raises for an unknown one
    except (KeyError, ValueError) as error:
        known = ", ".join(sorted(builder.info.splits)) or "none"
        raise InputError(f"tfds:{what}: no split `{split}` (there are: {known})") from error
    return builder, split
