"""A run that cannot be broken: kills it at random moments and in every other way, and compares what comes out.

    python benchmarks/drill.py --kills 100

A small run (packed rows, dropout, accumulation, evaluations, two corpora, two phases) is trained once undisturbed. Then
runs of the same command are killed (SIGKILL) after random times, several times each, until one gets through; others
meet the faults of the table. `survived`: the command gave the exit code that it should and, given again, finished.
`bits equal`: metrics.jsonl (times aside) and the final parameters are those of an undisturbed run on as many hosts.
Exit 1 where anything is not so.
"""

import argparse
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"
FOLDER = Path(tempfile.mkdtemp(prefix="drill."))
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": str(FOLDER / "compile_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTEST_SHARED_TMP": str(FOLDER),
}

import faulty_program
import training_runs as runs
from compiling import QUICK
from small_corpora import tree

import bert_jax.train  # imported once: every run is a fork of this process  # noqa: F401
from bert_jax import checkpoint, cli, cpu_settings

os.environ["XLA_FLAGS"] = cpu_settings.with_fusion(QUICK)
STEPS = {"num_steps=16": "num_steps=60", "num_steps=8": "num_steps=30"}  # more to be killed in
KILLS_A_RUN = 5


@dataclasses.dataclass
class Row:
    tried: int = 0
    survived: int = 0
    equal: int = 0


class Drill:
    def __init__(self, recipe: Path, seed: int):
        self.recipe, self.random = recipe, random.Random(seed)
        self.rows: dict[str, Row] = {}
        self.count = 0
        self.whole = FOLDER / "whole"
        self.run(self.whole)  # compiles
        shutil.rmtree(self.whole)
        began = time.monotonic()
        assert self.run(self.whole) == 0, self.said(self.whole)
        self.seconds = time.monotonic() - began

    def new(self) -> Path:
        self.count += 1
        return FOLDER / f"run{self.count}"

    def said(self, workdir: Path) -> str:
        return Path(f"{workdir}.log").read_text()

    def start(self, workdir: Path, fault: dict | None = None, *overrides: str) -> int:
        """The command in a fork of this process; its number."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            log = os.open(f"{workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulty_program.install(fault or {})
            cli.main(["pretrain", "--config", str(self.recipe), "--workdir", str(workdir), *overrides])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)

    def run(self, workdir: Path, fault: dict | None = None, *overrides: str) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.start(workdir, fault, *overrides), 0)[1])

    def note(self, name: str, tried: int, survived: bool, workdir: Path, other: Path | None = None) -> None:
        row = self.rows.setdefault(name, Row())
        row.tried += tried
        if survived:
            row.survived += tried
            row.equal += tried * in_a_fork(lambda: same(other or self.whole, workdir))
        print(f"{name}: {row}", file=sys.stderr, flush=True)
        shutil.rmtree(workdir, ignore_errors=True)

    def kills(self, count: int) -> None:
        """SIGKILL after random times, `KILLS_A_RUN` times a run."""
        while count:
            workdir, kills = self.new(), 0
            while kills < min(count, KILLS_A_RUN):
                pid, began = self.start(workdir), time.monotonic()
                end = began + self.random.uniform(0.0, self.seconds)
                while time.monotonic() < end and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    time.sleep(0.01)
                os.kill(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if code != -signal.SIGKILL:  # it had finished
                    self.seconds = min(self.seconds, time.monotonic() - began)
                    break
                kills += 1
            count -= kills
            if kills:
                self.note("killed at a random moment", kills, self.run(workdir) == 0, workdir)
            else:
                shutil.rmtree(workdir, ignore_errors=True)

    def signalled(self, number: signal.Signals) -> None:
        workdir = self.new()
        pid = self.start(workdir)
        time.sleep(self.random.uniform(0.2, 0.9) * self.seconds)
        os.kill(pid, number)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.note(number.name, 1, code in (75, 0) and self.run(workdir) == 0, workdir)

    def damaged(self, name: str, damage: Callable[[Path], object]) -> None:
        workdir = self.new()
        stopped = self.run(workdir, {"where": "save", "nth": 6, "what": "kill"}) == -signal.SIGKILL
        newest = checkpoint.saved_steps(workdir)[-1]
        damage(workdir / "checkpoints" / str(newest))
        survived = self.run(workdir) == 0 and self.said(workdir).count("is damaged") == 1
        self.note(f"newest checkpoint {name}", 1, stopped and survived, workdir)

    def full_disk(self) -> None:
        workdir = self.new()
        self.run(workdir, {"where": "save", "nth": 3, "what": "kill"})
        pid = self.start(workdir)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.note("disk full in a save", 1, code == 75 and self.run(workdir) == 0, workdir)

    def refused(self) -> None:
        """Gone on with as another run: refused, and nothing is touched."""
        workdir = self.new()
        stopped = self.run(workdir, {"where": "save", "nth": 6, "what": "kill"}) == -signal.SIGKILL
        before = tree(workdir)
        survived = stopped and self.run(workdir, None, "--config.seed=1") == 2 and tree(workdir) == before
        self.note("restarted with another seed", 1, survived and self.run(workdir) == 0, workdir)

    def hang(self, stage: str) -> None:
        workdir = self.new()
        limits = ("--config.watchdog.warn_seconds=1", f"--config.watchdog.stop_seconds={max(5, self.seconds)}")
        code = self.run(workdir, {"where": stage, "nth": 9, "what": "hang"}, *limits)
        self.note(f"hangs ({stage})", 1, code == 75 and self.run(workdir) == 0, workdir)

    def poisoned(self) -> None:
        """Rows that give no numbers, gone back from: killed or not, the same."""
        limit, poison = "--config.train.max_skipped=2", {"poison": [[0, 0, 1, 0, 1000]]}
        undisturbed, workdir = self.new(), self.new()
        survived = self.run(undisturbed, poison, limit) == 0 and "going back here" in self.said(undisturbed)
        kill = {"where": "save", "nth": 6, "what": "kill"}
        survived &= self.run(workdir, poison | kill, limit) == -signal.SIGKILL
        self.note(
            "rows without numbers, and a kill",
            1,
            survived and not self.run(workdir, poison, limit),
            workdir,
            undisturbed,
        )

    def hosts(self, name: str, fault: dict | None) -> None:
        """Two hosts, one of which dies, hangs or is told to go; then both again."""
        reference, workdir = FOLDER / "two_hosts", self.new()
        limits = ["--config.watchdog.peer_seconds=10", f"--config.watchdog.stop_seconds={max(20, 5 * self.seconds)}"]
        if not reference.exists():
            ends = [runs.finish(host)[0] for host in runs.start_hosts(2, self.recipe, reference, *limits)]
            assert ends == [0, 0], ends
        environments = [{}, {"FAULT": json.dumps(fault)} if fault else {}]
        hosts = runs.start_hosts(2, self.recipe, workdir, *limits, environments=environments)
        began = True
        if fault is None:
            try:
                runs.wait_for_step(hosts[0], workdir, 10)
            except AssertionError as error:  # the row says it
                print(error, file=sys.stderr)
                began = False
            hosts[1].send_signal(signal.SIGTERM)
        survived = began and [runs.finish(host)[0] for host in hosts] == [75, 75]
        again = [runs.finish(host)[0] for host in runs.start_hosts(2, self.recipe, workdir, *limits)]
        self.note(name, 1, survived and again == [0, 0], workdir, reference)


def same(one: Path, two: Path) -> bool:
    """Whether two runs are the same to the last bit; where they are not, what differs goes to stderr."""
    found = runs.difference(one, two)
    if found:
        print(found, file=sys.stderr, flush=True)
    return found is None


def in_a_fork(question: Callable[[], bool]) -> bool:
    """Asked in a process of its own: once this one has met a device, it must not fork any more."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    code = 1
    try:
        code = 0 if question() else 1
    except Exception:  # not a difference: it must not be taken for one
        traceback.print_exc()
    finally:
        os._exit(code)


