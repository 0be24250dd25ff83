"""The units of a build done by Apache Beam: on this machine, Dataflow, Flink or Spark, by the options of its pipeline.

Beam only hands the units out. Its workers write them to where every other engine does, so the pipeline has no output, a
unit that is tried twice is the same unit, and a pipeline that broke off leaves its finished units to the next one.
Needs the package apache-beam, which nothing else imports.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_prep import shards, unit_folder
from data_prep.engines import Group, Job, Progress, choose_encoder
from data_prep.errors import InputError
from data_prep.files import whole_file
from data_prep.storage import Folder, local_folder
from data_prep.tokenizer import Tokenizer, load_tokenizer


def run_beam(
    job: Job, tokenizer: Tokenizer, todo: Sequence[tuple[int, Group]], progress: Progress, options: Sequence[str]
) -> None:
    """Does the numbered groups of units in a pipeline with these options, as Beam's command lines have them.

    Returns when the pipeline has ended. Raises the InputError of the unit with the smallest number that failed, and
    one for a pipeline that ended with an error of its own. Beam's workers must reach the input and `job.units_dir` by
    the same names.
    """
    job = dataclasses.replace(job, try_fast=choose_encoder(job, tokenizer, todo))
    shared = _share(tokenizer, job.units_dir)
    failures = job.units_dir / "failures"
    _failures(failures, forget=True)
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _ = (
                pipeline
                | "Units" >> apache_beam.Create(list(todo))
                # Without it a runner may do all units where it has made them.
                | "Spread" >> apache_beam.Reshuffle()
                | "Build" >> apache_beam.ParDo(_BuildUnits(dataclasses.replace(job, tokenizer_dir=shared), failures))
            )
    except Exception as error:  # every runner has its own
        detail = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"the Beam pipeline failed ({detail}); run the same command again to go on") from None
    failed = _failures(failures, forget=False)
    if failed:
        raise InputError(failed)
    progress.close()


class _BuildUnits(apache_beam.DoFn):
    """Numbered groups of units to nothing: what it does is written."""

    def __init__(self, job: Job, failures: Path | Folder):
        self._job, self._failures = job, failures

    def setup(self) -> None:
        """Loads the tokenizer, once a worker."""
        with local_folder(self._job.tokenizer_dir) as folder:
            self._tokenizer = load_tokenizer(folder)
        if self._job.try_fast:
            self._tokenizer.encode_faster()

    def process(self, item: tuple[int, Group]) -> Iterable[int]:
        """Does one group. A user's mistake is written down and not raised: trying it again would not cure it."""
        number, group = item
        try:
            shards.build_unit(number, group, self._job.settings, self._tokenizer, self._job.units_dir)
        except InputError as error:
            _write(self._failures, unit_folder.unit_name(number), str(error).encode())
        return ()


def _share(tokenizer: Tokenizer, units_dir: Path | Folder) -> Path | Folder:
    """The tokenizer's files in a folder that the workers can read."""
    folder = units_dir / "tokenizer"
    for name, content in tokenizer.files().items():
        _write(folder, name, content)
    return folder


def _write(folder: Path | Folder, name: str, content: bytes) -> None:
    if isinstance(folder, Folder):
        folder.write(name, content)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / name) as file:
        file.write_bytes(content)


def _failures(folder: Path | Folder, forget: bool) -> str | None:
    """What the first failed unit said, if one failed; or removes what earlier pipelines wrote."""
    if isinstance(folder, Folder):
        names = sorted(folder.sizes())
        if forget:
            folder.remove(names)
            return None
        return (folder.read(names[0]) or b"").decode() if names else None
    files = sorted(folder.iterdir()) if folder.exists() else []
    if forget:
        for file in files:
            file.unlink()
        return None
    return files[0].read_text() if files else None
