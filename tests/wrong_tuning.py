"""Fine-tuning that is refused."""

import pytest

from bert_jax.finetune import finetune
from data_prep.errors import InputError


def refused(tmp_path, model, arguments, suffix, message):
    """Fine-tuning ends in one line that says so, and leaves nothing; `train` and `dev` may be a file's content."""
    arguments = dict(arguments)
    for name in ("train", "dev"):
        if isinstance(arguments[name], str):
            path = tmp_path / f"{name}{suffix}"
            path.write_text(arguments[name])
            arguments[name] = path
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as error:
        finetune(init=model, workdir=tmp_path / "out", **arguments)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
