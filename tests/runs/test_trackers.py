"""Trackers: what they are given, read back with their own readers, after a kill in mid-epoch; and none stops a run."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
from support.helpers import REPOSITORY, only_error, run_here, run_program, start

from biencoder_ablate.config.registry import make_trackers
from biencoder_ablate.config.schema import ConfigError
from biencoder_ablate.runs.trackers import TrackedRun, Tracker, Trackers, _kept_id

LIBRARIES = [name for name in ("tensorboard", "mlflow", "wandb") if find_spec(name) is not None]
SETTINGS = (
    *("recipe=study", "model=tiny", "model.max_tokens=32", "training.batch_size=11"),
    *("training.freeze_encoder=true", "training.epochs=3"),
)
RATES = ("training.warmup_ratio=0.5", "training.head_learning_rate=0.0021")
STEPS_PER_EPOCH = 14  # 144 pairs of the sample in batches of 11, the last of 1
SIZES = [11] * 13 + [1]

KILLED_AT = 20
KILLED = f"""
import os, signal, time
from biencoder_ablate.cli import main as cli
from biencoder_ablate.training import loop

train_step, steps = loop.train_step, []

def step(*arguments):
    steps.append(len(steps))
    if len(steps) == {KILLED_AT}:
        time.sleep(2)  # wandb's own process writes twice a second
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(*arguments)

loop.train_step = step
cli.main()
"""

FAILING = """
from biencoder_ablate.runs.trackers import Tracker

def fail(*_):
    raise OSError("the server is\\ngone")

class Start(Tracker):
    start = fail

class Epoch(Tracker):
    epoch = fail

class Finish(Tracker):
    finish = fail
"""


def block(language: str) -> str:
    """The one block in this language of the section on trackers of docs/extending.md."""
    section = (
        (REPOSITORY / "docs" / "extending.md").read_text("utf-8").partition("## A tracker")[2].partition("\n## ")[0]
    )
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return found


def install(folder: Path, module: str, source: str, entry_points: str, choices: dict[str, str]) -> list[str]:
    """Lay an installed package into `folder`, and YAMLs beside it; returns the arguments that find those."""
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[biencoder_ablate.trackers]\n{entry_points}\n")
    (folder / "conf" / "tracker").mkdir(parents=True)
    for name, text in choices.items():
        (folder / "conf" / "tracker" / f"{name}.yaml").write_text(text)
    return ["--config-dir", str(folder / "conf")]


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> tuple[Path, list[str]]:
    """The tracker of docs/extending.md, installed where PYTHONPATH finds it; its folder, and what to pass."""
    folder = tmp_path_factory.mktemp("package")
    entry_point = block("toml").rpartition("]\n")[2].replace('"', "")
    return folder, install(folder, "my_trackers", block("python"), entry_point, {"jsonlines": block("yaml")})


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, package) -> Path:
    """The directory of a run with every tracker at once that was killed in its second epoch, and went on."""
    cwd = tmp_path_factory.mktemp("resumed")
    folder, arguments = package
    arguments = [*arguments, *SETTINGS, *RATES, f"tracker=[{','.join(['jsonlines', *LIBRARIES])}]"]
    environment = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "", "WANDB_SILENT": "true"}
    with patch.dict(os.environ, PYTHONPATH=str(folder)):
        killed = start(["-c", KILLED, *arguments], cwd, **environment)
        said = killed.communicate(timeout=300)
        assert killed.returncode == -9, said
        ended = run_program(arguments, cwd, **environment)
    assert ended.returncode == 0, ended.stderr
    assert "going on after epoch 0" in ended.stdout
    assert "warning: tracker" not in ended.stdout
    [path] = [path for path in (cwd / "logs" / "runs").iterdir() if not path.name.startswith(".")]
    return path


Logged = dict[str, list[tuple[int, float]]]


def read_json_lines(run: Path) -> Logged:
    logged = defaultdict(list)
    for line in (run / "figures.jsonl").read_text().splitlines()[1:]:
        row = json.loads(line)
        for key, value in row.items():
            logged[key].append((row["step"], value))
    return logged


def read_tensorboard(run: Path) -> Logged:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False
    ).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_mlflow(run: Path) -> Logged:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("biencoder-ablate")
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (run.name, "FINISHED")
    assert found.data.params["training.epochs"] == "3"
    histories = {key: client.get_metric_history(found.info.run_id, key) for key in found.data.metrics}
    return {
        key.replace("_at_", "@"): [(metric.step, metric.value) for metric in metrics]
        for key, metrics in histories.items()
    }


def read_wandb(run: Path) -> Logged:
    """From the files that `wandb sync` would send: records in LevelDB's log format after a header of 7 bytes."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    logged, identifiers = defaultdict(list), set()
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one directory of each process"
    for file in files:
        data, at, parts = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind not in (1, 4):  # whole, or the last part of one
                continue
            record = Record.FromString(parts)
            parts = b""
            if record.run.run_id:
                identifiers.add(record.run.run_id)
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for key, value in row.items():
                logged[key].append((row["_step"], value))
            for item in record.summary.update:
                key = item.key or item.nested_key[0]
                if key.startswith("selected/"):
                    logged[key].append((3 * STEPS_PER_EPOCH, json.loads(item.value_json)))
    assert len(identifiers) == 1, "both go to one run"
    return logged


