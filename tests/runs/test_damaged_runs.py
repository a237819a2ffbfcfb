"""One damaged run never hides the others: what is wrong with it is said, and the rest goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.helpers import only_error, run_here
from support.runs import finished_result

from biencoder_ablate.export import export
from biencoder_ablate.report.read import collect
from biencoder_ablate.runs.__main__ import main as list_runs
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import load_metrics, read_metrics
from biencoder_ablate.runs.status import SweepDirectory, run_status
from biencoder_ablate.utils.files import Damaged, load_json, load_json_lines, load_yaml, read_json

NESTED = "[" * 100_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
RESULTS = {
    "finished alone": ('{"status": "finished"}', "result.json has no best_epoch"),
    "a list": ("[]", "result.json holds a list, not an object"),
    "a number": ("3", "result.json holds a number, not an object"),
    "nested": (NESTED, "result.json cannot be read as JSON"),
    "cut": ('{"status": ', "result.json cannot be read as JSON"),
    "nothing": ("", "result.json cannot be read as JSON"),
    "no status": ("{}", "result.json has no status"),
    "another status": ('{"status": "done"}', "result.json says done as its status"),
    "text for a number": (
        json.dumps(finished_result(val={"top1": "0.5"})),
        "result.json its val has a text as its top1",
    ),
    "list for test": (json.dumps(finished_result(test=[1])), "result.json has a list as its test"),
    "true for seconds": (json.dumps(finished_result(seconds=True)), "result.json has true or false as its seconds"),
}
CONFIGS = {
    "a tab": "data:\n\tname: sample\nmodel: {name: tiny}\n",
    "a key twice": "data: {name: sample}\nmodel: {name: tiny}\nseed: 1\nseed: 2\n",
    "an open bracket": "data: {name: sample\n",
    "a recursive alias": "data: &d {name: sample, more: *d}\nmodel: {name: tiny}\n",
    "a bomb": BOMB + "data: {name: sample}\nmodel: {name: tiny}\n",
    "a megabyte": "data: {name: sample}\nmodel: {name: tiny}\n" + "# " + "x" * 1_100_000,
    "nested": f"data: {'[' * 5000}\n",
    "a list": "- data\n",
    "not UTF-8": b"data: {name: \xff\xfe}\n",
    "another type": "data: [sample]\nmodel: {name: tiny}\n",
}


@pytest.fixture
def logs(finished_run, tmp_path) -> Path:
    """logs/ with a whole run and a copy of it, `broken`, that a test damages; a sweep lists both."""
    runs = tmp_path / "logs" / "runs"
    runs.mkdir(parents=True)
    shutil.copytree(finished_run.path, runs / finished_run.path.name)
    shutil.copytree(finished_run.path, runs / "broken")
    sweep = SweepDirectory(tmp_path / "logs" / "sweeps" / "both")
    names = [finished_run.path.name, "broken"]
    sweep.write([], [[f"seed={seed}"] for seed in range(2)], names)
    return tmp_path / "logs"


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("kind", RESULTS)
def test_a_damaged_result_is_said_and_the_others_are_listed(kind, logs, capsys):
    content, why = RESULTS[kind]
    write(logs / "runs" / "broken" / "result.json", content)
    status = run_status(RunDirectory(logs / "runs" / "broken"))
    assert status.status == "damaged" and status.why.startswith(why)
    assert RunDirectory(logs / "runs" / "broken").read_finished() is None

    assert list_runs([str(logs)]) == 0
    out = capsys.readouterr().out
    assert f"damaged: broken: {why}" in out and "both: 2 runs: 1 finished, 1 damaged" in out
    states = {run.name: run.status for run in collect([logs]).runs}
    assert sorted(states.values()) == ["damaged", "finished"] and states["broken"] == "damaged"


@pytest.mark.parametrize("name", [".hydra/config.yaml", ".hydra/overrides.yaml"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_damaged_yaml_is_said_and_costs_no_run_its_metrics(name, kind, logs, capsys):
    if name.endswith("overrides.yaml") and kind == "a list":
        pytest.skip("a list is what overrides.yaml holds")
    write(logs / "runs" / "broken" / name, CONFIGS[kind])
    assert list_runs([str(logs)]) == 0
    out = capsys.readouterr().out
    assert f"damaged: broken: {Path(name).name} " in out and "both: 2 runs: 2 finished" in out
    collection = collect([logs])
    assert [run.status for run in collection.runs] == ["finished", "finished"]
    (note,) = collection.notes
    assert note.startswith(f"{logs / 'runs' / 'broken'}: {name} ") and "\n" not in note


@pytest.mark.parametrize("content", ["[1, 2]\n", "3\n", '{"epoch": "0"}\n', '{"epoch": 0, "loss": "x"}\n', NESTED])
def test_damaged_metrics_are_said(content, logs, capsys):
    write(logs / "runs" / "broken" / "metrics.jsonl", content)
    assert read_metrics(logs / "runs" / "broken") == []
    assert list_runs([str(logs)]) == 0
    assert "damaged: broken: metrics.jsonl " in capsys.readouterr().out
    broken = next(run for run in collect([logs]).runs if run.name == "broken")
    assert broken.status == "damaged" and broken.why.startswith("metrics.jsonl ")


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"jobs": [1]}', '{"jobs": [{"name": "a"}]}', NESTED])
def test_a_damaged_list_of_a_sweep_hides_nothing_else(content, logs, capsys):
    write(logs / "sweeps" / "both" / "runs.json", content)
    assert list_runs([str(logs)]) == 0
    assert "both: runs.json " in capsys.readouterr().out
    collection = collect([logs])
    assert len(collection.runs) == 2 and "runs.json: damaged" in collection.notes[0]
    # Where it is all that was asked for, it is refused.
    with pytest.raises(ValueError, match=r"runs\.json: damaged"):
        collect([logs / "sweeps" / "both"])
    sweep = SweepDirectory(logs / "sweeps" / "both")
    sweep.write([], [["seed=0"]], ["broken"])
    assert "written anew" in capsys.readouterr().err
    assert [run.name for run in sweep.statuses()] == ["broken"]


@pytest.mark.parametrize(
    "manifest",
    ["[]", "3", NESTED, '{"determined_by": []}', '{"determined_by": {"data": 1}}', '{"determined_by": {"seed": "x"}}'],
)
def test_a_damaged_manifest_costs_the_report_one_run(manifest, logs):
    write(logs / "runs" / "broken" / "manifest.json", manifest)
    states = {run.name: run.status for run in collect([logs]).runs}
    assert states.pop("broken") == "damaged" and list(states.values()) == ["finished"]


@pytest.mark.parametrize(
    "line", ['["test"]', '{"split": "test"}', '{"split": "test", "answers": 3}', f'"test"{NESTED}']
)
def test_damaged_rankings_cost_the_report_one_run(line, logs):
    write(logs / "runs" / "broken" / "rankings.jsonl", line + "\n")
    states = {run.name: run.status for run in collect([logs]).runs}
    assert states.pop("broken") == "damaged" and list(states.values()) == ["finished"]


@pytest.mark.parametrize("command", ["evaluate", "retrieve"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", '{"status": "finished"}'),
        ("result.json", NESTED),
        (".hydra/config.yaml", CONFIGS["a bomb"]),
        (".hydra/config.yaml", CONFIGS["a tab"]),
        (".hydra/config.yaml", "data: {name: [sample]}\n"),
        (".hydra/config.yaml", "seed: ${nothing}\n"),
        ("model/biencoder.json", "[]"),
        ("model/biencoder.json", '{"architecture": 3}'),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(command, name, content, logs, tmp_path):
    write(logs / "runs" / "broken" / name, content)
    arguments = [command, str(logs / "runs" / "broken")] + ["Ban cars."] * (command == "retrieve")
    (tmp_path / "empty").mkdir()
    error = only_error(run_here(arguments, tmp_path), tmp_path / "empty")
    assert str(logs / "runs" / "broken" / name) in error


def test_the_same_command_mends_a_damaged_result(finished_run, tmp_path):
    """As for a run that was interrupted, and not a KeyError on every try."""
    train = ["model=tiny", "training.freeze_encoder=true", "training.epochs=1", "data.limit=3", "model.max_tokens=16"]
    first = run_here(train, tmp_path)
    assert first.returncode == 0, first.stderr
    (run,) = (path for path in (tmp_path / "logs" / "runs").iterdir() if not path.name.startswith("."))
    whole = json.loads((run / "result.json").read_text("utf-8"))
    write(run / "result.json", '{"status": "finished"}')
    again = run_here(train, tmp_path)
    assert again.returncode == 0, again.stderr
    mended = json.loads((run / "result.json").read_text("utf-8"))
    assert (mended["val"], mended["test"]) == (whole["val"], whole["test"])


# --- the readers ---


@pytest.mark.parametrize(
    "read", [load_json, load_json_lines, load_yaml, read_json], ids=["json", "lines", "yaml", "json or none"]
)
def test_what_is_no_file_is_no_content(read: Callable[[Path], object], tmp_path):
    """A pipe, which nobody writes to, or a device, which never ends, is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        if read is read_json:
            assert read(path) is None
            continue
        with pytest.raises(OSError, match="no regular file"):
            read(path)


