"""The source study's logs: small ones by hand, damaged in every way seen, and the two real ones if there; and ours."""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.report_runs import write_study

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "source_study"))

from beside_source import main
from source_log import SPLITS, SourceLogRow, parse_source_log

REAL_LOGS = Path(
    os.environ.get("BIENCODER_SOURCE_LOGS")
    or Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "source-logs"
)


def epoch_lines(epoch: int, train: float, val: float, test: float, num_steps: int = 3) -> list[str]:
    steps = [f"当前第{10 * step}个mini batch，当前loss为{2.5 - step / 10}" for step in range(num_steps)]
    return [
        f"开始第{epoch}个epoch的训练",
        *steps,
        "开始获取负样本的下标",
        f"训练集top1 accuracy为{train}",
        f"验证集top1 accuracy为{val}",
        f"测试集top1 accuracy为{test}",
    ]


LINES = ["开始初始化获取负样本的下标", *epoch_lines(0, 0.25, 0.5, 0.375), *epoch_lines(1, 0.5, 0.625, 0.75)]
ROWS = (SourceLogRow(0, 0.25, 0.5, 0.375, num_steps=3), SourceLogRow(1, 0.5, 0.625, 0.75, num_steps=3))


def text_of(lines: list[str], end: str = "\n") -> bytes:
    return "".join(line + end for line in lines).encode()


def parse(tmp_path: Path, content: bytes):
    path = tmp_path / "old.txt"
    path.write_bytes(content)
    return parse_source_log(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_sound_log_is_read_whole(tmp_path, end):
    log = parse(tmp_path, text_of(LINES, end))
    assert log.rows == ROWS
    assert log.num_steps == {0: 3, 1: 3}
    assert (log.num_damaged_lines, log.num_stray_lines, log.num_restarts) == (0, 0, 0)
    assert all(row.complete for row in log.rows)


@pytest.mark.parametrize("num_bytes_lost", range(0, 7))
def test_the_head_of_the_file_may_miss_its_first_characters(tmp_path, num_bytes_lost):
    """Whole characters or parts of one: every cut within 开始 still opens epoch 0."""
    log = parse(tmp_path, text_of(LINES[1:])[num_bytes_lost:])
    assert log.rows == ROWS
    assert log.num_damaged_lines == 0


@pytest.mark.parametrize("index", range(len(LINES)))
def test_any_line_may_miss_its_first_character(tmp_path, index):
    lines = [line[1:] if i == index else line for i, line in enumerate(LINES)]
    assert parse(tmp_path, text_of(lines)).rows == ROWS


def test_a_byte_order_mark_and_blank_lines_are_no_damage(tmp_path):
    log = parse(tmp_path, b"\xef\xbb\xbf" + text_of(LINES).replace(b"\n", b"\n\n"))
    assert (log.rows, log.num_damaged_lines) == (ROWS, 0)


def test_bad_bytes_damage_their_own_line_only(tmp_path):
    content = text_of(LINES)
    val, step = "验证集top1 accuracy为0.5\n".encode(), "当前第10个mini batch".encode()
    content = content.replace(val, b"\xe9\xaa" + val[6:].replace(b"0.5", b"0\xff5"), 1)
    content = content.replace(step, "当前第".encode() + b"\xfe\xff", 1)
    log = parse(tmp_path, content)
    assert log.rows == (SourceLogRow(0, 0.25, None, 0.375, num_steps=2), ROWS[1])
    assert log.num_damaged_lines == 2
    assert not log.rows[0].complete


def test_a_figure_that_may_have_lost_digits_is_not_read(tmp_path):
    content = text_of(LINES)
    log = parse(tmp_path, content[: content.rindex(b"75")])  # the last line reads …为0.
    assert log.rows[1] == SourceLogRow(1, 0.5, 0.625, None, num_steps=3)
    assert log.num_damaged_lines == 1
    log = parse(tmp_path, content[:-2])  # …为0.7, which would pass for a figure
    assert log.rows[1].test is None
    assert log.num_damaged_lines == 1


def test_a_log_cut_after_an_opening_keeps_the_epoch_without_figures(tmp_path):
    log = parse(tmp_path, text_of([*LINES, "开始第2个epoch的训练"]).rstrip(b"\n"))
    assert log.rows == (*ROWS, SourceLogRow(2))
    assert log.num_damaged_lines == 0


def test_figures_whose_epoch_is_unknown_go_to_no_epoch(tmp_path):
    """A damaged opening must not hand epoch 1's figures to epoch 0."""
    lines = [line.replace("开始第1个", "开始第?个") for line in LINES]
    log = parse(tmp_path, text_of(lines))
    assert log.rows == ROWS[:1]
    assert (log.num_damaged_lines, log.num_stray_lines) == (1, 6)

    lines = [line for line in LINES if not line.startswith("开始第1个")]  # lost without a trace
    log = parse(tmp_path, text_of(lines))
    assert log.rows == ROWS[:1]
    assert (log.num_damaged_lines, log.num_stray_lines) == (0, 6)

    lines = [line for line in lines if line not in LINES[6:9]]  # epoch 0's figures too: its steps start anew
    log = parse(tmp_path, text_of(lines))
    assert log.rows == (SourceLogRow(0, num_steps=3),)
    assert log.num_stray_lines == 6


def test_figures_outside_0_to_1_are_damage(tmp_path):
    log = parse(tmp_path, text_of([line.replace("0.375", "375") for line in LINES]))
    assert log.rows[0].test is None
    assert log.num_damaged_lines == 1


def test_of_epochs_logged_twice_the_later_is_kept(tmp_path):
    again = epoch_lines(1, 0.125, 0.25, 0.5, num_steps=2)
    log = parse(tmp_path, text_of([*LINES, *again]))
    assert log.rows == (ROWS[0], SourceLogRow(1, 0.125, 0.25, 0.5, num_steps=2))
    assert log.num_restarts == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.txt: there is no such source log"):
        parse_source_log(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="cannot be read"):
        parse_source_log(tmp_path)


@pytest.mark.parametrize("content", [b"", b"epoch,train,val,test\n0,0.1,0.2,0.3\n", bytes(range(256))])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="no epoch can be read"):
        parse(tmp_path, content)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), num_hits=st.integers(1, 12))
