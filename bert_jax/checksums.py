"""Checksums of a checkpoint's files: a flipped bit in an array is a number like any other, and only this notices.

`checksums.json` lies in the checkpoint and is written before the checkpoint appears, so one without it is a damaged
one (or of a version that wrote none).
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_prep.files import checksum, whole_file

FILE = "checksums.json"
# Written when a checkpoint gets its name; they hold times, nothing that is restored.
_ORBAX_OWN = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write(directory: Path) -> None:
    """Writes the checksums of all files below a directory into it."""
    passed_over = [directory / name for name in (FILE, *_ORBAX_OWN)]
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path not in passed_over]
    with ThreadPoolExecutor(4) as pool:  # hashing gives the lock away
        sums = dict(
            zip((path.relative_to(directory).as_posix() for path in files), pool.map(checksum, files), strict=True)
        )
    with whole_file(directory / FILE) as partial, partial.open("w") as file:
        json.dump({"files": sums}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage(directory: Path, below: str = "") -> str | None:
    """What is wrong with the files of a directory, in a few words; None where all are as they were written.

    Args:
      directory: holds `checksums.json`.
      below: only the files whose path begins so are looked at.
    """
    try:
        sums = json.loads((directory / FILE).read_text())["files"]
        chosen = {name: expected for name, expected in sums.items() if name.startswith(below)}
    except FileNotFoundError:
        return f"{FILE} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{FILE} cannot be read"

    with ThreadPoolExecutor(4) as pool:
        reasons = pool.map(lambda name: _compare(directory, name, chosen[name]), chosen)
        return next((reason for reason in reasons if reason), None)


def sound(directory: Path) -> set[str]:
    """The files of a directory that are as they were written, by name; none where no checksums say so."""
    try:
        sums = json.loads((directory / FILE).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name, expected in sums.items() if _compare(directory, name, expected) is None}


def _compare(directory: Path, name: str, expected: dict[str, Any]) -> str | None:
    try:
        found = checksum(directory / name)
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name}: {error.strerror}"
    if found["bytes"] != expected["bytes"]:
        return f"{name} has {found['bytes']} of {expected['bytes']} bytes"
    return None if found == expected else f"{name} has other bytes than were written"
