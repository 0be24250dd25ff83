"""A finished corpus, opened: its manifest, and the splits in it (data_prep.corpus_files has its layout)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.corpus_files import MANIFEST, SPLITS, unfinished
from data_prep.corpus_split import Split
from data_prep.errors import InputError
from data_prep.staging import Stage
from data_prep.storage import Folder, is_url

FORMAT_VERSION = 1


class Corpus:
    """A finished corpus; opening it reads the manifest only."""

    def __init__(self, path: Path, manifest: dict[str, Any], stage: Stage | None = None):
        self.path = path
        self.manifest = manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_dir = path / "tokenizer"
        self.tokenizer_fingerprint: str = manifest["tokenizer"]["fingerprint"]
        self.vocab_size: int = manifest["tokenizer"]["vocab_size"]
        self._stage = stage

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """The corpus at `path`, a folder or the URL of one in an object store; of the latter, index and tokenizer are
        copied to this machine (data_prep.staging), and `self.path` is the copy.

        Raises InputError if there is none, or it is unfinished, damaged or of a newer format.
        """
        if is_url(path):
            return cls._open_url(Folder(str(path)))
        path = Path(path)
        state = unfinished(path)
        if state:
            raise InputError(state)
        try:
            content = (path / MANIFEST).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path} is no corpus (it has no {MANIFEST}); make one with: bert-jax build") from None
        return cls._made(lambda manifest: cls(path, manifest), content, path)

    @classmethod
    def _open_url(cls, folder: Folder) -> "Corpus":
        state = unfinished(folder)
        if state:
            raise InputError(state)
        content = folder.read(MANIFEST)
        if content is None:
            raise InputError(f"{folder} is no corpus (it has no {MANIFEST}); make one with: bert-jax build")

        def staged(manifest: dict[str, Any]) -> "Corpus":
            stage = Stage.open(folder, manifest)
            return cls(stage.path, manifest, stage)

        return cls._made(staged, content, folder)

    @classmethod
    def _made(cls, make: Callable[[dict[str, Any]], "Corpus"], content: bytes, path: Path | Folder) -> "Corpus":
        damaged = InputError(f"{path}/{MANIFEST} is damaged; build the corpus again")
        try:
            manifest = json.loads(content)
            version = manifest["format_version"]
        except (ValueError, KeyError, TypeError):
            raise damaged from None
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise InputError(
                f"{path} has corpus format {version}; this program reads up to {FORMAT_VERSION}: upgrade bert-jax"
            )
        try:
            return make(manifest)
        except (KeyError, TypeError):
            raise damaged from None

    def split(self, name: str) -> "Split":
        """The split "train" or "validation"."""
        if name not in SPLITS:
            raise InputError(f"a corpus has the splits {' and '.join(SPLITS)}, not {name!r}")
        return Split(self.path, self.manifest, name, self._stage)