@pytest.mark.parametrize("read", [read_json_lines, read_tensorboard, read_mlflow, read_wandb])
def test_a_run_killed_in_mid_epoch_logs_every_step_and_epoch_once(resumed, read):
    logged = read(resumed)
    records = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [-1, 0, 1, 2]

    losses = [value for _, value in logged["step/loss"]]
    for key in ("step/loss", "step/loss/triplet", "step/rate/head"):
        assert [step for step, _ in logged[key]] == list(range(1, 3 * STEPS_PER_EPOCH + 1))
    for epoch in range(3):
        of_epoch = losses[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]
        mean = sum(loss * size for loss, size in zip(of_epoch, SIZES, strict=True)) / 144
        assert mean == pytest.approx(records[epoch + 1]["loss"], rel=1e-5)

    # 21 steps of warm-up to 0.0021: the rate of step s is s·0.0001.
    rates = [min(step, 21) * 0.0001 for step in range(1, 3 * STEPS_PER_EPOCH + 1)]
    assert [value for _, value in logged["step/rate/head"]] == pytest.approx(rates)
    assert "step/rate/encoder" not in logged, "it is frozen"

    for key in ("epoch", "val/top1", "test/recall@10"):
        assert [step for step, _ in logged[key]] == [0, 14, 28, 42]
        assert [value for _, value in logged[key]] == pytest.approx([record[key] for record in records])
    selected = json.loads((resumed / "result.json").read_text())["selected"]
    assert logged["selected/val/top1"] == [(42, pytest.approx(selected["val/top1"]))]


