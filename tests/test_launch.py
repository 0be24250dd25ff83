"""What a user runs on real hardware, as far as it can be checked without: syntax, fields, stand-ins for the tools."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bert_jax.topology import parse_topology

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])


def stand_in(folder: Path, name: str, body: str) -> None:
    """A program of that name that writes its arguments to NAME.log and then does `body`."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> "{folder}/{name}.log"\n{body}\n')
    program.chmod(0o755)


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "RESTART_SECONDS": "0", **environment}
    return subprocess.run(list(map(str, words)), env=variables, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([str(shellcheck), str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert os.access(script, os.X_OK)


def ending_with(folder: Path, *codes: int) -> None:
    """A bert-jax whose n-th start ends with the n-th code."""
    count = f'n=$(wc -l < "{folder}/bert-jax.log"); set -- {" ".join(map(str, codes))}; eval "exit \\${{$n}}"'
    stand_in(folder, "bert-jax", count)


@pytest.mark.parametrize(
    ("codes", "last", "starts"), [((75, 75, 0), 0, 3), ((137, 3), 3, 2), ((2,), 2, 1), ((1,), 1, 1), ((75,) * 9, 75, 5)]
)
def test_restart_goes_on_after_75_and_signals_alone(tmp_path, codes, last, starts):
    ending_with(tmp_path / "bin", *codes)
    done = run(tmp_path / "bin", LAUNCH / "restart.sh", "bert-jax", "pretrain", "--workdir", "a b")
    assert done.returncode == last
    assert (tmp_path / "bin" / "bert-jax.log").read_text() == "pretrain --workdir a b\n" * starts


def test_restart_passes_sigterm_on_and_starts_nothing_again(tmp_path):
    stand_in(tmp_path / "bin", "bert-jax", 'trap "exit 75" TERM; while true; do sleep 0.05; done')
    log = tmp_path / "bin" / "bert-jax.log"
    variables = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    process = subprocess.Popen([str(LAUNCH / "restart.sh"), "bert-jax", "pretrain"], env=variables)
    while not log.exists():
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert log.read_text() == "pretrain\n"


@pytest.mark.parametrize(("code", "ends", "requeued"), [(0, 0, False), (75, 0, True), (137, 0, True), (2, 2, False)])
def test_slurm_requeues_after_75_and_lost_nodes_alone(tmp_path, code, ends, requeued):
    folder = tmp_path / "bin"
    stand_in(folder, "srun", f"exit {code}")
    stand_in(folder, "scontrol", "exit 0")
    words = ("pretrain", "--config", "c.py")
    done = run(folder, LAUNCH / "slurm.sbatch", *words, SLURM_JOB_ID="42", VENV=str(tmp_path / "none"))
    assert done.returncode == ends, done.stderr
    assert (folder / "srun.log").read_text() == "--kill-on-bad-exit=0 bert-jax pretrain --config c.py\n"
    assert (folder / "scontrol.log").exists() == requeued
    if requeued:
        assert (folder / "scontrol.log").read_text() == "requeue 42\n"


def test_slurm_gives_up_after_so_many_requeues(tmp_path):
    folder = tmp_path / "bin"
    stand_in(folder, "srun", "exit 75")
    stand_in(folder, "scontrol", "exit 0")
    count = dict(SLURM_JOB_ID="42", VENV=str(tmp_path / "none"), MAX_REQUEUES="3")
    assert run(folder, LAUNCH / "slurm.sbatch", "pretrain", SLURM_RESTART_COUNT="2", **count).returncode == 0
    done = run(folder, LAUNCH / "slurm.sbatch", "pretrain", SLURM_RESTART_COUNT="3", **count)
    assert done.returncode == 75 and "given up after 3 requeues" in done.stderr
    assert (folder / "scontrol.log").read_text() == "requeue 42\n"


def test_slurm_asks_for_a_task_a_gpu_a_signal_in_time_and_a_requeue():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH --")
    )
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert {"requeue", "open-mode"} <= set(options)
    assert options["signal"].startswith("TERM@")  # not B:, which would reach the script alone


def test_tpu_vm_creates_a_queued_resource_and_again_when_preempted(tmp_path):
    folder = tmp_path / "bin"
    keep = 'for word in "$@"; do case "$word" in --metadata-from-file=*) '
    keep += f'cp "${{word##*=}}" "{tmp_path}/words";; esac; done'
    # The n-th answer about the resource; the first request for it and the first deletion fail.
    answers = ["error UNAVAILABLE", "error NOT_FOUND", "error NOT_FOUND", "SUSPENDED", "SUSPENDED", "ACTIVE"]
    states = f"answers=({' '.join(map(repr, answers))}); count() {{ grep -c -- \" $1 \" '{folder}/gcloud.log'; }}\n"
    states += 'case "$4" in describe) n=$(count describe); answer="${answers[$((n > 6 ? 5 : n - 1))]}"\n'
    states += '[ "${answer% *}" != error ] || { echo "ERROR: ${answer#* }: x" >&2; exit 1; }; echo "$answer";;\n'
    states += 'create | delete) [ "$(count "$4")" -gt 1 ];; esac'
    stand_in(folder, "gcloud", f"{keep}\n{states}")
    environment = dict(
        NAME="base",
        ZONE="z",
        TYPE="v5litepod-256",
        RUNTIME="r",
        SPOT="1",
        REPOSITORY="git",
        NFS="h:/v",
        WATCH_SECONDS="0",
    )
    script = LAUNCH / "tpu_vm.sh"
    variables = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
    watching = subprocess.Popen([str(script), "watch", "pretrain", "--workdir", "a b"], env=variables)
    log = folder / "gcloud.log"

    def actions():
        return [line.split()[3] for line in log.read_text().splitlines()]

    deadline = time.monotonic() + 30
    while not log.exists() or log.read_text().count("describe") < 7:
        assert watching.poll() is None, actions()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watching.kill()
    watching.wait()
    refused, lost = ["describe", "create"], ["describe", "delete"]  # and both are tried again
    assert actions()[:11] == ["describe", *refused, "describe", "create", *lost, *lost, "create", "describe"]
    create = log.read_text().splitlines()[2]
    for word in ("--node-id=base", "--zone=z", "--accelerator-type=v5litepod-256", "--runtime-version=r", "--spot"):
        assert word in create.split()
    assert f"startup-script={LAUNCH}/tpu_vm_startup.sh" in create
    assert (tmp_path / "words").read_text().split(" ", 2) == [
        "pretrain",
        "--workdir",
        "a\\ b ",
    ]  # read by a shell again
    assert run(folder, script, "bake", **environment).returncode == 2
    assert run(folder, script, "create", NAME="base", ZONE="z").returncode != 0


def test_the_startup_script_starts_the_command_under_restart(tmp_path):
    folder, home = tmp_path / "bin", tmp_path / "home"
    shutil.copytree(LAUNCH, home / "launch")
    answers = "".join(
        f'*/{name}) echo "{value}";; '
        for name, value in {
            "bert-jax-nfs": "h:/v",
            "bert-jax-repository": "git",
            "bert-jax-words": "pretrain x",
        }.items()
    )
    stand_in(folder, "curl", f'case "${{@: -1}}" in {answers} esac')
    for name in ("apt-get", "mount", "systemd-run"):
        stand_in(folder, name, "exit 0")
    stand_in(folder, "mountpoint", "exit 1")
    stand_in(folder, "python3", f'mkdir -p "{home}/.venv/bin"; ln -sf "{folder}/pip" "{home}/.venv/bin/pip"; echo 3.12')
    stand_in(folder, "pip", "exit 0")
    shared = str(tmp_path / "shared")
    done = run(folder, LAUNCH / "tpu_vm_startup.sh", BERT_JAX_HOME=str(home), BERT_JAX_SHARED=shared)
    assert done.returncode == 0, done.stderr
    assert (folder / "mount.log").read_text() == f"-t nfs h:/v {shared}\n"
    assert "constraints/python3.12.txt .[tpu]" in (folder / "pip.log").read_text()
    assert "exec launch/restart.sh bert-jax pretrain x" in (folder / "systemd-run.log").read_text()


def test_the_jobset_restarts_all_hosts_and_ends_on_2_and_3_alone():
    jobset = yaml.safe_load((LAUNCH / "gke_tpu.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 100
    assert jobset["spec"]["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    assert rule["onExitCodes"]["containerName"] == container["name"] and rule["onExitCodes"]["values"] == [2, 3]
    assert pod["restartPolicy"] == "Never"  # what a pod failure policy asks for
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    assert job["parallelism"] == job["completions"] == parse_topology(f"v5e:{shape}").chips // chips
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert container["command"][:2] == ["bert-jax", "pretrain"]
    config = container["command"][container["command"].index("--config") + 1]
    assert (ROOT / config).exists()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_container_copies_what_there_is_and_pins_it():
    text = (LAUNCH / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    python = text.split("FROM python:")[1][:4]
    assert f"constraints/python{python}.txt" in text and (ROOT / "constraints" / f"python{python}.txt").exists()
    extras = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in extras for extra in ("tpu", "cuda"))
