"""Inputs that would take all memory or never end: each is refused in one line, before it is read."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from support.helpers import only_error, run_here

MEGABYTE = b"\0" * 1_000_000


def write_zip(path: Path, small: dict[str, str], large: str, num_megabytes: int) -> Path:
    """A zip of texts, and of one file of so many megabytes of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in small.items():
            archive.writestr(name, text)
        with archive.open(large, "w") as file:
            for _ in range(num_megabytes):
                file.write(MEGABYTE)
    return path


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.parametrize("name", ["beir", "arguana"])
def test_a_zip_of_zeros_is_refused_unread(name, tmp_path, empty):
    row = json.dumps({"_id": "a", "text": "A text."})
    small = {"corpus.jsonl": row, "qrels/test.tsv": "a\ta\t1\n"}
    large = {"beir": "queries.jsonl", "arguana": "training/t/d/pro/pro01a-point.txt"}[name]
    path = write_zip(tmp_path / "bomb.zip", small, large, 30)
    error = only_error(run_here([f"data={name}", f"data.path={path}", "model=tiny"], empty), empty)
    assert error.startswith(f"data.path={path}: {large} is 30 MB, over 100 times its size in the zip")


def test_an_argument_is_no_book(tmp_path, empty):
    for split in ("training", "validation", "test"):
        folder = tmp_path / "corpus" / split / "theme" / "debate" / "pro"
        folder.mkdir(parents=True)
        (folder / "pro01a-point.txt").write_text("x" * 1_000_001)
        (folder / "pro01b-counter.txt").write_text("A counter.")
    error = only_error(run_here(["data=arguana", f"data.path={tmp_path / 'corpus'}", "model=tiny"], empty), empty)
    assert "pro01a-point.txt has 1.0 MB; an argument has at most 1 MB" in error


@pytest.mark.parametrize("name", ["beir.zip", "arguana.zip", "pairs.csv", "hub.csv"])
def test_a_pipe_is_not_waited_for(name, tmp_path, empty):
    os.mkfifo(tmp_path / name)
    data = [f"data={name.partition('.')[0]}", f"data.path={tmp_path / name}"]
    assert "neither a regular file nor a directory" in only_error(run_here([*data, "model=tiny"], empty), empty)


def test_a_pipe_among_the_arguments_is_not_waited_for(tmp_path, empty):
    tree = tmp_path / "corpus"
    for split in ("training", "validation", "test"):
        folder = tree / split / "theme" / "debate" / "pro"
        folder.mkdir(parents=True)
        os.mkfifo(folder / "pro01a-point.txt")
        (folder / "pro01b-counter.txt").write_text("A counter.")
    error = only_error(run_here(["data=arguana", f"data.path={tree}", "model=tiny"], empty), empty)
    assert "pro01a-point.txt cannot be read (no regular file)" in error


@pytest.mark.parametrize("name", ["scores.csv", "qrels"])
def test_a_pipe_from_another_program_is_not_waited_for(name, tmp_path, empty):
    (tmp_path / "runs").mkdir()
    for file, line in (("qrels", "q 0 d 1"), ("runs/one.run", "q Q0 d 1 1.0 a")):
        (tmp_path / file).write_text(f"{line}\n")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    source = [tmp_path / name] if name.endswith(".csv") else [tmp_path / "runs", "--qrels", tmp_path / "qrels"]
    error = only_error(run_here(["report", "--from", *map(str, source), "-o", "out"], empty), empty)
    assert "no regular file" in error


def test_a_device_is_no_table(finished_run, empty):
    for option in ("--points", "--candidates"):
        more = ["Zoos"] if option == "--candidates" else []
        error = only_error(run_here(["retrieve", str(finished_run.path), *more, option, "/dev/zero"], empty), empty)
        assert error.startswith(f"{option} /dev/zero: cannot be read (no regular file)")


@pytest.mark.parametrize("key", ["model.retrieval_dim", "head.hidden", "negatives.per_pair", "training.batch_size"])
def test_what_no_memory_holds_is_refused(key, empty):
    override = f"{key}=1000000000"
    error = only_error(run_here(["model=tiny", "head=mlp", override], empty), empty)
    assert error.startswith(f"{override}: must be ") and "at most" in error