def test_a_failing_tracker_warns_once_and_the_run_ends_as_without_it(tmp_path, package):
    folder, _ = package
    entry_points = "at_start = failing:Start\nat_epoch = failing:Epoch\nat_finish = failing:Finish"
    names = ("at_start", "at_epoch", "at_finish", "jsonlines")
    choices = {name: f"{name}: {{}}\n" for name in names}
    arguments = install(tmp_path / "failing", "failing", FAILING, entry_points, choices)
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path / "failing"), str(folder)])):
        ended = run_program([*arguments, *SETTINGS, f"tracker=[{','.join(names)}]", "logs_dir=with"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    warnings = [line for line in ended.stdout.splitlines() if line.startswith("warning: tracker")]
    assert warnings == [
        f"warning: tracker={name} failed and gets nothing more of this run (OSError: the server is gone)"
        for name in names[:3]
    ]
    assert run_here([*SETTINGS, "logs_dir=without"], tmp_path).returncode == 0
    left, right = ([*(tmp_path / place / "runs").glob("[!.]*")] for place in ("with", "without"))
    assert [path.name for path in left] == [path.name for path in right], "a tracker names no run"
    for name in ("top1.csv", "rankings.jsonl"):
        assert (left[0] / name).read_bytes() == (right[0] / name).read_bytes()
    steps = [step for step, _ in read_json_lines(left[0])["step/loss"]]
    assert steps == list(range(1, 3 * STEPS_PER_EPOCH + 1)), "one that does not fail goes on"


class Notes(Tracker):
    """Notes each call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def epoch(self, step, record, steps):
        self.calls.append(("epoch", step, dict(record), list(steps)))

    def finish(self, step, result):
        self.calls.append(("finish", step, result))


def test_what_a_tracker_is_given_of_an_epoch_and_of_the_end(tmp_path):
    notes = Notes()
    trackers = Trackers({"notes": notes})
    trackers.start(TrackedRun("name", tmp_path, {}, 0, False), print)
    assert notes.calls == []
    trackers.epoch(1, {"epoch": 0, "val/top1": 0.5, "clean": float("nan"), "none": None}, [(1, {"step/loss": 2.0})])
    trackers.epoch(2, {"epoch": 1}, [(2, {"step/loss": 1.0})])
    trackers.finish(None)
    trackers.finish({"best_epoch": 0, "selected": {}})
    assert notes.calls == [
        ("epoch", 1, {"epoch": 0.0, "val/top1": 0.5}, [(1, {"step/loss": 2.0})]),
        ("epoch", 2, {"epoch": 1.0}, [(2, {"step/loss": 1.0})]),
        ("finish", 2, None),
    ]


def test_a_run_that_fails_before_it_starts_its_trackers_ends_none():
    notes = Notes()
    Trackers({"notes": notes}).finish(None)
    assert notes.calls == []


def test_ctrl_c_is_no_failure_of_a_tracker(tmp_path):
    class Interrupted(Tracker):
        def start(self, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers({"one": Interrupted()}).start(TrackedRun("name", tmp_path, {}, 0, False), print)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracker=nope"], "tracker=nope: must be one of mlflow, none, tensorboard, wandb"),
        (["tracker=[none,nope]"], "tracker=nope: must be one of mlflow, none, tensorboard, wandb"),
        (
            ["tracker=tensorboard", "tracker.tensorboard.folder=x"],
            "tracker.tensorboard.folder=x: there is no such option; must be tracker.tensorboard.directory",
        ),
        (
            ["tracker=tensorboard", "tracker.tensorboard.directory=3"],
            "tracker.tensorboard.directory=3: must be null or",
        ),
        (["tracker=wandb", "tracker.wandb.mode=sometimes"], "tracker.wandb.mode=sometimes: must be null, online or"),
        (["tracker.mlflow.experiment=x"], "tracker.mlflow.experiment=x: that tracker is not chosen; choose it with"),
        (["+tracker.mlflow=3"], "+tracker.mlflow=3: there is no such option; must be tracker.mlflow.tracking_uri"),
    ],
)
def test_a_mistake_is_refused_in_one_line_before_anything_starts(tmp_path, overrides, message):
    with patch("importlib.util.find_spec"):  # as if every extra were there
        assert only_error(run_here([*SETTINGS, *overrides], tmp_path), tmp_path).startswith(message)


@pytest.mark.parametrize("arguments", [(), ("-m", "seed=0,1"), ("plan=true",)])
@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_extra_is_named_with_what_to_install_before_anything_starts(tmp_path, name, arguments):
    with patch("importlib.util.find_spec", return_value=None):
        error = only_error(run_here([*arguments, *SETTINGS, f"tracker={name}"], tmp_path), tmp_path)
    assert error.startswith(f"tracker={name}: {name}")
    assert error.endswith(f"needs the extra {name}: pip install 'biencoder-ablate[{name}]'")


def test_choosing_a_tracker_imports_no_library():
    loaded = set(sys.modules)
    for name in LIBRARIES:
        make_trackers({name: {}})
    assert {module.partition(".")[0] for module in set(sys.modules) - loaded} & set(LIBRARIES) == set()


def test_a_tracker_s_options_are_a_mapping():
    with pytest.raises(ConfigError, match=r"tracker\.tensorboard=3: must be a mapping"):
        make_trackers({"tensorboard": 3})


def test_rerun_leaves_no_figure_of_the_old_run_in_a_directory_of_one_s_own(tmp_path):
    pytest.importorskip("tensorboard")
    arguments = [*SETTINGS, "training.epochs=1", "tracker=tensorboard", "tracker.tensorboard.directory=boards"]
    for again in ((), ("rerun=true",)):
        ended = run_here([*arguments, *again], tmp_path)
        assert ended.returncode == 0, ended.stderr
    [board] = (tmp_path / "boards").iterdir()
    [run] = (tmp_path / "logs" / "runs").glob("[!.]*")
    assert board.name == run.name
    assert not (run / "tensorboard").exists()
    (run / "tensorboard").symlink_to(board)
    assert [step for step, _ in read_tensorboard(run)["val/top1"]] == [0, 14]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"0123456789abcdef0123456789abcdef\n", "0123456789abcdef0123456789abcdef"),
        (b"", None),
        (b"\xff\xfe\x00", None),
        (b"../../elsewhere", None),
        (b"0" * 10_000_000, None),
    ],
    ids=["whole", "empty", "bytes", "a path", "huge"],
)
def test_a_damaged_file_of_the_trackers_run_names_none(content, kept, tmp_path):
    path = tmp_path / "mlflow_run_id"
    assert _kept_id(path) is None
    path.write_bytes(content)
    assert _kept_id(path) == kept
