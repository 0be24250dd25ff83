"""A stage that takes long is told, again and again but ever more rarely; one that does not end, ends the process."""

import subprocess
import sys
import time

import pytest
from training_runs import ROOT

from bert_jax.config import WatchdogConfig
from bert_jax.watchdog import Watchdog


def test_a_slow_stage_is_told_with_its_step_and_a_quick_one_is_not(capsys):
    watchdog = Watchdog(WatchdogConfig(warn_seconds=0.2, stop_seconds=0), "[host 1] ")
    for step in range(6):
        watchdog.at("data", step)
        time.sleep(0.02)
    watchdog.at("save", 6)
    time.sleep(0.7)
    watchdog.close()
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("[host 1] warning: step 6: save has taken") for line in said)
    assert 1 <= len(said) <= 2


def test_compiling_may_take_longer(capsys):
    watchdog = Watchdog(WatchdogConfig(warn_seconds=0.2, stop_seconds=0))
    watchdog.at("compile", 0)
    time.sleep(0.6)
    watchdog.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stage", ["step", "start"])
def test_a_stage_that_does_not_end_ends_the_process_with_75(stage):
    program = (
        "import time; from bert_jax.watchdog import Watchdog; from bert_jax.config import WatchdogConfig\n"
        f"Watchdog(WatchdogConfig(warn_seconds=9.0, stop_seconds=0.2)).at({stage!r}, 41); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=50)
    assert done.returncode == 75
    assert done.stderr.startswith(f"error: step 41: {stage} has taken ") and done.stderr.count("\n") == 1