def test_aliases_are_counted_by_what_they_come_to(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\nc: *a\n")
    assert load_yaml(path) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}
    path.write_text(BOMB)
    with pytest.raises(Damaged, match="more than 100,000 values"):
        load_yaml(path)


def test_lines_are_named_by_their_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": -1}\n{"epoch": 0, "a": {"b": null}}\n')
    assert load_metrics(tmp_path) == [{"epoch": -1}, {"epoch": 0, "a": {"b": None}}]
    (tmp_path / "metrics.jsonl").write_text('{"epoch": -1}\n\n')
    with pytest.raises(Damaged, match="line 2 cannot be read as JSON"):
        load_metrics(tmp_path)


@pytest.mark.parametrize("name", ["model/biencoder.safetensors", "model/encoder/model.safetensors"])
def test_a_pipe_among_the_weights_is_not_waited_for(name, trained_encoder, tmp_path):
    (trained_encoder / name).unlink()
    os.mkfifo(trained_encoder / name)
    ended = run_here(["retrieve", str(trained_encoder), "Zoos are cruel."], tmp_path)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1 and Path(name).parts[-2] in ended.stderr


def test_a_pipe_in_place_of_the_rankings_costs_the_report_one_run(logs):
    (logs / "runs" / "broken" / "rankings.jsonl").unlink()
    os.mkfifo(logs / "runs" / "broken" / "rankings.jsonl")
    states = {run.name: run.status for run in collect([logs]).runs}
    assert sorted(states.values()) == ["damaged", "finished"] and states["broken"] == "damaged"