@example(seed=768, num_hits=10)  # all three figures of an epoch and the opening of the next
def test_whatever_bytes_are_hit_no_wrong_figure_is_read(tmp_path_factory, seed, num_hits):
    """Bytes overwritten by 0xFF anywhere: every figure read is the true one, and every loss is counted."""
    draw = random.Random(seed)
    content = bytearray(text_of(LINES))
    for _ in range(num_hits):
        position = draw.randrange(content.index(b"\n"), len(content))
        if content[position] != ord("\n"):
            content[position] = 0xFF
    try:
        log = parse(tmp_path_factory.mktemp("logs"), bytes(content))
    except ValueError:
        return
    for row in log.rows:
        for split in SPLITS:
            assert getattr(row, split) in (None, getattr(ROWS[row.epoch], split))
    if not all(row.complete for row in log.rows) or len(log.rows) < 2:
        assert log.num_damaged_lines > 0


@pytest.mark.skipif(not REAL_LOGS.is_dir(), reason="the source study's logs are not here")
@pytest.mark.parametrize(
    ("name", "figures"),
    [
        (
            "with_layernorm_relu_hard_negatives_0.01_logs.txt",
            {0: (0.2235, 0.3827, 0.4318), 10: (0.6706, 0.7037, 0.6250), 14: (0.7059, 0.8025, 0.6136)},
        ),
        (
            "wihtout_layernorm_relu_hard_negatives_logs.txt",
            {0: (0.2667, 0.2346, 0.3068), 10: (0.6118, 0.7654, 0.5909), 14: (0.6667, 0.7654, 0.6023)},
        ),
    ],
)
def test_the_real_logs_give_the_figures_quoted_from_them(name, figures):
    log = parse_source_log(REAL_LOGS / name)
    assert [row.epoch for row in log.rows] == list(range(200))
    assert set(log.num_steps.values()) == {51}
    assert (log.num_damaged_lines, log.num_stray_lines, log.num_restarts) == (0, 0, 0)
    for epoch, (train, val, test) in figures.items():
        row = log.rows[epoch]
        assert (row.train, row.val, row.test) == pytest.approx((train, val, test), abs=5e-5)


# --- beside ours ---


@pytest.fixture
def log(tmp_path) -> Path:
    lines = [*epoch_lines(0, 0.25, 0.5, 0.375), "damaged", *epoch_lines(1, 0.5, 0.4, 0.75)]
    (tmp_path / "old.txt").write_bytes(text_of(lines))
    return tmp_path / "old.txt"


def test_logs_alone_are_shown_and_the_want_of_ours_is_said(tmp_path, log, capsys):
    write_study(tmp_path / "runs", {"none": 0.4}, seeds=(0,))
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "-o", str(out), "--source-log", f"old={log}"]) == 0
    assert "evaluation.source=true" in capsys.readouterr().out
    rows = list(csv.reader((out / "source.csv").open(encoding="utf-8")))
    assert rows[1:] == [["old (log)", *["0", "0.25", "0.5", "0.375", "1", "0.5", "0.4", "0.75", "1", "0", "0"]]]
    assert (out / "source.svg").is_file() and (out / "source.png").is_file()


def test_our_source_figures_stand_beside_the_logs_and_no_others_do(tmp_path, log):
    for path in write_study(tmp_path / "runs", {"none": 0.4, "relu": 0.5}, seeds=range(2)):
        records = [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]
        for record in records:
            record |= {f"source/{split}/top1": 0.875 for split in ("train", "val", "test")}
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
        result = json.loads((path / "result.json").read_text("utf-8"))
        (path / "result.json").write_text(
            json.dumps({**result, "selected": records[-1], "final": records[-1]}), "utf-8"
        )
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "-o", str(out), "--source-log", f"old={log}"]) == 0
    rows = list(csv.reader((out / "source.csv").open(encoding="utf-8")))
    assert [row[0] for row in rows] == ["what", "old (log)", "none (ours)", "relu (ours)"]
    assert rows[2][1:9] == ["3.0", "0.875", "0.875", "0.875", "3.0", "0.875", "0.875", "0.875"]
    assert (out / "source.svg").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["old.txt"], "must be NAME=FILE"),
        (["a=gone.txt"], "there is no such source log"),
        (["a={log}", "a={log}"], "two logs called a"),
    ],
)
def test_a_log_that_will_not_do_ends_in_one_message(tmp_path, log, capsys, given, message):
    write_study(tmp_path / "runs", {"none": 0.4}, seeds=(0,))
    options = [part for item in given for part in ("--source-log", item.format(log=log))]
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_package_knows_nothing_of_it():
    from support.helpers import PACKAGE

    for path in PACKAGE.rglob("*.py"):
        assert "source_log" not in path.read_text("utf-8"), path
