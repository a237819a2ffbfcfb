"""A sweep skips what is finished, keeps failures in their job, and ends with the table of all its runs."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.helpers import run_here, run_program
from support.runs import finished_result

from biencoder_ablate.cli.launchers import take_first_free
from biencoder_ablate.cli.sweep import sweep_directory
from biencoder_ablate.cli.sweep_table import sweep_text, sweep_warnings, write_table
from biencoder_ablate.runs import status as run_states
from biencoder_ablate.runs.__main__ import main as list_runs
from biencoder_ablate.runs.__main__ import prune
from biencoder_ablate.runs.directory import RunDirectory, holder, locked
from biencoder_ablate.runs.records import write_metrics
from biencoder_ablate.runs.status import RunStatus, SweepDirectory, objective, run_status
from biencoder_ablate.utils.console import RunLog, format_number, show_seconds, text_table
from biencoder_ablate.utils.files import write_json

SMALL = ["training.freeze_encoder=true", "training.epochs=2", "model.max_tokens=16", "data.limit=3"]


def sweep(folder: Path, *overrides: str, run=run_here):
    return run(["-m", *SMALL, "sweep_name=s", f"cache_dir={folder}/cache", *overrides], cwd=folder)


def states(folder: Path):
    return SweepDirectory(folder / "logs" / "sweeps" / "s").statuses()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def with_failure(folder):
    """Three runs, one of which diverges; the shared folder keeps them for the tests below."""
    return sweep(folder, "training.head_learning_rate=0.001,1e30,0.002")


def test_a_failing_job_stops_no_other_and_the_exit_code_is_1(with_failure, folder):
    assert with_failure.returncode == 1
    assert [state.status for state in states(folder)] == ["finished", "failed", "finished"]
    assert "Traceback" not in with_failure.stderr


def test_why_a_job_failed_is_in_its_result_its_log_and_the_table(with_failure, folder):
    failed = states(folder)[1]
    assert "finite" in failed.result["error"]
    assert "Traceback" in failed.directory.log.read_text()
    assert f"failed: training.head_learning_rate=1e+30: {failed.result['error']}" in with_failure.stdout


def test_the_sweep_directory_holds_only_the_list_and_the_table(with_failure, folder):
    assert sorted(path.name for path in (folder / "logs" / "sweeps" / "s").iterdir()) == ["runs.json", "table.csv"]
    table = (folder / "logs" / "sweeps" / "s" / "table.csv").read_text().splitlines()
    assert table[0].startswith("run,status,best epoch,val,test") and len(table) == 4
    listed = json.loads((folder / "logs" / "sweeps" / "s" / "runs.json").read_text())
    for job in listed["jobs"]:
        assert (folder / "logs" / "sweeps" / "s" / job["directory"]).is_dir()


def test_the_last_lines_are_means_beside_what_needs_no_training_and_what_to_type_next(with_failure):
    after = with_failure.stdout.partition("top-1, mean")[2].splitlines()
    assert [line.split("  ")[0] for line in after[1:7]] == [
        "training.head_learning_rate=0.001",
        "training.head_learning_rate=0.002",
        "pretrained encoder",
        "BM25",
        "TF-IDF",
        "chance",
    ]
    assert after[7] == "choose by val; test is for the figure of what was chosen"
    assert after[-1] == "next: biencoder-ablate report s -o report"
    assert with_failure.stdout.count("next: ") == 1


def test_a_run_of_a_sweep_is_one_line_with_its_figures_and_the_time_left(with_failure, folder):
    shown = re.findall(r"^\d of 3 .*$", with_failure.stdout, re.MULTILINE)
    first, last = states(folder)[0].result, states(folder)[2].result
    assert len(shown) == 2, "the failed one is an error"
    for line, number, rate, result in zip(shown, (1, 3), ("0.001", "0.002"), (first, last), strict=True):
        figures = [f"{result[split]['top1_clean']:.4f}" for split in ("val", "test")]
        assert line.startswith(f"{number} of 3  training.head_learning_rate={rate} ")
        assert re.findall(r"(?:val|test) ([\d.]+)", line) == figures
    assert shown[0].endswith(" left") and not shown[1].endswith(" left")
    assert with_failure.stderr.startswith("error: 2 of 3  training.head_learning_rate=1e+30: ")
    assert "not all finite" in with_failure.stderr
    assert not re.search(r"selected epoch \d", with_failure.stdout), "that is in the run's train.log"
    assert re.search(r"selected epoch \d", states(folder)[0].directory.log.read_text("utf-8"))


def test_what_too_few_seeds_cannot_decide_is_said_beforehand(with_failure, folder):
    """p is at least 2/2^S, Holm multiplies it by the 3 pairs of three rates, or 3 effects and 6 pairs of four heads."""
    few = "note: 1 seed cannot decide 3 tests ("
    assert few in with_failure.stdout.partition("1 of 3")[0]
    heads = ["head=none,layernorm,relu,layernorm_relu", "sweep_name=h", "plan=true"]
    five = sweep(folder, *heads, "seed=range(5)").stdout.splitlines()
    assert [line for line in five if line.startswith("note: ")] == [
        "note: 5 seeds cannot decide 3 tests (LayerNorm, ReLU, and their interaction): 7 can",
        "note: 5 seeds cannot decide 6 tests (Every pair of heads): 8 can",
    ]
    assert "cannot decide" not in sweep(folder, *heads, "seed=range(8)").stdout


def test_warnings_of_a_sweep_are_said_once_with_how_many_runs_have_them(tmp_path):
    runs = []
    logs = (
        "warning: the head says nothing of 57% of val pairs\n",
        "warning: the head says nothing of 100% of val pairs\nwarning: model4 moved 0.5\n",
        "warning: top-1 is below BM25\ndata       warning: 3 of 9 texts\nfinetuned  warning: other corpus\n",
    )
    for number, lines in enumerate(logs):
        run = RunDirectory(tmp_path / str(number))
        run.path.mkdir()
        log = RunLog(run.log, quiet=True)
        log.note("biencoder-ablate 0: x\nwarning: of an earlier attempt")
        log.note(f"biencoder-ablate 0: x\n{lines}")
        runs.append(RunStatus(run, "finished"))
    assert sweep_warnings(runs) == [
        "warning: in 2 of 3 runs: the head says nothing of 57 to 100% of val pairs",
        "warning: in 1 of 3 runs: model4 moved 0.5",
        "warning: in 1 of 3 runs: other corpus",
    ]


def test_plan_says_what_would_run_and_runs_nothing(with_failure, folder):
    before = sorted(folder.rglob("*"))
    planned = sweep(folder, "training.head_learning_rate=0.001,1e30,0.002,0.003", "plan=true")
    assert planned.returncode == 0
    assert "2 finished, 2 to run" in planned.stdout
    assert "failed, tried again" in planned.stdout and "  new  " in planned.stdout
    assert "one after another" in planned.stdout and "MB" in planned.stdout
    assert sorted(folder.rglob("*")) == before


def test_adding_a_value_trains_only_what_is_new(with_failure, folder):
    first = {state.name: state.directory.result.stat().st_mtime_ns for state in states(folder)}
    again = sweep(folder, "training.head_learning_rate=0.001,0.003")
    assert again.returncode == 0  # the failed run is listed under this sweep_name, but was not asked for
    assert "2 runs, 1 finished, 1 to run" in again.stdout
    kept = {state.name: state.directory.result.stat().st_mtime_ns for state in states(folder)}
    assert len(kept) == 4
    assert all(kept[name] == time for name, time in first.items())


def test_runs_are_listed_with_status_and_pruned_on_request(with_failure, folder, capsys):
    assert list_runs([str(folder / "logs")]) == 0
    shown = capsys.readouterr().out
    assert shown.count(" finished ") >= 2 and " failed " in shown and "s: " in shown
    assert list_runs([str(folder / "logs"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["status"] for run in listed].count("failed") == 1
    assert {(run["data"], run["model"], run["epochs"]) for run in listed if run["status"] == "finished"} == {
        ("sample", "all-MiniLM-L6-v2", 2)
    }
    failed = states(folder)[1].directory.path
    assert list_runs([str(folder / "logs"), "--prune", "failed"]) == 0
    assert "would delete 1 run," in capsys.readouterr().out and failed.exists()
    assert list_runs([str(folder / "logs"), "--prune", "failed", "--yes"]) == 0
    assert "deleted 1 run," in capsys.readouterr().out and not failed.exists()


def test_a_directory_without_runs_is_one_message(tmp_path, capsys):
    assert list_runs([str(tmp_path)]) == 1
    assert "no runs here" in capsys.readouterr().err


@pytest.mark.slow
def test_joblib_workers_run_a_sweep_in_parallel(folder, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = sweep(
        tmp_path,
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "training.head_learning_rate=0.001,1e30,0.002",
        run=run_program,
    )
    assert done.returncode == 1
    assert [state.status for state in states(tmp_path)] == ["finished", "failed", "finished"]


@pytest.mark.slow
def test_a_worker_that_is_killed_takes_no_other_run_with_it(tmp_path):
    """joblib gives all its jobs up when one worker dies, as for want of memory; the sweep goes on with what is left."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "head=none,layernorm,relu")
    command = ["-m", "biencoder_ablate", "-m", *SMALL, "training.epochs=40", "sweep_name=s", *parallel]
    process = subprocess.Popen(
        [sys.executable, *command, f"cache_dir={tmp_path}/cache"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline, started = time.monotonic() + 120, []
    while not started and time.monotonic() < deadline:
        time.sleep(0.02)
        started = [state for state in states(tmp_path) if state.status == "running" and state.epochs_done]
    told = started[0].directory.path.with_name(f".{started[0].name}.holder")
    os.kill(int(told.read_text().split()[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "error: the launcher stopped: TerminatedWorkerError" in err and "Traceback" not in err
    assert "runs that have not ended" in out
    assert [state.status for state in states(tmp_path)] == ["finished"] * 3
    assert "going on after epoch" in started[0].directory.log.read_text()


def test_the_table_says_why_a_run_has_not_finished(tmp_path):
    sweep = SweepDirectory(tmp_path / "sweeps" / "s")
    for name in ("cut", "gone"):
        jobs = {"jobs": [{"overrides": [f"head={name}"], "name": name, "directory": f"../../runs/{name}"}]}
        if name == "cut":
            (tmp_path / "runs" / name).mkdir(parents=True)
            write_metrics(tmp_path / "runs" / name, [])
        (run,) = sweep.statuses(jobs["jobs"], {name: "Slurm job 12_3 was cancelled"})
        line = sweep_text([run]).splitlines()[-1]
        assert run.status == ("interrupted" if name == "cut" else "failed")
        assert line.startswith(run.status) and "Slurm job 12_3 was cancelled" in line
        assert ("0 epochs done; the same command goes on from there" in line) == (name == "cut")


def finished(test: float, clean: float, *overrides: str) -> RunStatus:
    """A finished run with these top-1 on test; stage 1 has 0.1 less, the pretrained encoder 0.5, BM25 0.25."""
    figures = {"top1": test, "top1_clean": clean, "top1_stage1": test - 0.1, "top1_stage1_clean": clean - 0.1}
    baselines = {
        name: {split: {"top1": value, "top1_clean": value} for split in ("val", "test")}
        for name, value in (("pretrained", 0.5), ("bm25", 0.25), ("chance", 0.01))
    }
    result = {"best_epoch": 3, "seconds": 2.0, "val": {"top1": 0.75, "top1_clean": 0.75}, "test": figures}
    return RunStatus(RunDirectory(Path("r")), "finished", "", result | {"baselines": baselines}, overrides)


def test_means_over_seeds_by_hand_marked_where_they_are_below_what_needs_no_training():
    runs = [
        finished(test, test, "model=tiny", f"head={head}", f"seed={seed}")
        for head, values in (("none", (0.6, 0.8)), ("relu", (0.2, 0.3)))
        for seed, test in enumerate(values)
    ]
    table, _, means = sweep_text(runs).partition("\n\n")
    assert table.splitlines()[0].split() == ["run", "epoch", "val", "test", "time"], (
        "nothing unfinished, nothing leaked"
    )
    assert table.splitlines()[3].split() == ["head=relu", "seed=0", "3", "0.7500", "0.2000!", "2.0", "s"]
    *lines, advice, warning = means.splitlines()
    assert advice.startswith("choose by val")
    assert [line.split() for line in lines] == [
        ["top-1,", "mean", "seeds", "val", "sd", "test", "sd", "stage", "1"],
        ["head=none", "2", "0.7500", "0.0000", "0.7000", "0.1414", "0.6000"],
        ["head=relu", "2", "0.7500", "0.0000", "0.2500!", "0.0707", "0.1500"],
        ["pretrained", "encoder", "0.5000", "0.5000"],
        ["BM25", "0.2500", "0.2500"],
        ["chance", "0.0100", "0.0100"],
    ]
    assert warning == "warning: on test 2 of 4 runs below the pretrained encoder, 1 of 4 runs below BM25 (!)"


def test_clean_means_stand_beside_official_ones_and_everything_fits_eighty_columns():
    heads = ("none", "layernorm_relu")
    runs = [
        finished(0.6, 0.4, f"head={head}", f"training.head_learning_rate={rate}", f"seed={seed}")
        for head in heads
        for rate in (0.001, 0.002)
        for seed in range(2)
    ]
    lines = sweep_text(runs, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    warning = "warning: on clean test 8 of 8 runs below the pretrained encoder"
    assert "clean" in lines[0] and lines[-1].startswith(warning)
    row = next(line for line in lines if line.split()[1:2] == ["2"])
    assert row.split() == ["head=none", "2", "0.7500", "0.0000", "0.4000!", "0.0000", "0.3000", "0.6000"]


def with_ndcg(run: RunStatus, select: str) -> RunStatus:
    """The same run, its epoch selected by `select`: nDCG@10 is 0.4 on val and 0.9 on test, clean 0.3 and 0.8."""
    result = copy.deepcopy(dict(run.result)) | {"select": select}
    for split, value in (("val", 0.4), ("test", 0.9)):
        result[split] |= {"ndcg@10": value, "ndcg@10_clean": value - 0.1}
        result["baselines"]["bm25"][split] |= {"ndcg@10": 0.95, "ndcg@10_clean": 0.85}
    return replace(run, result=result)


def test_the_table_is_of_the_metric_that_selects_the_epoch_and_of_clean_top_1_where_several_do(tmp_path):
    runs = [with_ndcg(finished(0.6, 0.6, f"seed={seed}"), "ndcg@10") for seed in range(2)]
    table, _, means = sweep_text(runs).partition("\n\n")
    row = ["seed=0", "3", "0.4000!", "0.3000!", "0.9000!", "0.8000!", "2.0", "s"]
    assert table.splitlines()[1].split() == row, "official and clean, each marked as BM25 has more"
    lines = means.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["nDCG@10,", "mean", "seeds", "val", "sd", "test", "sd", "clean"],
        ["all", "runs", "2", "0.4000!", "0.0000", "0.9000!", "0.0000", "0.8000"],
        ["BM25", "0.9500", "0.9500", "0.8500"],
    ]
    assert lines[-1] == "warning: on test 2 of 2 runs below BM25 (!)"

    write_table(tmp_path / "table.csv", runs)
    row = (tmp_path / "table.csv").read_text().splitlines()[1]
    assert row == "seed=0,finished,3,0.4000,0.9000,0.3000,0.8000,2.0,ndcg@10,r"

    several = [runs[0], with_ndcg(finished(0.6, 0.5, "seed=1"), "top1")]
    assert "clean top-1, mean" in sweep_text(several)


def test_a_sweep_has_a_name_one_can_read(tmp_path):
    """Presets, then what the jobs vary and how much, then a hash of what was typed, which alone tells sweeps apart."""
    jobs = [[f"head={head}", f"training.epochs={n}", "seed=0"] for head in ("none", "relu") for n in (1, 2, 3)]
    typed = ["head=none,relu", "training.epochs=1,2,3", "seed=0", "experiment=heads"]
    found = sweep_directory(str(tmp_path), None, typed, jobs).path
    assert found.parent == tmp_path / "sweeps"
    assert re.fullmatch("heads_head2_epochs3_[0-9a-f]{8}", found.name)
    assert found == sweep_directory(str(tmp_path), None, [*typed[::-1], "logs_dir=elsewhere"], jobs).path
    assert found != sweep_directory(str(tmp_path), None, [*typed, "neg_ratio=0"], jobs).path
    preset_alone = sweep_directory(str(tmp_path), None, ["head=none", "experiment=heads", "seed=0,1"], [["seed=0"]] * 2)
    assert re.fullmatch("heads_[0-9a-f]{8}", preset_alone.path.name), "of what is typed only presets are named"
    assert re.fullmatch("search_[0-9a-f]{8}", sweep_directory(str(tmp_path), None, ["seed=0"]).path.name)
    assert sweep_directory(str(tmp_path), "mine", typed, jobs).path.name == "mine"
    older = tmp_path / "sweeps" / found.name[-8:]
    older.mkdir(parents=True)
    assert sweep_directory(str(tmp_path), None, typed, jobs).path == older, "as an earlier version named it"


def test_each_worker_gets_a_gpu_of_its_own(tmp_path):
    with take_first_free(tmp_path, 2) as first, take_first_free(tmp_path, 2) as second:
        assert (first, second) == (0, 1)
    with take_first_free(tmp_path, 2) as again:
        assert again == 0


def test_the_lock_on_a_gpu_goes_with_its_process(tmp_path):
    code = (
        "import pathlib, sys, time; from biencoder_ablate.cli.launchers import take_first_free\n"
        f"with take_first_free(pathlib.Path({str(tmp_path)!r}), 2) as number:\n"
        "    print(number, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline().strip() == "0"
    with take_first_free(tmp_path, 2) as mine:
        assert mine == 1
    other.kill()
    other.communicate()
    with take_first_free(tmp_path, 2) as mine:
        assert mine == 0


@pytest.mark.parametrize(("seconds", "shown"), [(45, "45 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_read_well(seconds, shown):
    assert show_seconds(seconds) == shown


def test_a_text_table_is_aligned_names_to_the_left_and_figures_to_the_right():
    assert text_table(["run", "val"], [["none", "0.5"], ["relu", ""]]) == "run   val\nnone  0.5\nrelu"
    assert text_table(["a", "b", "c"], [["x", "y", "10"]], left=2) == "a  b   c\nx  y  10"
    assert text_table(["a"], [["x"]], left=0, least=[3]) == "  a\n  x"
    wide = text_table(
        ["run", "val"], [["head=none training.epochs=2", "0.5"], ["layernorm_relu_neg0.01", "1"]], width=24
    )
    assert wide.splitlines() == [
        "run                  val",
        "head=none            0.5",
        "  training.epochs=2",
        "layernorm_relu_        1",
        "  neg0.01",
    ]
    assert [format_number(value) for value in (0.25, 1, None, float("nan"))] == ["0.2500", "1.0000", "", ""]


def test_how_a_run_is(tmp_path):
    """One answer, whoever asks: from its lock, its result and its records."""
    run = RunDirectory(tmp_path / "runs" / "r")
    assert run_status(run).status == "new"
    assert (run_status(run, error="gone").status, run_status(run, error="gone").why) == ("failed", "gone")
    run.path.mkdir(parents=True)
    record = {f"{split}/top1": 0.5 for split in ("train", "val", "test")}
    write_metrics(run.path, [record | {"epoch": -1}, record | {"epoch": 0}])
    assert run_status(run).why == "1 epoch done; the same command goes on from there"
    with locked(run.path):
        assert run_status(run).status == "running"
        assert run_status(run).why == "1 epoch done; another process is working in it"
    assert run_status(run).status == "interrupted"
    for content, status in (("{", "damaged"), ("[]", "damaged"), ('{"status": "failed", "error": "a\\n b"}', "failed")):
        run.result.write_text(content)
        assert run_status(run).status == status
    assert run_status(run).why == "a b"
    run.result.write_text('{"status": "finished"}')
    assert (run_status(run).status, run_status(run).why) == ("damaged", "result.json has no best_epoch")
    write_json(run.result, finished_result())
    assert (run_status(run, error="too late").status, run_status(run).why) == ("finished", "")


@pytest.fixture
def worked_in(tmp_path):
    """A run directory that another process holds until a line is written to it, when it finishes the run and goes."""
    run = RunDirectory(tmp_path / "logs" / "runs" / "r")
    code = (
        "import json, pathlib, sys\n"
        "from biencoder_ablate.runs.directory import locked\n"
        f"path = pathlib.Path({str(run.path)!r})\n"
        "with locked(path):\n"
        "    path.mkdir(parents=True); print('held', flush=True); sys.stdin.readline()\n"
        f"    (path / 'result.json').write_text({json.dumps(finished_result())!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield run, lambda: process.communicate("\n")
    process.kill()
    process.communicate()


@pytest.mark.parametrize("look", [1, 2])
def test_a_run_that_finishes_while_it_is_looked_at_is_finished(look, worked_in, monkeypatch):
    """Whether it ends just before the lock is looked at, or between that and its files."""
    run, finish = worked_in
    assert run_status(run).status == "running"
    looks = []

    def late(path):
        looks.append(path)
        if len(looks) == look:
            finish()
        return holder(path) if len(looks) >= look else None

    monkeypatch.setattr(run_states, "holder", late)
    assert run_status(run).status == "finished"


def test_a_run_that_has_finished_since_it_was_listed_is_not_pruned(worked_in, tmp_path):
    run, finish = worked_in
    finish()
    listed = [RunStatus(run, "interrupted")]
    assert prune(listed, ["interrupted"], yes=True) == (
        "deleted 0 runs, 0.0 MB\nkept r: it was interrupted, and is finished now"
    )
    assert run.result.exists()
    assert prune([run_status(run)], ["finished"], yes=True).startswith("deleted 1 run, ")
    assert not run.path.exists()


def test_a_search_looks_at_clean_val_or_where_nothing_is_clean_at_val():
    assert objective({"val": {"top1": 0.3, "top1_clean": 0.2}, "test": {"top1_clean": 0.9}}) == 0.2
    assert objective({"val": {"top1": 0.3, "top1_clean": None}}) == 0.3


def test_a_search_looks_at_the_val_metric_that_selects_the_epoch():
    val = {"top1": 0.3, "top1_clean": 0.2, "ndcg@10": 0.6, "ndcg@10_clean": None}
    assert objective({"val": val, "select": "ndcg@10"}) == 0.6
    assert objective({"val": val, "select": "ndcg@10_clean"}) == 0.6, "no clean point"
    assert objective({"val": val, "select": "top1"}) == 0.3
    assert objective({"val": val, "select": "last"}) == 0.2


def test_two_jobs_that_are_one_run_are_said(tmp_path):
    ended = run_program(["-m", "plan=true", "model=tiny", "training.device=auto,cpu"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = r"note: training\.device=auto and training\.device=cpu are one run, \S+\n"
    assert re.fullmatch(said, ended.stderr)


def test_a_margin_is_declared_once_with_the_sweep_and_names_no_run(tmp_path):
    sweep = SweepDirectory(tmp_path / "sweeps" / "s")
    sweep.write(["margin=0.01"], [["seed=0"]], ["a"], 0.01)
    assert sweep.load()["margin"] == 0.01
    sweep.write([], [["seed=1"]], ["b"])
    assert sweep.load()["margin"] == 0.01, "what was declared stays declared"
    with pytest.raises(ValueError, match=r"^margin=0\.02: sweep s was started with margin=0\.01"):
        sweep.write(["margin=0.02"], [["seed=1"]], ["b"], 0.02)
    with_margin, without = (
        sweep_directory("logs", None, ["head=none,relu", *more], []) for more in (["margin=0.01"], [])
    )
    assert with_margin == without


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["margin=0.01", "model=tiny"], "margin=0.01: is for a sweep"),
        (["-m", "margin=0.01,0.02", "model=tiny"], "margin=0.01,0.02: cannot be swept"),
        (["-m", "margin=0", "seed=0,1", "model=tiny"], "margin=0.0: must be null, or a number above 0"),
    ],
)
def test_a_margin_that_cannot_be_is_refused(tmp_path, arguments, said):
    ended = run_here(arguments, tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert said in ended.stderr
