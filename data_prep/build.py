"""Raw text to a corpus: prepares a build, has an engine run its units, and merges them.

The work happens beside the output and becomes visible at once when it is done (data_prep.places). A build that was
broken off goes on where it stopped when the same command runs again.
"""

import functools
import json
import math
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from data_prep import engines, merge, places, shards, sources, wiki_text
from data_prep.build_identity import difference, identity_of
from data_prep.build_settings import Settings
from data_prep.errors import Busy, InputError
from data_prep.files import write_error
from data_prep.inputs import parse_inputs
from data_prep.leaks import Exclusions
from data_prep.storage import local_folder
from data_prep.tokenizer import Tokenizer, load_tokenizer

_MEGABYTE = 1 << 20
# Units are a fixed function of the input: about 32 of them, but neither tiny nor more than a process can hold.
_UNITS = 32
_SMALLEST_UNIT, _LARGEST_UNIT = 2 * _MEGABYTE, 32 * _MEGABYTE
# What a held-out loss needs: enough text for a steady figure, never more than a twentieth.
_VALIDATION_BYTES = 2 * _MEGABYTE
_SMALLEST_SHARE, _LARGEST_SHARE = 0.005, 0.05
# Bytes of a text file that is seldom meant to be one document.
_LONG_TEXT = _MEGABYTE
# Seconds between two looks at whether a merge may begin, and between two lines that say who is waited for.
_ASKED_EVERY, _TOLD_EVERY = 5.0, 60.0


