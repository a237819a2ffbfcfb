"""Disks that are full, read-only or gone, for real: one clear message, what was there intact, the same command goes on.

The disks are small tmpfs mounts, so most of these tests need root on Linux and skip elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.forked import Forked
from support.helpers import files_below, run_program, start
from support.runs import assert_equal_runs, only_run, wait_for_epoch

from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.utils.files import read_json

FROZEN = (
    "recipe=study",
    "model=tiny",
    "training.precision=fp32",
    "training.freeze_encoder=true",
    "training.epochs=30",
    "training.head_learning_rate=0.001",
    "neg_ratio=0.3",
    "model.max_tokens=16",
    "data.limit=4",
)
TINY = ("recipe=study", "model=tiny", "model.max_tokens=16", "data.limit=4")
TRAINED = (*TINY, "training.precision=fp32", "training.epochs=6", "head=none", "neg_ratio=0.3")


class Disk:
    """A disk of its own, which can be filled, made read-only and made larger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.path / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 65536):
                pass

    def make_room(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Disk]]:
    """Mounts a tmpfs of a size ("8m"); it goes with the test."""
    mounted: list[Path] = []

    def mount(size: str) -> Disk:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no small disk here: {error}")
        if done.returncode != 0:
            pytest.skip(f"no small disk here (root on Linux can mount a tmpfs): {done.stderr.strip()}")
        mounted.append(path)
        return Disk(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def begin(cwd: Path, *overrides: str) -> Forked:
    return start(["-m", "biencoder_ablate", *overrides], cwd)


def one_message(returncode: int | None, err: str) -> str:
    """The only line on standard error of a command that failed."""
    assert returncode == 1, (returncode, err)
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("error: ") and line.endswith("; then the same command goes on")
    return line


def run_to_the_end(cwd: Path, *overrides: str) -> RunDirectory:
    ended = run_program(overrides, cwd, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return only_run(cwd)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunDirectory:
    return run_to_the_end(tmp_path_factory.mktemp("undisturbed"), *FROZEN)


# --- a full disk ---


def test_a_disk_that_fills_up_in_the_middle_of_a_run(disk, undisturbed):
    small = disk("8m")
    process = begin(small.path, *FROZEN)
    wait_for_epoch(process, small.path, 2)
    small.fill()
    _, err = process.communicate(timeout=300)
    message = one_message(process.returncode, err)
    run = only_run(small.path)
    assert str(run.name) in message and "No space left on device" in message and "make room there" in message

    state = torch.load(run.checkpoint / "last.pt", weights_only=True)
    assert [record["epoch"] for record in state["records"]] == list(range(-1, len(state["records"]) - 1))
    assert len(state["records"]) >= 4, "the epochs before the disk was full"
    rows = (run.path / "top1.csv").read_text().splitlines()
    assert 4 <= len(rows) <= len(state["records"]) and all(row.count(",") == 3 for row in rows)
    assert not [name for name in files_below(small.path) if name.endswith(".part")]

    small.make_room()
    ended = run_program(FROZEN, small.path)
    assert ended.returncode == 0, ended.stderr
    assert f"going on after epoch {len(state['records']) - 2}" in ended.stdout
    assert_equal_runs(undisturbed, run)


@pytest.mark.slow
def test_no_room_for_the_model_of_a_run_that_is_done(disk):
    """Weights go through safetensors, whose errors are not Python's."""
    small = disk("10m")
    asked = (*TINY, "training.epochs=0")
    ended = run_program(asked, small.path)
    message = one_message(ended.returncode, ended.stderr)
    assert "model" in message and "No space left on device" in message
    run = only_run(small.path)
    assert not run.model.exists() and not list(run.path.glob(".*.part")), "the half of a model fills the disk"
    assert "No space left" in str(read_json(run.result)["error"])

    small.remount("size=64m")
    assert run_program(asked, small.path).returncode == 0
    assert read_json(run.result)["status"] == "finished" and run.model.is_dir()


@pytest.mark.slow
def test_a_sweep_on_a_full_disk_says_so_in_its_table(disk):
    small = disk("10m")
    asked = ("-m", "head=none,relu", *TINY, "training.epochs=0")
    ended = run_program(asked, small.path)
    assert ended.returncode == 1 and "Traceback" not in ended.stdout + ended.stderr
    table = ended.stdout[ended.stdout.index("\nrun ") :]
    assert table.count("No space left on device; make room there") == 2
    small.remount("size=64m")
    assert run_program(asked, small.path).returncode == 0


@pytest.mark.slow
def test_no_room_for_the_sweep_s_own_list(disk):
    small = disk("8m")
    small.fill()
    ended = run_program(("-m", "head=none,relu", *FROZEN), small.path)
    assert "No space left on device" in one_message(ended.returncode, ended.stderr)


@pytest.mark.slow
def test_the_disk_that_a_run_says_it_needs_is_enough_and_half_of_it_is_not(disk, tmp_path):
    """In the beginning every epoch is the best yet, so that best and last weights are there twice at a commit."""
    asked = (*TRAINED, "training.epochs=4", f"cache_dir={tmp_path}/cache")
    first = run_program((*asked, "training.epochs=0"), tmp_path)
    told = re.search(r"disk +up to (\d+) MB while training, (\d+) MB when done", first.stdout)
    assert told is not None, first.stdout
    training, done = (int(figure) * 1_000_000 for figure in told.groups())
    enough, half = disk(str(training)), disk(str(training // 2))
    run = run_to_the_end(enough.path, *asked)
    size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    assert 0.5 * done < size < done
    ended = run_program(asked, half.path)
    assert "No space left on device" in one_message(ended.returncode, ended.stderr)


# --- a read-only disk, and what vanishes ---


def test_a_disk_that_is_read_only(disk, undisturbed, tmp_path):
    small = disk("8m")
    asked = (*FROZEN, f"cache_dir={tmp_path}/cache")
    process = begin(small.path, *asked)
    wait_for_epoch(process, small.path, 1)
    process.kill()
    process.communicate()
    before = {name: (small.path / name).read_bytes() for name in files_below(small.path)}
    small.remount("ro")
    ended = run_program(asked, small.path)
    message = one_message(ended.returncode, ended.stderr)
    assert "Read-only file system" in message and "choose another logs_dir" in message
    assert {name: (small.path / name).read_bytes() for name in files_below(small.path)} == before
    small.remount("rw")
    assert_equal_runs(undisturbed, run_to_the_end(small.path, *asked))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; see the read-only disk instead")
def test_a_directory_that_others_own(tmp_path):
    (tmp_path / "logs").mkdir(mode=0o555)
    ended = run_program(FROZEN, tmp_path)
    assert f"{tmp_path}/logs" in one_message(ended.returncode, ended.stderr)


@pytest.mark.slow
def test_a_run_whose_directory_is_deleted_under_it_ends_and_leaves_no_torso(tmp_path, undisturbed):
    process = begin(tmp_path, *FROZEN, "training.epochs=300", f"cache_dir={tmp_path}/cache")
    wait_for_epoch(process, tmp_path, 1)
    run = only_run(tmp_path)
    run.path.rename(tmp_path / "moved away")
    _, err = process.communicate(timeout=300)
    message = one_message(process.returncode, err)
    assert run.name in message and "see that its directory is there" in message
    assert not run.path.exists()


# --- the cache ---


@pytest.mark.slow
def test_a_full_cache_disk_stops_the_run_before_it_trains(disk, undisturbed, tmp_path):
    small = disk("1m")
    small.fill()
    asked = (*FROZEN, f"cache_dir={small.path}")
    ended = run_program(asked, tmp_path)
    message = one_message(ended.returncode, ended.stderr)
    assert str(small.path) in message and "No space left on device" in message and "cache_dir" in message
    small.make_room()
    small.remount("size=64m")
    assert_equal_runs(undisturbed, run_to_the_end(tmp_path, *asked))


@pytest.mark.slow
def test_a_read_only_cache_stops_the_run_and_one_that_has_what_it_needs_does_not(disk, undisturbed, tmp_path):
    small = disk("64m")
    small.remount("ro")
    asked = (*FROZEN, f"cache_dir={small.path}")
    ended = run_program(asked, tmp_path)
    assert "Read-only file system" in one_message(ended.returncode, ended.stderr)
    small.remount("rw")
    assert_equal_runs(undisturbed, run_to_the_end(tmp_path, *asked))
    small.remount("ro")
    run_to_the_end(tmp_path, *asked, "rerun=true")


@pytest.mark.slow
def test_a_cache_that_vanishes_while_a_run_goes_on_is_not_missed(undisturbed, tmp_path):
    asked = (*FROZEN, f"cache_dir={tmp_path}/cache")
    process = begin(tmp_path, *asked)
    wait_for_epoch(process, tmp_path, 1)
    shutil.rmtree(tmp_path / "cache")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert_equal_runs(undisturbed, only_run(tmp_path))


# --- signals while something is written ---


def test_sigterm_in_the_middle_of_saving_a_checkpoint_is_still_a_sigterm(tmp_path):
    """torch.save turns whatever stops its file into a RuntimeError, which would mark the run as failed."""
    program = (
        "import os, signal, sys, threading, torch\n"
        "from pathlib import Path\n"
        "from biencoder_ablate.utils.files import whole_file\n"
        "from biencoder_ablate.utils.command import Terminated, raise_on_sigterm\n"
        "raise_on_sigterm()\n"
        "class Signals:\n"
        "    'A file during whose second write SIGTERM arrives.'\n"
        "    def __init__(self, file): self.file, self.writes = file, 0\n"
        "    def write(self, data):\n"
        "        self.writes += 1\n"
        "        if self.writes == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return self.file.write(data)\n"
        "    def flush(self): self.file.flush()\n"
        "try:\n"
        "    with whole_file(Path('last.pt'), 'wb') as file:\n"
        "        torch.save({'a': torch.zeros(1000)}, Signals(file))\n"
        "except Terminated:\n"
        "    sys.exit(7)\n"
    )
    process = start(["-c", program], tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 7, err
    assert files_below(tmp_path) == set()


@pytest.mark.slow
def test_what_a_killed_process_had_begun_to_write_is_cleared_away(undisturbed, tmp_path):
    process = begin(tmp_path, *FROZEN, f"cache_dir={tmp_path}/cache")
    wait_for_epoch(process, tmp_path, 1)
    process.kill()
    process.communicate()
    run = only_run(tmp_path)
    (run.checkpoint / ".last.pt.abc.part").write_bytes(b"x")
    (run.path / ".top1.csv.abc.part").write_bytes(b"x")
    (run.path / ".model.part").mkdir()
    (run.path / ".model.part" / "weights").write_bytes(b"x")
    assert_equal_runs(undisturbed, run_to_the_end(tmp_path, *FROZEN, f"cache_dir={tmp_path}/cache"))
    assert not list(run.path.rglob(".*.part"))
