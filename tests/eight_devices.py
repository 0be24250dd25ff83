"""Programs that need eight devices run in a process of their own, where jax pretends that there are so many."""

import os
import subprocess
import sys
from pathlib import Path

from compiling import QUICK

TESTS = Path(__file__).parent


def run(program: str, output: Path) -> Path:
    """Runs a program of this folder with `output` as its argument; returns the output, which is there now."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:bert_jax", str(TESTS / program), str(output)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output
