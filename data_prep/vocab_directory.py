"""The directory of a trained tokenizer, here or in an object store: whether it is there already, and how it is written.

It is written whole or not at all. Here a rename makes it. A store has none: the files that say how to read others come
first, then `tokenizer.json`, which alone is the tokenizer, then its own model file; the settings, written last, say
that all is there, and until then the same command writes it again.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from data_prep.files import is_scratch
from data_prep.storage import Folder, is_url, local_folder
from data_prep.tokenizer import Tokenizer, load_tokenizer
from data_prep.tokenizer_files import MODEL_FILE, VOCAB_FILE

SETTINGS_FILE = "vocab_settings.json"
# In the order in which a store gets them.
_FILES = ("special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", VOCAB_FILE, MODEL_FILE)


def directory(output: str | Path) -> Path | Folder:
    """The place that a path or a URL names. Raises InputError where no directory can be made."""
    if is_url(output):
        return Folder(str(output))
    path = Path(output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); use another --output") from None
    return path


def existing(output: Path | Folder, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What the vocabulary at `output` says of itself, None when there is none or what was begun in a store.

    Raises InputError when it is of other settings or damaged, or something else is there.
    """
    if isinstance(output, Folder):
        content = output.read(SETTINGS_FILE)
        if content is None and all(name in _FILES or is_scratch(name) for name in output.sizes()):
            return None
    elif not output.exists():
        return None
    else:
        file = output / SETTINGS_FILE
        content = file.read_bytes() if file.is_file() else None
    try:
        found = json.loads(content or b"")
        # Those of an older version have no samples.
        same = {"samples": settings["samples"]} | found.pop("settings") == settings
    except (ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{output} exists and is no vocabulary of this command; use another --output") from None
    if not same:
        raise InputError(f"{output} holds a vocabulary of other settings or inputs; use another --output or remove it")
    with local_folder(output) as copy:
        try:
            load_tokenizer(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(output))) from None
    return found


def write(output: Path | Folder, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """Makes the directory. Raises OSError, and InputError for what a store refuses."""
    told = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if isinstance(output, Folder):
        for name, content in sorted(tokenizer.files().items(), key=lambda item: _FILES.index(item[0])):
            output.write(name, content)
        output.write(SETTINGS_FILE, told.encode())
        output.remove([name for name in output.sizes() if is_scratch(name)])
        return
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save(partial)
    (partial / SETTINGS_FILE).write_text(told, "utf-8")
    os.rename(partial, output)
