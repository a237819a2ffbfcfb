"""Where a sweep's jobs run: what became of each, a Slurm cluster, and a GPU for each on a machine with several.

On Slurm, submitit's launcher submits the jobs, and each is waited for whatever becomes of the others. Hydra's launcher
would wait for its jobs in their order and give up at the first that was killed; submitit asks only sacct whether one
was, at growing intervals. Here squeue is asked: a job is over when it has left the queue, so that one which was put
back (a time limit, a preemption) is still to come.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

POLL_SECONDS = (2.0, 30.0)
"""Between two looks at the queue: at first, and after a while."""
FILE_SECONDS = 20.0
"""How long a job's result may take to appear on a shared file system once the job has left the queue."""


def failure_of(returned: Any) -> Exception | None:
    """Why a job that Hydra ran failed, or None. Asked for the value of a failed job, Hydra prints lines of its own."""
    from hydra.core.utils import JobStatus

    if returned.status == JobStatus.FAILED:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                returned.return_value  # noqa: B018
            except Exception as error:
                return error
    return None


# --- Slurm ---


def run_on_cluster(
    launcher: Any, overrides: Sequence[Sequence[str]], ended: Callable[[int, str | None], None]
) -> list[str | None]:
    """Submit a job for each list of overrides and wait for all. Returns what went wrong with each, or None.

    `ended` is called with a job's number and error when it is over. Raises what sbatch did not like.
    """
    jobs = _submit(launcher, overrides)
    ids = [job.job_id for job in jobs]
    print(f"submitted to Slurm: {', '.join(ids)}; output in {jobs[0].paths.folder.parent}", flush=True)
    try:
        return _wait_for(jobs, ended)
    except BaseException:
        # Ctrl-C here is for who waits; the jobs belong to the cluster
        stop = "scancel " + " ".join(dict.fromkeys(name.split("_")[0] for name in ids))  # an array's jobs at once
        print(f"the jobs stay in Slurm's queue; to stop them: {stop}", file=sys.stderr)
        raise


def _submit(launcher: Any, overrides: Sequence[Sequence[str]]) -> list[Any]:
    """As the launcher's own `launch` does, up to waiting."""
    import submitit
    from hydra.core.singleton import Singleton
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    settings = {key: value for key, value in launcher.params.items() if key not in ("submitit_folder", "_target_")}
    executor = submitit.AutoExecutor(
        folder=launcher.params["submitit_folder"],
        cluster="slurm",
        slurm_max_num_timeout=settings.pop("max_num_timeout"),
    )
    # submitit takes what all clusters know by its name, and what is Slurm's own with that prefix.
    common = BaseQueueConf.__dataclass_fields__
    executor.update_parameters(**{key if key in common else f"slurm_{key}": value for key, value in settings.items()})
    rows = [
        (list(job), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
        for number, job in enumerate(overrides)
    ]
    return executor.map_array(launcher, *zip(*rows, strict=True))


def _wait_for(jobs: Sequence[Any], ended: Callable[[int, str | None], None]) -> list[str | None]:
    errors: list[str | None] = [None] * len(jobs)
    left = dict(enumerate(jobs))
    gone_since: dict[int, float] = {}
    pause = POLL_SECONDS[0]
    while left:
        time.sleep(pause)
        pause = min(pause * 1.1, POLL_SECONDS[1])
        queued = _queued()
        for number, job in list(left.items()):
            if queued is None or job.job_id in queued:
                gone_since.pop(number, None)
                continue
            # Its result may appear later than it leaves the queue.
            since = gone_since.setdefault(number, time.monotonic())
            if not job.paths.result_pickle.exists() and time.monotonic() - since < FILE_SECONDS:
                continue
            errors[number] = _job_error(job)
            del left[number]
            ended(number, errors[number])
    return errors


def _queued() -> set[str] | None:
    """This user's jobs in the queue, one of an array as 12_3; None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(answer.stdout.split()) if answer.returncode == 0 else None


def _job_error(job: Any) -> str | None:
    """Why a job that is over did not do its work, or None."""
    if not job.paths.result_pickle.exists():
        return f"Slurm job {job.job_id} {_state(job.job_id)}; see {job.paths.stderr}"
    try:
        outcome = job.result()
    except Exception as error:  # submitit hands on whatever the job raised outside our own code
        last_line = str(error).strip().splitlines()[-1]
        return f"Slurm job {job.job_id}: {last_line}; see {job.paths.stderr}"
    failure = failure_of(outcome)
    return None if failure is None else str(failure)


def _state(job_id: str) -> str:
    """How Slurm's accounting says a job ended; nothing certain where there is none."""
    command = ["sacct", "--noheader", "--allocations", "--parsable2"]
    command += ["--format=JobID,State,ExitCode", f"--jobs={job_id}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        rows = {row.split("|")[0]: row.split("|")[1:] for row in answer.stdout.splitlines()}
        state, code = rows[job_id]
    except (OSError, subprocess.SubprocessError, KeyError, ValueError):
        return "ended without a result (cancelled, killed, or out of memory)"
    reason = state.split(" by ")[0].lower()  # CANCELLED by 1000
    return f"ended without a result ({reason}, exit code {code})"


# --- GPUs ---


@contextlib.contextmanager
def acquire_gpu(directory: Path, device: str, parallel: bool) -> Iterator[str]:
    """The device a job should use: the one it names, or, of several GPUs, one that no other job of the sweep has."""
    num_gpus = 0
    if parallel and device in ("auto", "cuda"):
        import torch

        num_gpus = torch.cuda.device_count()
    if num_gpus < 2:
        yield device
        return
    with take_first_free(directory, num_gpus) as number:
        yield f"cuda:{number}"


@contextlib.contextmanager
def take_first_free(directory: Path, count: int) -> Iterator[int]:
    """Hold the first free number below `count` while in use; waits for any of them when all are taken."""
    directory.mkdir(parents=True, exist_ok=True)
    locks = [FileLock(directory / f".gpu{number}.lock") for number in range(count)]
    while True:
        for number, lock in enumerate(locks):
            try:
                held = lock.acquire(timeout=0)
            except Timeout:
                continue
            with held:
                yield number
            return
        time.sleep(0.2)
