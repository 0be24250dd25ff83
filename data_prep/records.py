"""One record of a shard: a tf.Example, written and read by hand.

A tf.Example is a map from names to lists, and Protocol Buffers' wire format for it is a handful of tags and lengths.
The serialiser of tensorflow-datasets costs 40 microseconds a record and loads the whole library; this one costs two.
TFDS reads the result: `FEATURES` is what it needs to know. The `tokens` come last, so that a reader that knows how many
there are (the index does) takes them from the end of a record without parsing it.
"""

from typing import Any, NamedTuple

import numpy as np

from data_prep.errors import InputError


class Record(NamedTuple):
    """One document, or a piece of a long one.

    `id` is the document's own, `document` its number in the corpus, `first` tells whether the document begins here.
    `tokens` are uint16 or uint32 [T], `sentence_lengths` uint16 [sentences], `word_starts` uint8 [ceil(T / 8)]: a bit a
    token, the highest bit first (`np.unpackbits(word_starts, count=T)`).
    """

    id: bytes
    document: int
    first: bool
    sentence_lengths: bytes
    word_starts: bytes
    tokens: bytes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [_varint(value) for value in range(1 << 10)]


def _length(value: int) -> bytes:
    return _SMALL[value] if value < 1 << 10 else _varint(value)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _length(len(content)) + content


_KEYS = {name: _field(b"\x0a", name.encode()) for name in Record._fields}


def _bytes_feature(name: str, value: bytes) -> bytes:
    feature = _field(b"\x0a", _field(b"\x0a", value))
    return _field(b"\x0a", _KEYS[name] + _field(b"\x12", feature))


def _int_feature(name: str, value: int) -> bytes:
    feature = _field(b"\x1a", _field(b"\x0a", _length(value)))
    return _field(b"\x0a", _KEYS[name] + _field(b"\x12", feature))


def encode(record: Record) -> bytes:
    """The record as a serialised tf.Example, `tokens` last."""
    return _field(
        b"\x0a",
        _bytes_feature("id", record.id)
        + _int_feature("document", record.document)
        + _int_feature("first", int(record.first))
        + _bytes_feature("sentence_lengths", record.sentence_lengths)
        + _bytes_feature("word_starts", record.word_starts)
        + _bytes_feature("tokens", record.tokens),
    )


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """(field number, content) of a message whose fields are all length-delimited."""
    found, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        size, at = _read_varint(data, at)
        if tag & 7 != 2 or at + size > len(data):
            raise ValueError("not a tf.Example")
        found.append((tag >> 3, data[at : at + size]))
        at += size
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("not a tf.Example")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def decode(data: bytes) -> Record:
    """The inverse of `encode`. Raises ValueError for anything else."""
    ((_, features),) = _fields(data)
    found: dict[str, Any] = {}
    for _, entry in _fields(features):
        (_, key), (_, feature) = _fields(entry)
        ((kind, values),) = _fields(feature)
        ((_, value),) = _fields(values)
        found[key.decode()] = value if kind == 1 else _read_varint(value, 0)[0]
    if set(found) != set(Record._fields):
        raise ValueError(f"a record has the fields {sorted(found)}")
    return Record(**{**found, "first": bool(found["first"])})


def last_tokens(data: bytes, count: int, dtype: np.dtype) -> np.ndarray:
    """The `count` tokens of an encoded record, without decoding it: they are its end."""
    return np.frombuffer(data, dtype, count, len(data) - count * dtype.itemsize)


def token_dtype(vocab_size: int) -> np.dtype:
    """The stored type of token ids: the smaller of uint16 and uint32 that holds them, little-endian."""
    if vocab_size > 1 << 32:
        raise InputError(f"a vocabulary of {vocab_size} entries; at most {1 << 32} can be stored")
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def features(vocab_size: int) -> dict[str, Any]:
    """What TFDS calls features.json: the names and types of a record's fields."""

    def scalar(dtype: str) -> dict[str, Any]:
        return {
            "pythonClassName": "tensorflow_datasets.core.features.scalar.Scalar",
            "tensor": {"shape": {}, "dtype": dtype, "encoding": "none"},
        }

    def array(dtype: str) -> dict[str, Any]:
        return {
            "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
            "tensor": {"shape": {"dimensions": ["-1"]}, "dtype": dtype, "encoding": "bytes"},
        }

    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "id": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}},
                "document": scalar("int64"),
                "first": scalar("bool"),
                "sentence_lengths": array("uint16"),
                "word_starts": array("uint8"),
                "tokens": array(token_dtype(vocab_size).name),
            }
        },
    }
