"""The program as a person meets it: help, version, completion, one run, the sweep of four heads, an installed wheel."""

import contextlib
import csv
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from support.helpers import (
    HEADS,
    REPOSITORY,
    files_below,
    load_sample,
    make_pairs,
    only_error,
    run_here,
    run_program,
    run_python,
    write_arguana_tree,
    write_pairs_csv,
    zip_directory,
)

import biencoder_ablate
from biencoder_ablate.config.compose import compose_command, conf_directory, parse_arguments
from biencoder_ablate.config.schema import Config, schema_keys
from biencoder_ablate.data.corpus import SPLITS, limit_debates

GROUPS = ("recipe", "data", "model", "head", "fusion", "negatives", "loss", "experiment")
CHOICES = {path.stem for path in (conf_directory() / "head").glob("*.yaml")}


def timed(arguments, cwd):
    """The ended command and the processor seconds it took: unlike the clock, these do not count who else is at work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = run_python(["-m", "biencoder_ablate", *arguments], cwd)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


# --- asking ---


def test_help_is_written_for_this_program_and_quick(tmp_path):
    ended, seconds = timed(["--help"], tmp_path)
    assert ended.returncode == 0 and ended.stderr == ""
    assert seconds < 4
    text = ended.stdout
    for group in GROUPS:
        choices = sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
        assert f"{group}: {', '.join(choices)}" in text
    examples = re.findall(r"^ *python -m biencoder_ablate.*$", text, re.MULTILINE)
    assert len(examples) >= 3
    keys = set(re.findall(r"^  ([\w.]+)=", text, re.MULTILINE))
    assert len(keys) >= 10 and keys <= set(dict(schema_keys())), "an option that is not one"
    assert "--cfg job" in text and "--multirun" in text and "Hydra is" not in text
    assert list(tmp_path.iterdir()) == []


def test_asking_and_mistakes_load_nothing_heavy(tmp_path):
    """All in one process: whatever one of them loads would stay loaded."""
    program = (
        "import contextlib, io, sys\n"
        "from biencoder_ablate.cli import main as cli\n"
        "for line in ('--version', '--help', '--cfg job', 'hed=none', 'neg_ratio=2', '-m head=none,relux'):\n"
        "    sys.argv = ['biencoder-ablate', *line.split()]\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        cli.main()\n"
        "    print(line, *{'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules), sep=': ')\n"
    )
    ended = run_python(["-c", program], tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == 6 and lines[0] == "--version"
    assert [line for line in lines if ": " in line] == []


def test_version(tmp_path):
    ended = run_program(["--version"], tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"biencoder-ablate {biencoder_ablate.__version__}\n")


def test_the_examples_of_the_help_can_be_typed_as_they_stand(tmp_path):
    """With a corpus of that name in the directory."""
    zip_directory(write_arguana_tree(tmp_path / "tree", make_pairs()), tmp_path / "arguana.zip")
    text = run_program(["--help"], tmp_path).stdout
    commands = re.findall(r"^ *python -m biencoder_ablate (\S.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        with contextlib.chdir(tmp_path), compose_command(parse_arguments(command.split())) as asked:
            assert isinstance(asked.configs(asked.jobs())[-1], Config)


def test_cfg_job_shows_every_key(tmp_path):
    ended = run_program(["--cfg", "job", "head=relu", "seed=7"], tmp_path)
    assert ended.returncode == 0
    shown = yaml.safe_load(ended.stdout)
    assert shown["seed"] == 7 and shown["head"]["norm"] == "none" and shown["head"]["activation"] == "relu"
    assert set(shown) == set(Config.__dataclass_fields__)
    assert list(tmp_path.iterdir()) == []


def test_info_is_hydras_own(tmp_path):
    ended = run_program(["--info", "defaults"], tmp_path)
    assert ended.returncode == 0 and "layernorm_relu" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("head=", {f"head={name}" for name in CHOICES}),
        ("head=lay", {"head=layernorm", "head=layernorm_relu"}),
        ("-m head=none neg", {"neg_ratio=", "negatives=", "negatives."}),
        ("training.ep", {"training.epochs="}),
        ("re", {"recipe=", "report", "rerun=", "retrieve"}),
        ("retrieve la", {"latest"}),
        ("-m head=none,( neg", set()),
    ],
)
def test_tab_completion(typed, offered, tmp_path):
    line = f"biencoder-ablate {typed}"
    ended = run_program(["--shell-completion", "query=bash"], tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.split()) == offered


@pytest.mark.parametrize(("arguments", "limit"), [(["hed=layernorm"], 3), (["training.device=cuda:99"], 5)])
def test_mistakes_are_named_soon(arguments, limit, tmp_path):
    ended, seconds = timed(arguments, tmp_path)
    message = only_error(ended, tmp_path)
    assert arguments[0] in message
    assert seconds < limit


def test_a_mistake_in_the_last_job_of_a_sweep_is_named_soon(tmp_path):
    """Forty jobs are composed before it; what their groups make up is composed once, not forty times."""
    corpus, cwd = write_arguana_tree(tmp_path / "tree", make_pairs()), tmp_path / "work"
    cwd.mkdir()
    seeds = ",".join(map(str, range(9, -2, -1)))
    sweep = ["experiment=heads", f"seed={seeds}", f"head={','.join(HEADS)}"]
    ended, seconds = timed([*sweep, f"data.path={corpus}"], cwd)
    assert "seed=-1: must be an integer" in only_error(ended, cwd)
    assert seconds < 5


# --- one run ---


def records_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_run_is_laid_out_as_the_design_says(finished_run):
    path = finished_run.path
    assert re.fullmatch(r"layernorm_relu_neg0\.01_seed0_[0-9a-f]{8}", path.name)
    files = files_below(path)
    assert {
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "manifest.json",
        "top1.csv",
        "metrics.jsonl",
        "train.log",
        "rankings.jsonl",
        "result.json",
        "model/biencoder.safetensors",
        "model/encoder/model.safetensors",
        "model/encoder/tokenizer.json",
        "model/encoder/config.json",
    } <= files
    assert not {name for name in files if name.startswith("checkpoint") or name.endswith(".part")}
    assert {child.name for child in finished_run.cwd.iterdir()} == {"logs"}, "Hydra wrote a directory of its own"
    assert not [child.name for child in path.parent.iterdir() if child.name.startswith(".")], "a lock stays behind"


def test_what_was_asked_is_kept(finished_run):
    path = finished_run.path
    assert yaml.safe_load((path / ".hydra" / "overrides.yaml").read_text()) == list(finished_run.arguments)
    config = yaml.safe_load((path / ".hydra" / "config.yaml").read_text())
    assert (config["neg_ratio"], config["training"]["epochs"], config["head"]["norm"]) == (0.01, 1, "layernorm")
    assert "hydra" not in config
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    assert manifest["biencoder_ablate"] == biencoder_ablate.__version__
    assert manifest["determined_by"]["data"] == limit_debates(load_sample(), 6).fingerprint
    assert set(manifest["libraries"]) >= {"torch", "transformers", "hydra-core"}
    assert (manifest["num_threads"], manifest["name"]) == (1, path.name)


def test_top1_csv_has_a_row_per_epoch_and_agrees_with_metrics(finished_run):
    with (finished_run.path / "top1.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["epoch", "train", "val", "test"]
    assert [row[0] for row in rows] == ["0"]
    records = records_of(finished_run.path)
    assert [record["epoch"] for record in records] == [-1, 0]
    for name, value in zip(SPLITS, rows[0][1:], strict=True):
        assert float(value) == pytest.approx(records[1][f"{name}/top1"], abs=5e-7)
        assert 0 <= float(value) <= 1


def test_metrics_have_what_the_design_lists(finished_run):
    before, after = records_of(finished_run.path)
    figures = {f"{split}/{name}" for split in SPLITS for name in ("top1", "top1_clean", "mrr", "recall@10")}
    losses = {"loss", "loss/retrieval", "loss/head"}
    trained = losses | {"hard_share", "train_seconds", "pairs_per_second"}
    assert figures | {"dead_pairs", "eval_seconds"} <= set(before)
    assert {f"pretrained/{split}/{name}" for split in ("val", "test") for name in ("top1", "top1_clean")} <= set(before)
    assert figures | trained | {"dead_pairs", "eval_seconds"} <= set(after)
    assert not trained & set(before), "nothing was trained before epoch 0"
    assert after["hard_share"] == 0.01
    assert after["loss"] == pytest.approx(after["loss/retrieval"] + after["loss/head"])


def test_result_and_rankings(finished_run):
    result = json.loads((finished_run.path / "result.json").read_text("utf-8"))
    before, after = records_of(finished_run.path)
    assert (result["status"], result["best_epoch"]) == ("finished", 0)
    assert (result["selected"], result["final"], result["initial"]) == (after, after, before)
    corpus = limit_debates(load_sample(), 6)
    rankings = [json.loads(line) for line in (finished_run.path / "rankings.jsonl").read_text("utf-8").splitlines()]
    assert [row["id"] for row in rankings] == [pair.id for name in ("val", "test") for pair in corpus.split(name)]
    for name in ("val", "test"):
        assert result[name]["top1"] == after[f"{name}/top1"]
        assert set(result[name]["tasks"]) == {"sdoc", "sdc", "sdoa", "sda", "stc", "sta", "epc", "epa"}
        assert result[name]["tasks"]["epa"]["top1"] == result[name]["top1"]


def test_the_screen_and_the_log_say_in_words_what_happens(finished_run):
    text = finished_run.ended.stdout
    for words in (
        "sample: 48 train, 48 val, 48 test pairs of 18 debates",
        "this is the demonstration",
        "layernorm_relu",
        "hard negatives: 1% of each epoch's",
        "experiment=arguana",
        "model=tiny knows no language",
        finished_run.path.name,
    ):
        assert words in text
    header = next(line for line in text.splitlines() if "epoch" in line and "train" in line and "val" in line)
    shown = [line for line in text.splitlines() if re.match(r"start| +0 ", line)]
    assert [line.split()[0] for line in shown] == ["start", "0"]
    assert all(len(line) == len(header) for line in shown), "the columns are not aligned"
    log = (finished_run.path / "train.log").read_text("utf-8")
    for line in text.splitlines():
        assert line in log
    assert "Traceback" not in finished_run.ended.stderr


def test_a_second_start_reports_and_skips(finished_run):
    before = {name: (finished_run.path / name).stat().st_mtime_ns for name in files_below(finished_run.path)}
    ended = run_program(finished_run.arguments, finished_run.cwd)
    assert ended.returncode == 0
    (line,) = ended.stdout.splitlines()
    result = json.loads((finished_run.path / "result.json").read_text("utf-8"))
    assert finished_run.path.name in line and "finished" in line and f"{result['val']['top1']:.4f}" in line
    assert "rerun=true" in line
    assert {name: (finished_run.path / name).stat().st_mtime_ns for name in files_below(finished_run.path)} == before


# --- the four heads ---


def test_the_sweep_trains_the_four_variants(finished_sweep):
    assert finished_sweep.ended.returncode == 0, finished_sweep.ended.stderr
    runs = [path for path in finished_sweep.runs.iterdir() if not path.name.startswith(".")]
    assert sorted(path.name.split("_neg")[0] for path in runs) == sorted(HEADS)
    for path in runs:
        assert json.loads((path / "result.json").read_text("utf-8"))["status"] == "finished"
        assert [record["epoch"] for record in records_of(path)] == [-1, 0]
        assert not (path / "checkpoint").exists()
    (sweep,) = (finished_sweep.cwd / "logs" / "sweeps").iterdir()
    assert not [child for child in sweep.rglob("*") if child.name in ("top1.csv", "model", "checkpoint", ".hydra")]
    listed = " ".join(path.read_text("utf-8") for path in sweep.iterdir() if path.is_file())
    assert all(path.name in listed for path in runs)
    assert {child.name for child in finished_sweep.cwd.iterdir()} == {"logs"}


def test_the_sweep_ends_with_a_table_of_all_its_runs(finished_sweep):
    lines = finished_sweep.ended.stdout.splitlines()
    for head in HEADS:
        (path,) = finished_sweep.runs.glob(f"{head}_neg*")
        result = json.loads((path / "result.json").read_text("utf-8"))
        row = next(line for line in lines if line.startswith(f"head={head} "))
        assert re.search(rf" {result['test']['top1']:.4f}!?( |$)", row), head
    ended = [line.split("  ")[0] for line in lines if re.match(r"\d of \d  head=", line)]
    assert ended == [f"{number} of {len(HEADS)}" for number in range(1, len(HEADS) + 1)]


def test_the_variants_differ_from_the_first_epoch_on_with_the_same_seed(finished_sweep):
    """And before it only where the head has a say: linear1 and linear2 start from the same weights."""
    by_head = {}
    for head in HEADS:
        (path,) = finished_sweep.runs.glob(f"{head}_neg0.01_seed1_*")
        by_head[head] = records_of(path)
    before, first = ([records[i] for records in by_head.values()] for i in (0, 1))
    assert len({record["loss"] for record in first}) == 4
    assert len({json.dumps(metrics(record)) for record in first}) == 4
    stage1 = {tuple(record[f"{split}/recall@10"] for split in SPLITS) for record in before}
    assert len(stage1) == 1, "before training, the retrieval embeddings are the same"


def metrics(record):
    return {name: value for name, value in record.items() if not re.search("seconds|per_second", name)}


# --- Hydra's own doors ---

CALLBACK = """
from hydra.experimental.callback import Callback