# --- exports ---


@pytest.mark.parametrize("name", ["model/encoder/tokenizer.json", "model/biencoder.safetensors", "manifest.json"])
def test_an_export_follows_no_link(name, finished_run, tmp_path):
    """A stranger's run may have a link to whatever lies on this machine where a file of the model should be."""
    run = Path(shutil.copytree(finished_run.path, tmp_path / "logs" / "runs" / "theirs"))
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{Path(name).name}: is a link"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_has_nothing_but_the_model_s_own_files(trained_encoder, tmp_path):
    encoder = trained_encoder / "model" / "encoder"
    for name in ("vocab_secret", "tokenizer_notes.txt", "merges"):
        (encoder / name).write_text("not of the model")
    (encoder / "vocab_link").symlink_to("/etc/hostname")
    export(trained_encoder, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert {"model.safetensors", "tokenizer.json"} <= names
    assert not names & {"vocab_secret", "tokenizer_notes.txt", "merges", "vocab_link"}


@pytest.mark.parametrize("place", ["/etc", "../../../other/model/encoder", "../encoder"])
def test_an_encoder_lies_in_the_run_or_the_export_alone(place, trained_encoder, tmp_path):
    spec = trained_encoder / "model" / "biencoder.json"
    write(spec, json.dumps(json.loads(spec.read_text("utf-8")) | {"encoder_directory": place}))
    with pytest.raises(ValueError, match=f"encoder_directory={place}"):
        export(trained_encoder, tmp_path / "out")


@pytest.fixture
def trained_encoder(finished_run, tmp_path) -> Path:
    """A copy of a run that trained its encoder, which lies in it."""
    return Path(shutil.copytree(finished_run.path, tmp_path / "logs" / "runs" / "trained"))
