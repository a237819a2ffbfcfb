"""Output that is closed, that nobody reads, or that cannot show a character ends no run, and hangs none."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from biencoder_ablate.cli import main as cli
from biencoder_ablate.utils.console import OutputClosed, RunLog, progress_bar

TINY = "model=tiny training.freeze_encoder=true training.epochs=1 data.limit=3 model.max_tokens=16"


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which $BA is the program; its exit code is that of the program."""
    program = f'BA() {{ {shlex.quote(sys.executable)} -m biencoder_ablate "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", program],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
    )


@pytest.mark.parametrize("closed", ["2>&-", pytest.param(">&-", marks=pytest.mark.slow), ">&- 2>&-"])
def test_a_closed_stream_ends_no_run(closed, tmp_path):
    """With standard error closed tqdm once raised inside its lock, which the checkpoint's thread then waited for."""
    ended = shell(f"BA {TINY} {closed}", tmp_path)
    assert ended.returncode == 0 and "Traceback" not in ended.stdout + ended.stderr
    (result,) = tmp_path.glob("logs/runs/*/result.json")
    assert '"finished"' in result.read_text("utf-8")


def test_a_reader_that_has_gone_interrupts_a_run_in_silence(tmp_path):
    ended = shell(f"BA {TINY} | head -1", tmp_path)
    assert (ended.returncode, ended.stderr) == (141, "") and len(ended.stdout.splitlines()) == 1
    listed = shell("BA runs", tmp_path)
    assert "interrupted" in listed.stdout and "failed" not in listed.stdout
    gone = shell("BA runs | true", tmp_path)
    assert (gone.returncode, gone.stderr) == (141, "")


def test_what_an_encoding_does_not_have_is_replaced(tmp_path):
    ended = shell(f"BA {TINY}", tmp_path, PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    (log,) = tmp_path.glob("logs/runs/*/train.log")
    assert "…" in log.read_text("utf-8") and "?" in ended.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_stream_of_an_encoding_is_written_to_in_it(encoding, monkeypatch, tmp_path):
    """As above without a process: a log has characters that neither encoding has."""
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding=encoding) as stream:
        monkeypatch.setattr(sys, "argv", ["biencoder-ablate", *TINY.split()])
        monkeypatch.setattr(sys, "stdout", stream)
        with contextlib.chdir(tmp_path), pytest.raises(SystemExit) as ended:
            cli.main()
        shown = written.getvalue().decode(encoding)
    assert ended.value.code == 0
    assert "?" in shown and "done in" in shown


def test_a_log_and_a_bar_need_no_streams(monkeypatch, tmp_path):
    """As in a program without a console."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with progress_bar("encoding", 2, "text", quiet=False) as bar:
        bar.update(1)
        RunLog(tmp_path / "train.log").say("said")
    assert (tmp_path / "train.log").read_text("utf-8").endswith("said\n")


def test_a_pipe_that_is_closed_is_no_failure(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(OutputClosed):
            RunLog(None).say("to nobody")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