class Say(Callback):
    def __init__(self, words="called"): self.words = words
    def on_run_start(self, config, **kwargs): print(self.words, "on_run_start", config.seed)
    def on_run_end(self, config, **kwargs): print(self.words, "on_run_end")
    def on_job_start(self, config, **kwargs): print(self.words, "on_job_start", config.head.norm)
    def on_job_end(self, config, job_return, **kwargs): print(self.words, "on_job_end", job_return.status.name)
    def on_multirun_start(self, config, **kwargs): print(self.words, "on_multirun_start")
    def on_multirun_end(self, config, **kwargs): print(self.words, "on_multirun_end")
"""
QUICK = ("recipe=study", "training.epochs=1", "data.limit=3", "model.max_tokens=16", "training.freeze_encoder=true")


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        (("head=none",), ["on_run_start 0", "on_job_start none", "on_job_end COMPLETED", "on_run_end"]),
        (
            ("-m", "head=layernorm,relu"),
            [
                "on_multirun_start",
                *("on_job_start layernorm", "on_job_end COMPLETED", "on_job_start none", "on_job_end COMPLETED"),
                "on_multirun_end",
            ],
        ),
        (
            ("head=none", "training.head_learning_rate=1e30", "training.epochs=2"),
            ["on_run_start 0", "on_job_start none", "on_job_end FAILED", "on_run_end"],
        ),
    ],
    ids=["a run", "a sweep", "a failure"],
)
def test_callbacks_are_called_as_hydra_calls_them(asked, called, tmp_path, monkeypatch):
    (tmp_path / "say.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    mine = ("+hydra.callbacks.mine._target_=say.Say", "+hydra.callbacks.mine.words=CALL")
    ended = run_here([*QUICK, *asked, *mine], tmp_path)
    assert ended.returncode == int("FAILED" in str(called)), ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.removeprefix("CALL ") for line in lines if line.startswith("CALL ")] == called


def test_choices_of_ones_own_directory_come_before_the_programs_and_for_that_command_alone(tmp_path):
    (tmp_path / "mine" / "head").mkdir(parents=True)
    (tmp_path / "mine" / "head" / "bare.yaml").write_text((conf_directory() / "head" / "none.yaml").read_text())
    relu = "norm: none\nactivation: relu\nactivation_position: before_linear2\n"
    (tmp_path / "mine" / "head" / "relu.yaml").write_text(relu)
    own = ["--config-dir", str(tmp_path / "mine")]
    with compose_command(parse_arguments([*own, "-m", "head=bare,relu"])) as command:
        bare, changed = (config.head for config in command.configs(command.jobs()))
    assert (bare.activation, changed.activation_position) == ("none", "before_linear2")
    with compose_command(parse_arguments(["head=relu"])) as command:
        assert command.base.head.activation_position == "after_linear2"
    (tmp_path / "work").mkdir()
    assert "head=bare: must be one of" in only_error(run_here(["head=bare"], tmp_path / "work"), tmp_path / "work")


def test_logging_is_left_alone_until_it_is_asked_for(tmp_path):
    ended = run_program([*QUICK, "hydra/job_logging=stdout", "hydra.verbose=true"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "acquired on logs/runs/." in ended.stdout  # what filelock says, to whom it may concern
    assert {child.name for child in tmp_path.iterdir()} == {"logs"}


def test_a_sweep_in_batches_is_one_sweep(tmp_path):
    ended = run_here(["-m", *QUICK, "head=none,relu,layernorm", "hydra.sweeper.max_batch_size=2"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "3 runs, 0 finished, 3 to run" in ended.stdout and "\n3 of 3  head=layernorm" in ended.stdout


# --- one's own data ---


def test_a_run_on_ones_own_table(tmp_path):
    table = write_pairs_csv(tmp_path / "mine.csv", make_pairs(2, 1))
    ended = run_here(["data=pairs", f"data.path={table}", "training.epochs=1", "training.batch_size=3"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    (run,) = (tmp_path / "logs" / "runs").iterdir()
    assert len(records_of(run)) == 2
    ids = [json.loads(line)["id"] for line in (run / "rankings.jsonl").read_text("utf-8").splitlines()]
    assert len(ids) == 8 and len(set(ids)) == 8


def test_a_corpus_that_cannot_be_read_leaves_nothing_behind(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    whole = zip_directory(write_arguana_tree(tmp_path / "tree", make_pairs()), tmp_path / "data" / "whole.zip")
    broken = tmp_path / "data" / "broken.zip"
    broken.write_bytes(whole.read_bytes()[:-100])
    ended = run_here(["data=arguana", f"data.path={broken}"], tmp_path / "work")
    message = only_error(ended, tmp_path / "work")
    assert str(broken) in message and "zip" in message


# --- installed ---


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from the repository and installed alone into a directory."""
    built, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("installed")
    for command in (
        ["build", "--wheel", "--no-isolation", "--outdir", str(built), str(REPOSITORY)],
        ["pip", "install", "--no-deps", "--no-index", "--target", str(target)],
    ):
        wheels = list(map(str, built.glob("*.whl"))) if command[0] == "pip" else []
        done = subprocess.run([sys.executable, "-m", *command, *wheels], cwd=built, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return next(built.glob("*.whl")), target


def run_installed(target: Path, arguments, cwd):
    """The console script of the installed wheel; the source tree is not on the path."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(target)}
    return subprocess.run(
        [sys.executable, str(target / "bin" / "biencoder-ablate"), *arguments],
        cwd=cwd,
        text=True,
        env=environment,
        capture_output=True,
        timeout=600,
    )


@pytest.mark.slow
def test_the_wheel_holds_what_the_program_needs(installed):
    names = set(zipfile.ZipFile(installed[0]).namelist())
    conf = {f"biencoder_ablate/conf/{name}" for name in files_below(REPOSITORY / "conf")}
    assert conf <= names
    assert len([name for name in names if name.endswith(".toml")]) >= 24, "the sample debates"
    for template in ("page.html.j2", "page.css", "page.js", "report.md.j2", "table.tex.j2", "declared.txt.j2"):
        assert f"biencoder_ablate/report/templates/{template}" in names
    assert "biencoder_ablate/report/templates/figures.mplstyle" in names
    assert not [name for name in names if name.startswith(("tests/", "logs/", "src/"))]
    scripts = next(name for name in names if name.endswith("entry_points.txt"))
    assert "biencoder-ablate" in zipfile.ZipFile(installed[0]).read(scripts).decode()


@pytest.mark.slow
def test_an_installed_wheel_runs_from_an_empty_directory(installed, tmp_path):
    _, target = installed
    where = (
        "import biencoder_ablate, pathlib; from biencoder_ablate.config.compose import conf_directory\n"
        "print(pathlib.Path(biencoder_ablate.__file__).parent); print(conf_directory())"
    )
    program = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(target)},
    )
    assert program.stdout.split() == [str(target / "biencoder_ablate"), str(target / "biencoder_ablate" / "conf")]
    assert run_installed(target, ["--version"], tmp_path).stdout == f"biencoder-ablate {biencoder_ablate.__version__}\n"
    assert only_error(run_installed(target, ["hed=none"], tmp_path), tmp_path)
    ended = run_installed(target, ["head=layernorm_relu", "neg_ratio=0.01", "training.epochs=1"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    (run,) = (tmp_path / "logs" / "runs").iterdir()
    assert (run / "top1.csv").read_text().startswith("epoch,train,val,test\n0,")


@pytest.mark.slow
def test_the_wheel_and_the_source_tree_give_the_same_run(installed, finished_run, tmp_path):
    ended = run_installed(installed[1], finished_run.arguments, tmp_path)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "logs" / "runs" / finished_run.path.name
    assert (run / "top1.csv").read_text() == (finished_run.path / "top1.csv").read_text()
    assert [metrics(record) for record in records_of(run)] == [metrics(r) for r in records_of(finished_run.path)]
