"""Exports that are wrong on purpose, and refused."""

import dataclasses

import numpy as np
import pytest

from bert_jax.convert import ConversionMismatch, exporting, to_hf
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.mapping import Row


def refuse(model, folder) -> str:
    """The error of an export that must fail, and leave nothing."""
    with pytest.raises(ConversionMismatch) as error:
        to_hf(model, folder / "hf")
    assert list(folder.iterdir()) == []
    return str(error.value)


def break_tensor(monkeypatch, ours, change):
    """Exports with one row's tensors changed."""
    right = Row.to_theirs

    def wrong(self, array, vocab_size):
        tensor = right(self, array, vocab_size)
        return np.ascontiguousarray(change(tensor)) if self.ours == ours else tensor

    monkeypatch.setattr(Row, "to_theirs", wrong)


def change_config(monkeypatch, family, **fields):
    """Exports with other fields in config.json."""
    right = FAMILIES[family]
    wrong = dataclasses.replace(right, config_to_hf=lambda config: right.config_to_hf(config) | fields)
    monkeypatch.setitem(exporting.FAMILIES, family, wrong)
