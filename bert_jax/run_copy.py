"""What a command that reads a model or a run needs of one that lies in an object store."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bert_jax.run_store import LOGS, naming, stored_steps
from data_prep.errors import InputError
from data_prep.storage import Folder, is_url


@contextmanager
def local_run(run: str | Path, step: int | None = None, params: bool = True) -> Iterator[Path]:
    """A run or model directory on this machine: itself, or for a URL a copy of what is needed while the block lasts.

    Of a run's checkpoints only the parameters of one are copied; of a directory without any (a Hugging Face one),
    everything is.

    Args:
      run: a directory or URL.
      step: which checkpoint; the newest unless given.
      params: whether a checkpoint is needed at all.

    Raises:
      InputError: nothing there, or the store refuses.
    """
    if not is_url(run):
        yield Path(run)
        return
    origin = Folder(str(run))
    with tempfile.TemporaryDirectory(prefix="bert-jax-") as scratch:
        copy = Path(scratch) / (origin.name or "run")
        with naming(copy, str(origin)):
            names = list(origin.sizes())
            if not names:
                raise InputError(f"{origin} does not exist; is it a model or run directory?")
            steps = stored_steps(names)
            for each in steps:  # that they are there is known
                (copy / "checkpoints" / str(each)).mkdir(parents=True)
            if any(name.startswith("checkpoints/") for name in names):
                chosen = f"checkpoints/{step if step is not None else max(steps, default=None)}/"
                of_step = (f"{chosen}params/", f"{chosen}checksums.json")
                wanted = ("tokenizer/", *of_step) if params else ("tokenizer/",)
                names = [name for name in names if name in ("config.json", *LOGS) or name.startswith(wanted)]
            origin.download([(name, copy / name) for name in names])
            yield copy
