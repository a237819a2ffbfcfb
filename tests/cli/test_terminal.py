"""At a terminal of 80 columns no line is wider and no word is broken; a mistyped word is met with the right one."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.forked import Forked
from support.helpers import run_here, train

from biencoder_ablate.cli.main import COMMANDS
from biencoder_ablate.utils.console import fold

TINY = ["model=tiny", "training.freeze_encoder=true", "training.epochs=1", "data.limit=3", "model.max_tokens=16"]
LONGEST = 120.0
"""Seconds after which a program at the terminal hangs, on a busy machine too."""


def at_terminal(arguments: list[str], cwd: Path, *typed: str) -> str:
    """What the program shows at a terminal of 80 columns, as it is left: bars have gone.

    Each text is typed once the program asks for one. A program that does not end within LONGEST seconds fails the test.
    """
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    process = Forked(["-m", "biencoder_ablate", *arguments], cwd, environment, os.ttyname(theirs))
    shown, answers = b"", list(typed)
    ends = time.monotonic() + LONGEST
    try:
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            assert time.monotonic() < ends, shown.decode(errors="replace")
            if not select.select([ours], [], [], 0.05)[0]:
                continue
            shown += os.read(ours, 65536)
            if answers and shown.endswith(b"> "):
                os.write(ours, answers.pop(0).encode())
    finally:
        process.kill()
        process.process.join()
        os.close(theirs)
        os.close(ours)
    lines = shown.decode().split("\r\n")
    return "\n".join(line.split("\r")[-1] for line in lines)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """A directory with a finished run in logs/."""
    folder = tmp_path_factory.mktemp("terminal")
    train(folder, *TINY, f"cache_dir={folder}/cache", "head=layernorm_relu")
    return folder


def words(text: str) -> list[str]:
    return text.replace(" \\\n", " ").split()


def fits(shown: str) -> bool:
    return max(map(len, shown.splitlines())) <= 80


def test_a_run_and_a_sweep_fit_the_terminal_and_break_no_word(logs):
    again = [*TINY, f"cache_dir={logs}/cache", "head=layernorm_relu", "rerun=true", "logs_dir=other"]
    shown = at_terminal(again, logs)
    assert fits(shown), shown
    (log,) = logs.glob("other/runs/*/train.log")
    said = re.sub(r"^\S+ \S+  ", "", log.read_text("utf-8"), flags=re.MULTILINE)
    times = r"\d+\.\d+"
    assert [re.sub(times, "", word) for word in words(shown)] == [re.sub(times, "", word) for word in words(said)]
    assert 'next: biencoder-ablate retrieve other/latest "an argument"' in shown

    sweep = ["-m", *TINY, f"cache_dir={logs}/cache", "head=none,layernorm_relu", "sweep_name=s"]
    shown = at_terminal([*sweep, "training.head_learning_rate=0.0001,0.0002"], logs)
    assert fits(shown), shown
    assert "4 of 4" in shown and shown.rstrip().endswith("next: biencoder-ablate report s -o report")


def test_lists_and_answers_fit_the_terminal(logs):
    (logs / "logs" / "runs" / "stopped").mkdir(exist_ok=True)
    for arguments in (["runs"], ["retrieve", "latest", "Zoos are cruel to animals.", "-k", "2"], ["help"]):
        shown = at_terminal(arguments, logs)
        assert fits(shown), shown
        assert len(shown) > 200
    listed = at_terminal(["runs"], logs)
    assert "interrupted" in listed
    # The figures of a run stand in one row.
    result = json.loads(next(logs.glob("logs/runs/layernorm_relu_*/result.json")).read_text("utf-8"))
    figures = [f"{result[split]['top1']:.4f}" for split in ("val", "test")]
    assert any(figures == re.findall(r"\d\.\d{4}", line) for line in listed.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_a_word_is_its_help(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    asked = run_here(["help", command], tmp_path)
    assert asked.returncode == 0 and asked.stdout.startswith(f"usage: biencoder-ablate {command}")
    assert fits(asked.stdout), asked.stdout


@pytest.mark.parametrize("end", ["\n", "\x04"], ids=["an empty line", "Ctrl-D"])
def test_queries_are_asked_for_until_an_empty_line_or_the_end_of_the_input(end, logs):
    shown = at_terminal(["retrieve", "latest", "-k", "1"], logs, "Zoos are cruel.\n", end)
    assert shown.count("argument> ") == 2 and shown.count("144 candidates; the head") == 1
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("reprot s -o x", "did you mean report"),
        ("trian head=none", "must be one of audit, benchmark, decide, evaluate, export, report, retrieve, runs"),
        ("help rns", "did you mean runs?"),
        ("report s --metrc mrr", "did you mean --metric?"),
        ("retrieve layernorm_relu_neg0.01_sed0 x", "did you mean layernorm_relu_neg0.01_seed0_"),
        ("retrieve latset x", "did you mean latest?"),
        ("report frist", "did you mean first?"),
    ],
)
def test_a_mistyped_word_is_met_with_the_right_one(typed, hint, logs):
    (logs / "logs" / "sweeps" / "first").mkdir(parents=True, exist_ok=True)
    ended = run_here(typed.split(), logs)
    assert ended.returncode == 1 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and hint in line


@pytest.mark.parametrize("arguments", [["-"], ["--points", "-"], ["caf\udce9"]])
def test_an_argument_that_is_not_utf8_is_refused_in_one_line(arguments, logs, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    ended = run_here(["retrieve", "latest", *arguments], logs)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1 and "not UTF-8" in line


text = st.text(alphabet="ab .:-_/\n", max_size=300)


@given(text, st.integers(20, 90))
def test_folding_keeps_every_word_and_the_width_where_words_allow(content, width):
    folded = fold(content, width)
    assert folded.split() == content.split()
    for line in folded.split("\n"):
        assert len(line) <= width or len(line.split()) == 1
    assert fold(content, None) == content


def test_what_follows_a_label_stays_beside_it_and_a_command_is_continued():
    assert fold("data       one two three", 20) == "data       one two\n           three"
    assert fold("warning: one two three", 16) == "warning: one two\n         three"
    assert fold("next: command one two", 20) == "next: command one \\\n      two"
