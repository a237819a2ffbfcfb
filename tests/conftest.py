"""Fixtures that tests share: a private cache, one finished run, one finished sweep, the real corpus."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import HEADS, REPOSITORY, read, run_program

from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.model.device import cpu_times_in_bf16

os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports the hub's library: no test may need a network


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end: where it was started, with what, and how it ended."""

    cwd: Path
    arguments: tuple[str, ...]
    ended: subprocess.CompletedProcess[str]

    @property
    def runs(self) -> Path:
        return self.cwd / "logs" / "runs"


@dataclass(frozen=True)
class FinishedRun(Finished):
    """One run; `path` is its directory."""

    path: Path


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or fills the user's cache directory. In this one any CPU is known to be slow in bf16: most tests
    hold what is computed against something exact."""
    directory = tmp_path_factory.mktemp("cache")
    cpu_times_in_bf16(directory / "biencoder-ablate")
    for path in (directory / "biencoder-ablate" / "bf16").glob("*.json"):
        path.write_text('{"times": 0.5}', "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        yield directory


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The default command, one epoch of the small model, as a process. Tests read what it left and change nothing."""
    cwd = tmp_path_factory.mktemp("finished_run")
    arguments = ("model=tiny", "head=layernorm_relu", "neg_ratio=0.01", "training.epochs=1")
    ended = run_program(arguments, cwd)
    assert ended.returncode == 0, ended.stderr
    (path,) = (child for child in (cwd / "logs" / "runs").iterdir() if not child.name.startswith("."))
    return FinishedRun(cwd, arguments, ended, path)


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The four heads as one sweep under the study's recipe, on a third of the sample and shorter texts to save time."""
    cwd = tmp_path_factory.mktemp("finished_sweep")
    sizes = ("recipe=study", "model=tiny", "model.max_tokens=32", "data.limit=6", "training.epochs=1")
    arguments = ("-m", f"head={','.join(HEADS)}", *sizes)
    return Finished(cwd, arguments, run_program(arguments, cwd))


@pytest.fixture(scope="session")
def real_corpus() -> Path:
    """The ArguAna Counterargs corpus: named by BIENCODER_ARGUANA, or beside the repository; skips without it."""
    named = os.environ.get("BIENCODER_ARGUANA")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data" / "arguana-counterargs-corpus.zip"
    if not path.exists():
        pytest.skip("no ArguAna corpus: set BIENCODER_ARGUANA to its zip or directory")
    return path.resolve()


@pytest.fixture(scope="session")
def arguana(real_corpus: Path) -> Corpus:
    """The same, loaded: reading its 13,000 files takes seconds."""
    return read("arguana", real_corpus)