def build_corpus(
    inputs: Sequence[str],
    tokenizer_dir: str | Path,
    output: str | Path,
    *,
    workers: int | None = None,
    part: str | None = None,
    engine: str = "local",
    engine_options: Sequence[str] = (),
    validation_share: float | None = None,
    on_error: str = "fail",
    keep_duplicates: bool = False,
    encoder: str = "auto",
    near_duplicates: float | None = None,
    exclude: Sequence[str | Path] = (),
    **reading: str | Sequence[str],
) -> dict[str, Any] | None:
    """Builds the corpus `output` from `inputs`, each `[NAME=]WHAT`, and returns its manifest.

    Args:
        inputs, tokenizer_dir, output: paths of this machine, or URLs of object stores.
        workers: processes; by default as many as there are cores.
        part: "i/n" does every n-th unit of an array job and merges if it completes the set; else the result is None.
        engine: "local", or "beam" to have the units done by Apache Beam with `engine_options`.
        engine_options: of Beam's pipeline, as on its command lines.
        validation_share: share of documents, chosen by a hash of their text, that are held out: 0 to 0.5. By default
            about 2 MB of the input, but at least 0.5 % and at most 5 %.
        on_error: "fail", or "drop" to count input that cannot be read as dropped.
        keep_duplicates: keep documents with exactly the same text.
        near_duplicates: of documents whose word n-grams are as similar as this (Jaccard, 0.5 to 1), keep the first.
        exclude: evaluation files; documents that hold passages of them are dropped (data_prep.leaks).
        reading: how the inputs are read, as `data_prep.inputs.parse_inputs` has it: language, normalize, text_field,
            id_field, documents.
        encoder: "auto" takes a faster library than tokenizers where one is installed and gives the same ids on a list
            of hostile strings and a sample of the input; "tokenizers" does without.

    The same input, tokenizer and settings give the same bytes, whatever the workers, parts and engine. A finished
    corpus of the same settings is left as it is. Raises InputError for whatever the user can put right, and
    KeyboardInterrupt on Ctrl-C.
    """
    started = time.monotonic()
    job_part = engines.Part.parse(part) if part is not None else None
    run = _engine(engine, engine_options, _checked(workers, validation_share), job_part)
    exclusions = _exclusions(exclude, near_duplicates, keep_duplicates)
    named = parse_inputs(inputs, **reading)
    found = sources.expand(named, on_error)
    size = sum(source.size for source in found)
    with local_folder(tokenizer_dir) as folder:
        tokenizer = load_tokenizer(folder)
        settings = Settings(
            inputs=tuple({entry.name: entry.reading for entry in named}.items()),
            validation_share=_default_share(size) if validation_share is None else validation_share,
            on_error=on_error,
            keep_duplicates=keep_duplicates,
            near_duplicates=near_duplicates,
            exclusions=exclusions,
            unit_bytes=min(max(size // _UNITS, _SMALLEST_UNIT), _LARGEST_UNIT),
            wiki_converter=_wiki_converter(found),
        )
        identity = identity_of(found, tokenizer, settings)
        place = places.place(output, identity)
        build = _Build(place, identity, tokenizer, folder, settings, found, run, encoder == "auto")
        try:
            manifest, done = build.run_part(job_part) if job_part else build.run_whole()
            # A kill just after the corpus appeared has left it without one.
            if manifest is not None and (done is not None or not place.has_report()):
                place.write_report(build.report(manifest, workers, done or 0, time.monotonic() - started))
        except OSError as error:
            raise write_error(Path(error.filename or str(place.partial)), error) from None
    return manifest


class _Build:
    """One output on its way: the place it is made in, and what makes it the same build again."""

    def __init__(
        self,
        place: places.Place,
        identity: dict[str, Any],
        tokenizer: Tokenizer,
        tokenizer_dir: Path,
        settings: Settings,
        found: Sequence[sources.Source],
        run: engines.Runner,
        try_fast: bool,
    ):
        self._place, self._identity, self._tokenizer, self._found = place, identity, tokenizer, found
        self._job, self._run_units = engines.Job(settings, tokenizer_dir, place.units_dir, try_fast), run
        units = (unit for source in found for unit in sources.units(source, settings.unit_bytes))
        self._groups = list(enumerate(shards.group_units(units, settings.unit_bytes)))

    def run_whole(self) -> tuple[dict[str, Any] | None, int | None]:
        """The manifest and the number of units done here, None when the corpus was there before."""
        with self._place.alone():
            manifest = self._finished()
            if manifest:
                # A store may hold what a merge had no time to remove.
                self._place.discard()
                return manifest, None
            self._prepare(alone=True)
            done = self._run(self._missing())
            return self._merge(), done

    def run_part(self, part: engines.Part) -> tuple[dict[str, Any] | None, int | None]:
        """The same for one part; the manifest is None when units of other parts are missing."""
        with self._place.together():
            manifest = self._finished()
            if manifest:
                return manifest, None
            self._prepare(alone=False)
            done = self._run([item for item in self._missing() if item[0] % part.count == part.index])
            missing = len(self._missing())
        name = f"{self._place.output}: part {part.index}/{part.count} is done"
        if missing:
            manifest = self._finished()
            if manifest:
                # Its units were done twice, and the other one was faster. What this one wrote since is nobody's.
                self._place.discard()
                return manifest, done
            print(f"{name}, {missing} units are missing", file=sys.stderr)
            return None, None
        return self._merge_in_turn(name, done)

    def _merge_in_turn(self, name: str, done: int) -> tuple[dict[str, Any] | None, int | None]:
        """Merges when no other one does, or takes over what another one has merged meanwhile.

        A part that leaves the merge to another one must see it done: of one that died nobody else would know.
        """
        told = -math.inf
        while True:
            try:
                # Every part gives its shared lock back before it tries this, so one succeeds.
                with self._place.alone():
                    manifest = self._finished()
                    if manifest:
                        return manifest, None
                    missing = len(self._missing())
                    if not missing:
                        return self._merge(), done
                    # The other one found that nothing is left for a corpus.
                    print(f"{name}, {missing} units are missing", file=sys.stderr)
                    return None, None
            except Busy as busy:
                if time.monotonic() - told >= _TOLD_EVERY:
                    print(f"{name} and waits to merge: {busy}", file=sys.stderr)
                    told = time.monotonic()
            time.sleep(_ASKED_EVERY)

    def report(self, manifest: dict[str, Any], workers: int | None, done: int, seconds: float) -> str:
        """What is true of this build and not of the corpus, as JSON."""
        size = sum(source.size for source in self._found)
        output = self._place.output
        report = {
            "output": str(output.absolute() if isinstance(output, Path) else output),
            "fingerprint": manifest["fingerprint"],
            "inputs": [source.path for source in self._found],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": seconds,
            "input_bytes": size,
            "megabytes_per_second": size / seconds / 1e6,
            "workers": workers or engines.default_workers(),
            "encoder": self._tokenizer.encoder,
            "units": len(self._groups),
            "units_done_in_this_run": done,
            "versions": {"python": sys.version.split()[0]}
            | {name: metadata.version(name) for name in ("numpy", "tokenizers", "sentencex", "array_record")},
        }
        return json.dumps(report, indent=2) + "\n"

    def _finished(self) -> dict[str, Any] | None:
        """The manifest when the output is there already. Raises InputError when it is something else."""
        manifest = self._place.manifest()
        if manifest:
            self._compare(manifest, f"{self._place.output} is a finished corpus")
            print(f"{self._place.output} is finished already, with the same input and settings", file=sys.stderr)
        return manifest

    def _prepare(self, alone: bool) -> None:
        """Begins this build, or makes sure that the one that was begun is the same."""
        unfinished = f"{self._place.partial} is an unfinished build"
        merged = self._place.merged()
        if merged:
            self._compare(merged, unfinished)
            return
        if alone:
            self._place.tidy()
        self._compare(self._place.state(self._identity), unfinished)

    def _missing(self) -> list[tuple[int, engines.Group]]:
        if self._place.merged():
            return []
        done = self._place.done()
        return [item for item in self._groups if item[0] not in done]

    def _run(self, todo: list[tuple[int, engines.Group]]) -> int:
        size = sum(unit.size for _, group in todo for unit in group)
        if todo:
            self._run_units(self._job, self._tokenizer, todo, engines.Progress(len(todo), size))
        return len(todo)

    def _merge(self) -> dict[str, Any]:
        try:
            manifest = self._place.merge(len(self._groups), self._identity, self._tokenizer)
        except merge.NothingLeft:
            self._place.discard()
            raise
        self._warn_of_single_documents(manifest["audit"]["sources"])
        return manifest

    def _warn_of_single_documents(self, audited: dict[str, dict[str, Any]]) -> None:
        """Says that long text files became a document each for want of blank lines, where that was not asked for."""
        by_line = [s for s in self._found if s.kind.startswith("txt") and s.reading.documents == "blank-line"]
        found = [s.path for s in by_line if s.size > _LONG_TEXT and audited[s.name]["documents_in"] == 1]
        if found:
            others = f" and {len(found) - 1} other{'s' if len(found) > 2 else ''}" if len(found) > 1 else ""
            print(
                f"warning: {found[0]}{others}: a whole file is one document, as no blank line ends one in it; where "
                "each line is a document, put a blank line after each (sed G) and build again; where the file is one, "
                "--documents file says so",
                file=sys.stderr,
            )

    def _compare(self, there: dict[str, Any], what: str) -> None:
        other = difference(there, self._identity)
        if other:
            raise InputError(f"{what} of other input or settings: {other}; use the same, another output, or remove it")


def _engine(name: str, options: Sequence[str], workers: int, part: engines.Part | None) -> engines.Runner:
    if name == "beam":
        if part is not None:
            raise InputError("--part is for array jobs and --engine beam shares the work itself; leave one of them out")
        try:
            from data_prep.beam_engine import run_beam
        except ImportError:
            raise InputError("--engine beam needs Apache Beam, which is not installed; see docs/corpus.md") from None
        return functools.partial(run_beam, options=options)
    if name != "local":
        raise InputError(f"--engine is {name!r}; it must be local or beam")
    if options:
        raise InputError(f"{options[0]} is an option of an engine; the local engine has none")
    return functools.partial(engines.run_local, workers=workers)


def _checked(workers: int | None, validation_share: float | None) -> int:
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1")
    if validation_share is not None and not 0 <= validation_share <= 0.5:
        raise InputError(f"--validation-share is {validation_share}; it must be from 0 to 0.5")
    return workers or engines.default_workers()


def _exclusions(
    exclude: Sequence[str | Path], near_duplicates: float | None, keep_duplicates: bool
) -> Exclusions | None:
    """The passages to leave out. Raises InputError also for options about duplicates that cannot be."""
    if near_duplicates is not None and not 0.5 <= near_duplicates <= 1:
        raise InputError(f"--near-duplicates is {near_duplicates}; it must be from 0.5 to 1, e.g. 0.8")
    if near_duplicates is not None and keep_duplicates:
        raise InputError("--near-duplicates drops what --keep-duplicates keeps; give one of them")
    if not exclude:
        return None
    exclusions = Exclusions(exclude)
    print(exclusions.summary(), file=sys.stderr)
    return exclusions


def _wiki_converter(found: Sequence[sources.Source]) -> str | None:
    return wiki_text.converter() if any(source.kind.startswith(sources.WIKI) for source in found) else None


def _default_share(size: int) -> float:
    return round(min(max(_VALIDATION_BYTES / max(size, 1), _SMALLEST_SHARE), _LARGEST_SHARE), 4)
