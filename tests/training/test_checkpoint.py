"""A checkpoint is believed only as it was written: any other is said, and the run starts over by itself."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.helpers import run_here

from biencoder_ablate.training.checkpoint import (
    DamagedCheckpoint,
    RunState,
    load_best,
    load_checkpoint,
    save_checkpoint,
    snapshot,
)
from biencoder_ablate.utils.cache import seal
from biencoder_ablate.utils.files import write_text

SETTINGS = ["model=tiny", "training.freeze_encoder=true", "data.limit=3", "model.max_tokens=16"]


def record(epoch: int, top1: float) -> dict[str, Any]:
    return {"epoch": epoch, "val/top1": top1, "val/top1_clean": top1}


def make() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return model, optimizer


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """NAME/checkpoint after three epochs of one step each, the second the best."""
    directory = tmp_path_factory.mktemp("written") / "NAME" / "checkpoint"
    directory.parent.mkdir()
    model, optimizer = make()
    state = RunState()
    for epoch, top1 in ((-1, 0.1), (0, 0.2), (1, 0.4), (2, 0.3)):
        if epoch >= 0:
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            state.step += 1
        state.records.append(record(epoch, top1))
        state.best_epoch = None if epoch < 0 else max(0, min(epoch, 1))
        save_checkpoint(directory, snapshot(model, optimizer, state))
    return directory


@pytest.fixture
def directory(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "NAME" / "checkpoint"))


def save_sealed(content: object, path: Path) -> None:
    """As if it had been written so."""
    torch.save(content, path)
    seal(path)


def load(directory: Path) -> RunState | None:
    model, optimizer = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        return load_checkpoint(directory, model, optimizer, "top1_clean")
    except DamagedCheckpoint:
        # A run that starts over must start from the same weights as any other.
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not optimizer.state
        raise


def test_a_whole_checkpoint_is_gone_on_from(directory):
    state = load(directory)
    assert state is not None
    assert (state.next_epoch, state.best_epoch, state.step) == (3, 1, 3)
    assert sorted(path.name for path in directory.iterdir()) == ["best-1.pt", "last.pt", "last.pt.sha256"]
    # The next epoch, which is not the best, still refers to the best weights by their checksum.
    model, optimizer = make()
    state.records.append(record(3, 0.2))
    state.step += 1
    save_checkpoint(directory, snapshot(model, optimizer, state))
    again = load(directory)
    assert again is not None and again.checksums == state.checksums
    load_best(directory, again, model)
    assert load(directory.parent / "nothing") is None


@pytest.mark.parametrize("name", ["last.pt", "best-1.pt"])
def test_a_flipped_bit_is_seen_wherever_it_is(name, directory):
    """Also one of the zip file's directory: torch.load then takes weights for none, and says nothing."""
    whole = (directory / name).read_bytes()
    for position in range(0, len(whole), 11):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        (directory / name).write_bytes(changed)
        with pytest.raises(DamagedCheckpoint, match=name):
            load(directory)


def test_a_kill_between_the_checksum_and_its_file_loses_nothing(directory, tmp_path, monkeypatch):
    """The new checksum is there, and still the old file: which is gone on from."""
    model, optimizer = make()
    state = load(directory)
    assert state is not None
    state.records.append(record(3, 0.9))
    state.step += 1
    state.best_epoch = 3

    def killed(*given: Any) -> None:
        write_text(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("biencoder_ablate.training.checkpoint.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(directory, snapshot(model, optimizer, state))
    again = load(directory)
    assert again is not None and (again.next_epoch, again.best_epoch) == (3, 1)


@pytest.mark.parametrize("name", ["last.pt", "best-1.pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_is_seen(name, share, directory):
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DamagedCheckpoint, match=name):
        load(directory)


def test_weights_of_another_time_or_run_are_seen(directory, tmp_path):
    torch.save(make()[0].state_dict(), directory / "best-1.pt")
    with pytest.raises(DamagedCheckpoint, match=r"best-1\.pt is not what last\.pt was written with"):
        load(directory)
    (directory / "best-1.pt").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"best-1\.pt"):
        load(directory)
    other = tmp_path / "OTHER"
    directory.parent.rename(other)
    with pytest.raises(DamagedCheckpoint, match=r"last\.pt is not of this run"):
        load(other / "checkpoint")


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no records": lambda state: state.update(records=[]),
    "a jumped epoch": lambda state: state["records"].pop(2),
    "an epoch too many": lambda state: state["records"].append(record(9, 0.1)),
    "an epoch twice": lambda state: state["records"].insert(2, state["records"][1]),
    "no epoch -1": lambda state: state["records"].pop(0),
    "another best epoch": lambda state: state.update(best_epoch=2),
    "no best epoch": lambda state: state.update(best_epoch=None),
    "a best epoch to come": lambda state: state.update(best_epoch=7),
    "no step": lambda state: state.update(step=0),
    "records of another type": lambda state: state.update(records=3),
    "a record that is none": lambda state: state.update(records=[1, 2]),
    "no optimizer": lambda state: state.update(optimizer=None),
    "another optimizer": lambda state: state["optimizer"]["param_groups"].clear(),
    "no weights": lambda state: state.pop("model"),
    "other weights": lambda state: state["model"].update(weight=torch.zeros(2, 2)),
    "a version before 0.5.0, which named no run": lambda state: state.pop("run"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_state_that_no_run_comes_to_is_refused(kind, directory):
    path = directory / "last.pt"
    state = torch.load(path, weights_only=True)
    CHANGES[kind](state)
    save_sealed(state, path)
    with pytest.raises(DamagedCheckpoint, match=r"last\.pt"):
        load(directory)


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK", [1, 2]])
def test_what_is_no_checkpoint_is_refused(content, directory):
    if isinstance(content, bytes):
        (directory / "last.pt").write_bytes(content)
    else:
        save_sealed(content, directory / "last.pt")
    with pytest.raises(DamagedCheckpoint, match=r"last\.pt"):
        load(directory)


def test_the_best_weights_are_read_without_running_what_is_in_them(directory):
    torch.save(Path("anything that is no tensor"), directory / "best-1.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        load_best(directory, RunState([record(1, 0.4)], 1, 2), make()[0])


def test_a_run_starts_over_by_itself_and_says_so(tmp_path):
    """And ends with the same metrics as one that was never interrupted."""
    whole = run_here([*SETTINGS, "training.epochs=2"], tmp_path)
    assert whole.returncode == 0, whole.stderr
    (run,) = (path for path in (tmp_path / "logs" / "runs").iterdir() if not path.name.startswith("."))
    ranked = (run / "rankings.jsonl").read_bytes()
    (run / "result.json").unlink()
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / "last.pt").write_bytes(os.urandom(3000))
    (run / "checkpoint" / "best-7.pt").write_bytes(b"of the old one")
    again = run_here([*SETTINGS, "training.epochs=2"], tmp_path)
    assert again.returncode == 0, again.stderr
    (line,) = [line for line in again.stdout.splitlines() if "damaged" in line]
    assert line.endswith("(last.pt has no checksum that can be read); starting over from the beginning")
    assert (run / "rankings.jsonl").read_bytes() == ranked and not (run / "checkpoint").exists()
