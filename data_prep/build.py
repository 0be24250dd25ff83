"""Raw text to a corpus: prepares a build, has an engine run its units, and merges them.

The work happens in OUT.partial beside the output and becomes visible by one rename. A build that was broken off goes on
where it stopped when the same command runs again.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep import corpus, engines, merge, shards, sources
from data_prep.errors import InputError
from data_prep.files import write_error
from data_prep.lock import BuildLock, Busy
from data_prep.tokenizer import Tokenizer, load_tokenizer

_MEGABYTE = 1 << 20
# Units are a fixed function of the input: about 32 of them, but neither tiny nor more than a process can hold.
_UNITS = 32
_SMALLEST_UNIT, _LARGEST_UNIT = 2 * _MEGABYTE, 32 * _MEGABYTE
# What a held-out loss needs: enough text for a steady figure, never more than a twentieth.
_VALIDATION_BYTES = 2 * _MEGABYTE
_SMALLEST_SHARE, _LARGEST_SHARE = 0.005, 0.05


def build_corpus(
    inputs: Sequence[str],
    tokenizer_dir: str | Path,
    output: str | Path,
    *,
    workers: int | None = None,
    part: str | None = None,
    language: str = "en",
    validation_share: float | None = None,
    on_error: str = "fail",
    keep_duplicates: bool = False,
) -> dict[str, Any] | None:
    """Builds the corpus `output` from `inputs` (see data_prep.sources.expand) and returns its manifest.

    Args:
        workers: processes; by default as many as there are cores.
        part: "i/n" does every n-th unit of an array job and merges if it completes the set; else the result is None.
        language: ISO 639-1 code for the sentence splitter.
        validation_share: share of documents, chosen by a hash of their text, that are held out: 0 to 0.5. By default
            about 2 MB of the input, but at least 0.5 % and at most 5 %.
        on_error: "fail", or "drop" to count input that cannot be read as dropped.
        keep_duplicates: keep documents with exactly the same text.

    The same input, tokenizer and settings give the same bytes, whatever the workers and parts. A finished corpus of the
    same settings is left as it is. Raises InputError for whatever the user can put right, and KeyboardInterrupt on
    Ctrl-C.
    """
    started = time.monotonic()
    output = Path(output)
    job_part = engines.Part.parse(part) if part is not None else None
    workers = _checked(workers, validation_share)
    found = sources.expand(inputs)
    size = sum(source.size for source in found)
    tokenizer = load_tokenizer(tokenizer_dir)
    settings = shards.Settings(
        language=language,
        validation_share=_default_share(size) if validation_share is None else validation_share,
        on_error=on_error,
        keep_duplicates=keep_duplicates,
        unit_bytes=min(max(size // _UNITS, _SMALLEST_UNIT), _LARGEST_UNIT),
    )
    identity = _identity(found, tokenizer, settings)
    build = _Build(output, identity, tokenizer, Path(tokenizer_dir), settings, found)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        manifest, done = build.run_part(job_part, workers) if job_part else build.run_whole(workers)
        if manifest is not None and done is not None:
            build.report(manifest, workers, done, time.monotonic() - started)
    except OSError as error:
        raise write_error(Path(error.filename or build.partial), error) from None
    return manifest


class _Build:
    """One output on its way: the folder it is made in, and what makes it the same build again."""

    def __init__(
        self,
        output: Path,
        identity: dict[str, Any],
        tokenizer: Tokenizer,
        tokenizer_dir: Path,
        settings: shards.Settings,
        found: Sequence[sources.Source],
    ):
        self.output, self.partial = output, corpus.partial_path(output)
        self._units_dir = self.partial / "work" / "units"
        self._identity, self._tokenizer, self._found = identity, tokenizer, found
        self._job = engines.Job(settings, tokenizer_dir, self._units_dir)
        units = (unit for source in found for unit in sources.units(source, settings.unit_bytes))
        self._groups = list(enumerate(shards.group_units(units, settings.unit_bytes)))

    def run_whole(self, workers: int) -> tuple[dict[str, Any] | None, int | None]:
        """The manifest and the number of units done here, None when the corpus was there before."""
        with BuildLock(self.output):
            manifest = self._finished()
            if manifest:
                return manifest, None
            self._prepare(alone=True)
            done = self._run(self._missing(), workers)
            return self._merge(), done

    def run_part(self, part: engines.Part, workers: int) -> tuple[dict[str, Any] | None, int | None]:
        """The same for one part; the manifest is None when units of other parts are missing."""
        with BuildLock(self.output, shared=True, wait=True):
            manifest = self._finished()
            if manifest:
                return manifest, None
            self._prepare(alone=False)
            mine = [item for item in self._missing() if item[0] % part.count == part.index]
            done = self._run(mine, workers)
            missing = len(self._missing())
        if missing:
            print(
                f"{self.output}: part {part.index}/{part.count} is done, {missing} units are missing", file=sys.stderr
            )
            return None, None
        try:
            # Every part gives its shared lock back before it tries this, so the last one succeeds.
            with BuildLock(self.output):
                return self._finished() or self._merge(), done
        except Busy:
            print(f"{self.output}: part {part.index}/{part.count} is done, another one merges", file=sys.stderr)
            return None, None

    def report(self, manifest: dict[str, Any], workers: int, done: int, seconds: float) -> None:
        """Writes OUT.report.json: what is true of this build and not of the corpus."""
        size = sum(source.size for source in self._found)
        report = {
            "output": str(self.output.absolute()),
            "fingerprint": manifest["fingerprint"],
            "inputs": [source.path for source in self._found],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": seconds,
            "input_bytes": size,
            "megabytes_per_second": size / seconds / 1e6,
            "workers": workers,
            "units": len(self._groups),
            "units_done_in_this_run": done,
            "versions": {"python": sys.version.split()[0]}
            | {name: metadata.version(name) for name in ("numpy", "tokenizers", "sentencex", "array_record")},
        }
        self.output.with_name(self.output.name + ".report.json").write_text(json.dumps(report, indent=2) + "\n")

    def _finished(self) -> dict[str, Any] | None:
        """The manifest when the output is there already. Raises InputError when it is something else."""
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return None
        if not (self.output / corpus.MANIFEST).is_file():
            raise InputError(f"{self.output} exists and is no corpus; choose another output or remove it")
        manifest = corpus.Corpus.open(self.output).manifest
        self._compare(manifest, self.output, "is a finished corpus")
        print(f"{self.output} is finished already, with the same input and settings", file=sys.stderr)
        return manifest

    def _prepare(self, alone: bool) -> None:
        """Makes OUT.partial, or makes sure that the one that is there is of this build."""
        if (self.partial / corpus.MANIFEST).exists():
            self._compare(
                corpus.Corpus(self.partial, _read_json(self.partial / corpus.MANIFEST)).manifest, self.partial
            )
            return
        state = self.partial / "work" / "build.json"
        if state.exists() and alone and not any(self._units_dir.glob("*/" + shards.UNIT_JSON)):
            # Nothing in it is worth anything.
            shutil.rmtree(self.partial)
        self._units_dir.mkdir(parents=True, exist_ok=True)
        if not state.exists():
            scratch = state.with_name(f"{state.name}.{os.getpid()}")
            scratch.write_text(json.dumps(self._identity))
            os.replace(scratch, state)
        self._compare(_read_json(state), self.partial)
        if alone:
            for scratch in self._units_dir.glob("tmp-*"):
                shutil.rmtree(scratch, ignore_errors=True)

    def _missing(self) -> list[tuple[int, engines.Group]]:
        if (self.partial / corpus.MANIFEST).exists():
            return []
        return [item for item in self._groups if not merge.unit_is_done(shards.unit_dir(self._units_dir, item[0]))]

    def _run(self, todo: list[tuple[int, engines.Group]], workers: int) -> int:
        size = sum(unit.size for _, group in todo for unit in group)
        engines.run_local(self._job, self._tokenizer, todo, workers, engines.Progress(len(todo), size))
        return len(todo)

    def _merge(self) -> dict[str, Any]:
        if (self.partial / corpus.MANIFEST).exists():
            manifest = _read_json(self.partial / corpus.MANIFEST)
        else:
            try:
                manifest = merge.merge(
                    self.partial, self._units_dir, len(self._groups), self._identity, self._tokenizer
                )
            except merge.NothingLeft:
                shutil.rmtree(self.partial)
                raise
        merge.finish(self.partial, self.output)
        return manifest

    def _compare(self, there: dict[str, Any], path: Path, what: str = "is an unfinished build") -> None:
        difference = _difference(there, self._identity)
        if difference:
            raise InputError(
                f"{path} {what} of other input or settings: {difference}; use the same, another output, or remove it"
            )


def _checked(workers: int | None, validation_share: float | None) -> int:
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    if validation_share is not None and not 0 <= validation_share <= 0.5:
        raise InputError(f"--validation-share is {validation_share}; it must be from 0 to 0.5")
    return workers or engines.default_workers()


def _default_share(size: int) -> float:
    return round(min(max(_VALIDATION_BYTES / max(size, 1), _SMALLEST_SHARE), _LARGEST_SHARE), 4)


def _identity(found: Sequence[sources.Source], tokenizer: Tokenizer, settings: shards.Settings) -> dict[str, Any]:
    """What a corpus is made from, as its manifest has it: without paths, equal on every machine."""
    return {
        "format_version": corpus.FORMAT_VERSION,
        "settings": settings.describe(),
        "sources": [{"kind": source.kind, "name": source.name, "bytes": source.size} for source in found],
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "kind": tokenizer.kind,
            "lowercase": tokenizer.lowercase,
            "vocab_size": tokenizer.vocab_size,
        },
    }


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """The first thing in which two identities differ, in words."""
    if there.get("format_version") != here["format_version"]:
        return f"format version {there.get('format_version')}, now {here['format_version']}"
    for section in ("settings", "tokenizer"):
        for name, value in here[section].items():
            if there[section].get(name) != value:
                label = name if section == "settings" else f"the tokenizer's {name}"
                return f"{label} is {there[section].get(name)} there, {value} now"
    old, new = ([(s["kind"], s["name"], s["bytes"]) for s in side["sources"]] for side in (there, here))
    for before, now in zip(old, new, strict=False):
        if before != now:
            return f"input {before[1]} ({before[2]} bytes) there, {now[1]} ({now[2]} bytes) now"
    return None if len(old) == len(new) else f"{len(old)} input files there, {len(new)} now"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise InputError(f"{path} is damaged; remove {path.parent} and run the same command again") from None
