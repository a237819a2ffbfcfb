"""A sweep on a real Slurm: a job cancelled half way, one put back into the queue, and the same command that goes on.

eval "$(SLURM_LOCAL_ACCOUNTING=1 scripts/slurm_local.sh up)" && python -m pytest tests/test_slurm.py -m slow
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.helpers import HEADS, run_program
from support.runs import assert_equal_runs

from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.status import SweepDirectory

pytestmark = pytest.mark.slow

SETTINGS = ("training.epochs=40", "data.limit=4", "model.max_tokens=32", "neg_ratio=0.3")
SLURM = (
    "hydra/launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.gpus_per_node=null",
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    """A Slurm that answers; skips without one."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        pytest.skip("no sbatch: scripts/slurm_local.sh up sets up a real one-node Slurm")
    if "SLURM_CONF" not in os.environ and not Path("/etc/slurm/slurm.conf").exists():
        pytest.skip("SLURM_CONF is not set: export what scripts/slurm_local.sh up prints")
    asked = subprocess.run(["squeue"], capture_output=True, text=True, timeout=60)
    if asked.returncode != 0:
        pytest.skip(f"Slurm does not answer: {asked.stderr.strip()}")


def arguments(cwd: Path, *more: str) -> list[str]:
    return ["-m", *SETTINGS, "sweep_name=s", f"cache_dir={cwd.parent}/cache", *more]


def submit(cwd: Path, *more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "biencoder_ablate", *arguments(cwd, *SLURM, *more)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def runs_of(cwd: Path) -> dict[str, RunDirectory]:
    """The sweep's runs by head."""
    states = SweepDirectory(cwd / "logs" / "sweeps" / "s").statuses()
    found = {}
    for state in states:
        (head,) = (item.removeprefix("head=") for item in state.overrides if item.startswith("head="))
        found[head] = state.directory
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def num_epochs(cwd: Path, head: str) -> int:
    """Epochs that a run has finished, by its top1.csv."""
    try:
        return len((runs_of(cwd)[head].path / "top1.csv").read_text().splitlines()) - 1
    except (OSError, KeyError):
        return 0


def job_of(process: subprocess.Popen[str], number: int) -> str:
    """Slurm's id of the sweep's job `number`, from what the submitting process prints."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("submitted to Slurm: "):
            return re.split(r"[:;]", line)[1].split(",")[number].strip()
    raise AssertionError("nothing was submitted")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, RunDirectory]:
    """The four heads one after another, in one process on this machine."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    ended = run_program(arguments(cwd, f"head={','.join(HEADS)}"), cwd)
    assert ended.returncode == 0, ended.stderr
    return runs_of(cwd)


def test_a_job_cancelled_half_way_resumes_when_the_sweep_is_submitted_again(undisturbed, tmp_path):
    heads = f"head={','.join(HEADS)}"
    first = submit(tmp_path, heads)
    job = job_of(first, HEADS.index("layernorm"))
    wait_for(lambda: num_epochs(tmp_path, "layernorm") >= 2)
    subprocess.run(["scancel", job], check=True)
    out, err = first.communicate(timeout=600)
    assert first.returncode == 1, out + err
    done = num_epochs(tmp_path, "layernorm")
    assert 2 <= done < 40, "cancelled half way"
    table = out[out.index("\nrun ") :]
    assert table.count(" finished ") == 3
    assert f"interrupted: head=layernorm: {done} epochs done; the same command goes on from there (" in table

    ended = run_program(arguments(tmp_path, *SLURM, heads), tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 runs, 3 finished, 1 to run" in ended.stdout
    runs = runs_of(tmp_path)
    assert f"going on after epoch {done - 1}, the last finished one" in runs["layernorm"].log.read_text()
    for head in HEADS:
        assert_equal_runs(undisturbed[head], runs[head])


def test_a_job_whose_process_is_killed_says_so_and_stops_no_other(undisturbed, tmp_path):
    process = submit(tmp_path, "head=none,relu")
    wait_for(lambda: num_epochs(tmp_path, "none") >= 2)
    run = runs_of(tmp_path)["none"]
    holder = run.path.with_name(f".{run.name}.holder").read_text()
    os.kill(int(holder.split()[1]), 9)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, out + err
    table = out[out.index("\nrun ") :]
    assert "interrupted: head=none: " in table and "ended without a result" in table
    assert_equal_runs(undisturbed["relu"], runs_of(tmp_path)["relu"])


@pytest.mark.parametrize("how", ["scontrol requeue", "scancel --signal=USR2"])
def test_a_job_that_is_put_back_into_the_queue_finishes_without_a_person(how, undisturbed, tmp_path):
    """As Slurm does on preemption, and as submitit does on the signal that Slurm sends before a time limit."""
    process = submit(tmp_path, "head=layernorm_relu")
    job = job_of(process, 0)
    wait_for(lambda: num_epochs(tmp_path, "layernorm_relu") >= 2)
    subprocess.run([*how.split(), job], check=True)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    run = runs_of(tmp_path)["layernorm_relu"]
    log = run.log.read_text()
    assert log.count("going on after epoch") == 1 and "interrupted" in log
    assert_equal_runs(undisturbed["layernorm_relu"], run)


def test_what_sbatch_refuses_is_one_message_and_a_table(tmp_path):
    process = submit(tmp_path, "head=none,relu", "hydra.launcher.partition=nowhere")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in out + err
    assert "nowhere" in err or "invalid partition" in err
    assert out.count("failed: head=") == 2
