"""Plain helpers that the tests share: run the program, write small corpora to load, look at what a run left."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from support.forked import Forked

import biencoder_ablate
from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.corpus import Corpus, Pair
from biencoder_ablate.data.readers import load_corpus

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
PACKAGE = Path(biencoder_ablate.__file__).resolve().parent
HEADS = ("none", "layernorm", "relu", "layernorm_relu")
ARGUANA_SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output, standard error."""

    returncode: int
    stdout: str
    stderr: str


def run_python(
    arguments: Sequence[str | Path], cwd: Path, timeout: float = 600.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A new Python with `arguments`, in `cwd`, on one thread, importing the package that these tests import."""
    inherited = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    path = os.pathsep.join([str(PACKAGE.parent), str(TESTS), *(os.path.abspath(place) for place in inherited)])
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=variables,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )


def start(arguments: Sequence[str | Path], cwd: Path, **environment: str) -> Forked:
    """This Python with `arguments` ("-m", module, …), in `cwd`, on one thread, not waited for: a process of its own
    that begins with the libraries loaded."""
    return Forked(arguments, cwd, os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def run_module(
    module: str, arguments: Sequence[str | Path], cwd: Path, timeout: float = 600.0, **environment: str
) -> Ended:
    """`python -m MODULE ARGUMENTS` in `cwd`, as a process of its own that begins with the libraries loaded."""
    process = start(["-m", module, *arguments], cwd, **environment)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, output, errors)


def run_ranks(arguments: Sequence[str | Path], cwd: Path, num: int, timeout: float = 600.0) -> None:
    """This Python with `arguments` as `num` processes of one group, told apart by what torchrun says to its own; each
    must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num)}
    ranks = [str(rank) for rank in range(num)]
    processes = [start(arguments, cwd, **group, RANK=rank, LOCAL_RANK=rank) for rank in ranks]
    try:
        said = [process.communicate(timeout) for process in processes]
        assert [process.returncode for process in processes] == [0] * num, said
    finally:
        for process in processes:
            process.kill()


def run_program(arguments: Sequence[str | Path], cwd: Path, timeout: float = 600.0, **environment: str) -> Ended:
    """`python -m biencoder_ablate ARGUMENTS`, likewise."""
    return run_module("biencoder_ablate", arguments, cwd, timeout, **environment)


def run_here(arguments: Sequence[str], cwd: Path) -> Ended:
    """The same command inside this process: what a subprocess would show, in a tenth of the time."""
    from biencoder_ablate.cli import main as cli

    out, err, code = io.StringIO(), io.StringIO(), 0
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with (
            patch.object(sys, "argv", ["biencoder-ablate", *arguments]),
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Ended(code, out.getvalue(), err.getvalue())


def train(cwd: Path, *arguments: str) -> Path:
    """A run with these overrides, inside this process; returns its directory."""
    runs = cwd / "logs" / "runs"
    before = set(runs.glob("[!.]*"))
    ended = run_here(arguments, cwd)
    assert ended.returncode == 0, ended.stderr
    (path,) = set(runs.glob("[!.]*")) - before
    return path


def only_error(ended: Ended | subprocess.CompletedProcess[str], cwd: Path) -> str:
    """The one line that a refused command prints; asserts that it did nothing else: no output, no file in `cwd`."""
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1, (ended.returncode, ended.stdout, ended.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert list(cwd.iterdir()) == []
    return lines[0].removeprefix("error: ")


def read(name: str, path: Path | str | None = None, split_seed: int = 0) -> Corpus:
    """The corpus of `data=NAME data.path=PATH data.split_seed=…`."""
    return load_corpus(DataConfig(name, None if path is None else str(path), split_seed))


def load_sample() -> Corpus:
    """The debates that ship with the package."""
    return read("sample")


def make_pairs(
    num_debates: int = 2, num_points: int = 2, splits: Iterable[str] = ("train", "val", "test")
) -> list[Pair]:
    """So many debates a split, so many points a stance, each with its counter; all texts distinct."""
    pairs = []
    for split in splits:
        for number in range(num_debates):
            theme, debate = f"theme{number % 2}", f"{split}-debate-{number}"
            for stance in ("con", "pro"):
                for i in range(1, num_points + 1):
                    what = f"{split} debate {number}, {stance} {i}"
                    pairs.append(
                        Pair(split, theme, debate, stance, i, f"The point of {what}.", f"What answers {what}.")
                    )
    return pairs


def argument_files(pair: Pair) -> tuple[Path, Path]:
    """Where the corpus keeps the point and the counter of a pair, below its root."""
    folder = Path(ARGUANA_SPLITS[pair.split], pair.theme, pair.debate, pair.stance)
    stem = f"{pair.stance}{pair.number:02d}"
    return folder / f"{stem}a-point.txt", folder / f"{stem}b-counter.txt"


def write_arguana_tree(root: Path, pairs: Iterable[Pair]) -> Path:
    """Write pairs under `root` in the layout of the ArguAna Counterargs corpus; returns `root`."""
    for pair in pairs:
        for file, text in zip(argument_files(pair), (pair.point, pair.counter), strict=True):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text, encoding="utf-8")
    return root


def zip_directory(directory: Path, archive: Path) -> Path:
    """All files below `directory`, in a zip, their names relative to it; returns the zip."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(directory).as_posix())
    return archive


def write_pairs_csv(
    path: Path,
    pairs: Iterable[Pair],
    columns: Sequence[str] = ("point", "counter", "split", "theme", "debate", "stance"),
    delimiter: str = ",",
) -> Path:
    """Write the named columns of the pairs as a csv table (tsv with delimiter tab); returns `path`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows([getattr(pair, column) for column in columns] for pair in pairs)
    return path


def files_below(directory: Path) -> set[str]:
    """Relative names of all files below `directory`."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def shown_files(heading: str) -> dict[str, str]:
    """The files that a section of docs/extending.md shows in full: name → content."""
    text = (REPOSITORY / "docs" / "extending.md").read_text("utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", section, flags=re.DOTALL))


def install(site: Path, files: dict[str, str]) -> Path:
    """A package in `site` as pip would leave it: its files, and a dist-info with its entry points."""
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content, "utf-8")
    project = tomllib.loads((site / "pyproject.toml").read_text("utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {place}" for name, place in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site
