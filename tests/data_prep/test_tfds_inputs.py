"""Datasets that tensorflow-datasets has prepared, read without TensorFlow."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module

from data_prep.documents import Document, Dropped
from data_prep.errors import InputError
from data_prep.inputs import parse_inputs
from data_prep.sources import expand, read, units


def prepare(folder: Path, examples: list[dict], file_format: str = "array_record", name: str = "small") -> Path:
    """A dataset in two shards, as `tfds build` lays it out; its own serialiser writes the examples."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import example_serializer

    features = tfds.features.FeaturesDict(
        {"text": tfds.features.Text(), "title": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)}
    )
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    target = folder / name / "1.0.0"
    target.mkdir(parents=True)
    half = len(examples) // 2
    parts = [examples[:half], examples[half:]]
    for i, part in enumerate(parts):
        file = target / f"{name}-train.{file_format}-{i:05d}-of-{len(parts):05d}"
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1,uncompressed")
        for example in part:
            writer.write(serializer.serialize_example(features.encode_example(example)))
        writer.close()
    split = {
        "name": "train",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(len(part)) for part in parts],
        "numBytes": "4000",
    }
    info = {"name": name, "version": "1.0.0", "fileFormat": file_format, "splits": [split]}
    (target / "dataset_info.json").write_text(json.dumps(info))
    features.save_config(target)
    return target


EXAMPLES = [{"text": f"Text {i} é.", "title": f"T{i}", "label": i} for i in range(9)]


def items(word: str, unit_bytes: int = 1 << 20, on_error: str = "fail", **reading) -> list[Document | Dropped]:
    found = expand(parse_inputs([word], **reading))
    return [item for source in found for unit in units(source, unit_bytes) for item in read(unit, on_error)]


def test_by_folder_and_by_name(tmp_path, monkeypatch):
    folder = prepare(tmp_path, EXAMPLES)
    want = [Document(f"tfds/small/1.0.0/train:{i}", f"Text {i} é.") for i in range(9)]
    for unit_bytes in (1, 1000, 1 << 20):
        assert items(f"tfds:{folder}/train", unit_bytes) == want
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    monkeypatch.setattr("tensorflow_datasets.core.utils.file_utils.DEFAULT_DATA_DIR", str(tmp_path), raising=False)
    assert items("tfds:small/train") == want == items("tfds:small:1.0.0/train")
    assert [item.id for item in items(f"tfds:{folder}/train", id_field="title")] == [f"T{i}" for i in range(9)]
    assert [item.id for item in items(f"tfds:{folder}/train", id_field="label")] == [str(i) for i in range(9)]
    assert [item.text for item in items(f"tfds:{folder}/train[:3]", text_field="title")] == ["T0", "T1", "T2"]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("split", "reading", "message"),
    [
        ("train", {"text_field": "body"}, r"no field `body` \(there are: label, text, title\); name another with"),
        ("test", {}, r"no split `test` \(there are: train\)"),
        ("train", {"text_field": "label"}, "example 0: `label` is no string"),
    ],
)
def test_wrong_names(tmp_path, split, reading, message):
    folder = prepare(tmp_path, EXAMPLES)
    with pytest.raises(InputError, match=message) as caught:
        items(f"tfds:{folder}/{split}", **reading)
    assert "\n" not in str(caught.value)


def test_a_format_that_needs_tensorflow(tmp_path):
    folder = prepare(tmp_path, EXAMPLES, "tfrecord")
    with pytest.raises(InputError, match=r"is stored as tfrecord, which needs TensorFlow .*--file_format=array_record"):
        items(f"tfds:{folder}/train")


def test_nothing_there(tmp_path):
    for word, message in (
        ("tfds:no_such_set/train", "no prepared dataset of this name"),
        ("tfds:small", "no split is named"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            items(word)
        assert "\n" not in str(caught.value)


@pytest.fixture
def many(tmp_path):
    return prepare(tmp_path, [{"text": f"Text {i}.", "title": "", "label": i} for i in range(300)])


def test_examples_are_read_by_runs(many, monkeypatch):
    """Alone, each costs what grows with its file."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    runs, read_run = [], ArrayRecordDataSource.__getitems__

    def counted(source, numbers):
        runs.append(len(numbers))
        return read_run(source, numbers)

    monkeypatch.setattr(ArrayRecordDataSource, "__getitem__", None)
    monkeypatch.setattr(ArrayRecordDataSource, "__getitems__", counted)
    assert [item.text for item in items(f"tfds:{many}/train")] == [f"Text {i}." for i in range(300)]
    assert len(runs) == 5
    assert max(runs) == 64


def test_a_damaged_example_is_one(many):
    file = many / "small-train.array_record-00000-of-00002"
    raw = file.read_bytes()
    place = raw.index(b"Text 100.")
    file.write_bytes(raw[:place] + b"X" + raw[place + 1 :])
    with pytest.raises(InputError, match=r"example 100 cannot be read .*; prepare it again"):
        items(f"tfds:{many}/train")
    found = items(f"tfds:{many}/train", on_error="drop")
    assert [place for place, item in enumerate(found) if isinstance(item, Dropped)] == [100]
    assert len(found) == 300


def test_a_store(tmp_path):
    with pytest.raises(InputError, match=r"tfds:gs://bucket/small/1.0.0/train: .* copy its folder to this machine"):
        items("tfds:gs://bucket/small/1.0.0/train")
