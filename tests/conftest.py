"""Fixtures that tests share: a private cache, one finished run, one finished sweep, the real corpus."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is loaded: workers share the cores, and get in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from support.helpers import HEADS, REPOSITORY, Ended, read, run_program, run_python

from biencoder_ablate.data.corpus import Corpus

os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports the hub's library: no test may need a network


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end: where it was started, with what, and how it ended."""

    cwd: Path
    arguments: tuple[str, ...]
    ended: Ended

    @property
    def runs(self) -> Path:
        return self.cwd / "logs" / "runs"


@dataclass(frozen=True)
class FinishedRun(Finished):
    """One run; `path` is its directory."""

    path: Path


DEAREST = (
    "cuda_without_cuda",
    "resume",
    "trackers",
    "report_page",
    "report_figures",
    "command_line",
    "disk_failures",
    "extending_head_and_loss",
    "search",
    "evaluate",
    "sweep",
    "retrieve",
)
"""Files of tests that take longest, to begin with: what is begun last should be short."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n` alone, the tests of a file stay together in one process: their fixtures are made once."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}": place for place, name in enumerate(DEAREST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all processes of this session of tests share."""
    own = tmp_path_factory.getbasetemp()
    path = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    path.mkdir(exist_ok=True)
    return path


def once(shared: Path, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` returns for a directory of that name, made by whichever process comes first."""
    kept = shared / f"{name}.pickle"
    with FileLock(shared / f"{name}.lock"):
        if not kept.exists():
            (shared / name).mkdir()
            kept.write_bytes(pickle.dumps(make(shared / name)))
        return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session", autouse=True)
def private_cache(shared: Path) -> Iterator[Path]:
    """No test reads or fills the user's cache directory. Nor does any CPU compute in bf16 unasked: most tests hold what
    is computed against something exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
        yield shared / "cache"


@pytest.fixture(scope="session")
def finished_run(shared: Path) -> FinishedRun:
    """The default command, one epoch of the small model on a third of the sample's train split and all of its val and
    test, in a new Python. Tests read what it left, no more."""

    def make(cwd: Path) -> FinishedRun:
        arguments = ("model=tiny", "head=layernorm_relu", "neg_ratio=0.01", "data.limit=6", "training.epochs=1")
        ended = run_python(["-m", "biencoder_ablate", *arguments], cwd)
        assert ended.returncode == 0, ended.stderr
        (path,) = (cwd / "logs" / "runs").glob("[!.]*")
        return FinishedRun(cwd, arguments, Ended(ended.returncode, ended.stdout, ended.stderr), path)

    return once(shared, "finished_run", make)


@pytest.fixture(scope="session")
def finished_sweep(shared: Path) -> Finished:
    """The four heads as one sweep under the study's recipe, on few debates and shorter texts to save time."""
    sizes = ("recipe=study", "model=tiny", "model.max_tokens=32", "data.limit=3", "training.epochs=1", "seed=1")
    arguments = ("-m", f"head={','.join(HEADS)}", *sizes)
    return once(shared, "finished_sweep", lambda cwd: Finished(cwd, arguments, run_program(arguments, cwd)))


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
