"""What determines the content of a corpus besides its input and its tokenizer."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from data_prep import segment
from data_prep.inputs import DEFAULT_READING, UNNAMED, Reading
from data_prep.leaks import Exclusions


@dataclass(frozen=True)
class Settings:
    """Settings of a build; all of them are part of what its corpus is."""

    # Name and reading of every input, in order; the files of each are among the manifest's sources.
    inputs: tuple[tuple[str, Reading], ...] = ((UNNAMED, DEFAULT_READING),)
    validation_share: float = 0.01  # of the documents, chosen by the hash of their text
    on_error: str = "fail"  # or "drop": what becomes of input that cannot be read
    keep_duplicates: bool = False
    near_duplicates: float | None = None  # the similarity of texts from which on all but the first are dropped
    exclusions: Exclusions | None = field(default=None, repr=False)  # passages that no document may hold
    record_tokens: int = 16384  # longer documents are cut into several records
    unit_bytes: int = 4 << 20  # raw input a unit
    segmenter: str = segment.SEGMENTER
    wiki_converter: str | None = None  # where there are wiki dumps

    def describe(self) -> dict[str, Any]:
        """The settings as JSON."""
        described = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        exclusions = described.pop("exclusions")
        return described | {
            "inputs": {name: dataclasses.asdict(reading) for name, reading in self.inputs},
            "exclude": exclusions.files if exclusions else None,
        }