def flip(step: Path) -> None:
    path = max((step / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(step: Path) -> None:
    path = max((step / "opt_state").rglob("*"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_delete(step: Path) -> None:
    for path in sorted(path for path in step.rglob("*") if path.is_file())[::2]:
        path.unlink()


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs at random moments, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-hosts", action="store_true", help="without the faults of several hosts")
    flags = parser.parse_args()
    try:
        recipe = runs.make_full_recipe(FOLDER)
        for short, long in STEPS.items():
            recipe.write_text(recipe.read_text().replace(short, long))
        drill = Drill(recipe, flags.seed)
        print(f"one undisturbed run takes {drill.seconds:.1f} s", file=sys.stderr)
        drill.kills(flags.kills)
        for number in (signal.SIGTERM, signal.SIGINT):
            drill.signalled(number)
        for name, damage in (("bit-flipped", flip), ("truncated", truncate), ("half-deleted", half_delete)):
            drill.damaged(name, damage)
        drill.full_disk()
        drill.refused()
        drill.poisoned()
        for stage in ("data", "save", "evaluate"):
            drill.hang(stage)
        if not flags.no_hosts:
            drill.hosts("one of two hosts dies", {"where": "step", "nth": 12, "what": "kill"})
            drill.hosts("one of two hosts freezes", {"where": "step", "nth": 12, "what": "freeze"})
            drill.hosts("one of two hosts is told to go", None)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    print(f"{'':36}{'tried':>7}{'survived':>10}{'bits equal':>12}")
    for name, row in drill.rows.items():
        print(f"{name:36}{row.tried:7}{row.survived:10}{row.equal:12}")
    return int(any(not row.tried == row.survived == row.equal for row in drill.rows.values()))


if __name__ == "__main__":
    sys.exit(main())
