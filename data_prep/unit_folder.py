"""The folder that a unit of a build leaves to the merge.

A group's folder holds, for each split that got documents, `SPLIT-k.array_record` and its index `SPLIT-k.safetensors`
for k = 0, 1, ... (mostly one), `SPLIT.token_counts.npy`, facts of its documents (data_prep.document_facts), and
`unit.json` with counts and checksums. It appears by one rename, so it is whole or absent. What depends on other units
(duplicates, the place of a shard among all) is left to the merge. In an object store there is no rename, and unit.json,
put there last, makes it.
"""

import os
import shutil
import time
import uuid
from pathlib import Path

from data_prep.storage import Folder

UNIT_JSON = "unit.json"
# Seconds after which a scratch folder that nothing was written to is nobody's.
_ABANDONED = 3600.0


def unit_name(number: int) -> str:
    """The name of a unit's folder."""
    return f"{number:06d}"


def unit_dir(units_dir: Path, number: int) -> Path:
    """The folder of a unit."""
    return units_dir / unit_name(number)


def scratch_name(number: int) -> str:
    """The name of a folder in which one process makes a unit. Two may do the same unit (parts started twice), perhaps
    on two machines, or two threads of one: each has its own.
    """
    return f"tmp-{number}-{uuid.uuid4().hex}"


def remove_abandoned(units_dir: Path) -> None:
    """Removes the scratch folders of processes that died some time ago, and of none that may be at work."""
    for scratch in units_dir.glob("tmp-*"):
        if _last_written(scratch) < time.time() - _ABANDONED:
            shutil.rmtree(scratch, ignore_errors=True)


def _last_written(folder: Path) -> float:
    """Seconds since the epoch; now for one that goes as it is looked at."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:
        return time.time()


def rename(scratch: Path, target: Path) -> None:
    """Makes a written folder a unit's, here."""
    try:
        os.rename(scratch, target)
    except OSError:
        # Somebody else was faster with the same bytes.
        if not (target / UNIT_JSON).exists():
            raise


def upload(scratch: Path, target: Folder) -> None:
    """Makes a written folder a unit's, in a store: unit.json last, with it the unit is there."""
    names = sorted(file.name for file in scratch.iterdir() if file.name != UNIT_JSON)
    target.upload([(scratch / name, name) for name in names])
    target.write(UNIT_JSON, (scratch / UNIT_JSON).read_bytes())
