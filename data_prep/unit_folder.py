"""The folder that a unit of a build leaves to the merge.

A group's folder holds, for each split that got documents, `SPLIT-k.array_record` and its index `SPLIT-k.safetensors`
for k = 0, 1, ... (mostly one), `SPLIT.token_counts.npy`, facts of its documents (data_prep.document_facts), and
`unit.json` with counts and checksums. It appears by one rename, so it is whole or absent. What depends on other units
(duplicates, the place of a shard among all) is left to the merge. In an object store there is no rename, and unit.json,
put there last, makes it.
"""

import os
from pathlib import Path

from data_prep.storage import Folder

UNIT_JSON = "unit.json"


def unit_name(number: int) -> str:
    """The name of a unit's folder."""
    return f"{number:06d}"


def unit_dir(units_dir: Path, number: int) -> Path:
    """The folder of a unit."""
    return units_dir / unit_name(number)


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
