# ruff: noqa: B023 - what is defined in a loop is called in it
"""Our own files, damaged: a run that is damaged is said and hides no other; all else is as written, or not believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.damage import cases, damage_one, damaged, damaged_json, damaged_yaml, keeps_the_law, limited, steering
from support.helpers import files_below

from biencoder_ablate.api import open_run
from biencoder_ablate.model.saved import read_model_spec, restore_biencoder
from biencoder_ablate.report.read import collect
from biencoder_ablate.runs.__main__ import describe_damage, describe_runs, describe_sweeps, list_runs
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.records import load_metrics
from biencoder_ablate.runs.status import SweepDirectory
from biencoder_ablate.training.checkpoint import (
    DamagedCheckpoint,
    RunState,
    load_checkpoint,
    save_checkpoint,
    snapshot,
)
from biencoder_ablate.utils.cache import load_or_make
from biencoder_ablate.utils.files import load_json, load_json_lines, load_yaml

RUN_FILES = ("manifest.json", "result.json", "metrics.jsonl", "rankings.jsonl", "top1.csv", "train.log",
             ".hydra/config.yaml", ".hydra/overrides.yaml")  # fmt: skip


@pytest.fixture
def logs(finished_run, tmp_path) -> Path:
    """logs/ with a whole run and a copy of it, `broken`, without their models; a sweep lists both."""
    runs = tmp_path / "logs" / "runs"
    for name in ("whole", "broken"):
        shutil.copytree(finished_run.path, runs / name, ignore=shutil.ignore_patterns("model"))
    SweepDirectory(tmp_path / "logs" / "sweeps" / "both").write([], [["seed=0"], ["seed=1"]], ["whole", "broken"])
    return tmp_path / "logs"


def listed_without(logs: Path, name: str) -> list[str]:
    """What `runs` lists of all but one run."""
    runs = [run for run in list_runs(logs) if run.name != name]
    return describe_runs(runs).splitlines()


def test_one_damaged_run_never_hides_the_others(finished_run, logs):
    """Whatever one file of it holds, `runs` and the report go on, and say of the other run what they always say."""
    wanted = listed_without(logs, "broken")
    whole = collect([logs]).runs
    (kept,) = (run for run in whole if run.name == "whole")
    statuses = set()
    for some in cases("run directory", 50):
        shutil.rmtree(logs / "runs" / "broken")
        shutil.copytree(finished_run.path, logs / "runs" / "broken", ignore=shutil.ignore_patterns("model"))
        damage = damage_one(some, logs / "runs" / "broken", RUN_FILES)
        try:
            with limited():
                runs = list_runs(logs)
                said = [describe_runs(runs), describe_damage(runs), describe_sweeps(logs)]
                collection = collect([logs])
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\nof {damage!r:.2000}") from error
        assert listed_without(logs, "broken") == wanted, damage
        assert not steering("".join(said).replace("\n", "")), damage
        (found,) = (run for run in collection.runs if run.name == "whole")
        assert (found.status, found.result, found.metrics) == ("finished", kept.result, kept.metrics)
        broken = [run for run in collection.runs if run.name == "broken"]
        statuses |= {run.status for run in broken}
        words = [run.why for run in broken] + list(collection.notes)
        assert not any(steering(word) for word in words), (damage, words)
    assert {"finished", "damaged"} <= statuses


def test_a_damaged_list_of_runs_hides_no_run(logs):
    whole = (logs / "sweeps" / "both" / "runs.json").read_bytes()
    for some in cases("runs.json", 100):
        content = damaged_json(some, whole)
        (logs / "sweeps" / "both" / "runs.json").write_bytes(content)
        said = keeps_the_law(lambda: describe_sweeps(logs), ["runs.json"], lambda: content)
        assert said is not None and not steering(said.replace("\n", "")), content
        collection = keeps_the_law(lambda: collect([logs]), ["runs.json"], lambda: content)
        assert collection is not None and {"whole", "broken"} <= {run.name for run in collection.runs}, content
        keeps_the_law(lambda: collect([logs / "sweeps" / "both"]), ["both"], lambda: content)


@pytest.mark.parametrize(
    ("name", "read", "spoil"),
    [
        ("result.json", lambda path: RunDirectory(path.parent).read_result(), damaged_json),
        ("manifest.json", lambda path: load_json(path, name=str), damaged_json),
        ("metrics.jsonl", lambda path: load_metrics(path.parent), damaged_json),
        ("rankings.jsonl", lambda path: load_json_lines(path, id=str), damaged_json),
        (".hydra/config.yaml", load_yaml, damaged_yaml),
        (".hydra/overrides.yaml", lambda path: load_yaml(path, list), damaged_yaml),
    ],
)
def test_a_file_of_a_run_is_read_or_refused(name, read, spoil, finished_run, tmp_path):
    whole = (finished_run.path / name).read_bytes()
    if name == "rankings.jsonl":
        whole = b"\n".join(whole.split(b"\n")[:3]) + b"\n"
    path = tmp_path / "runs" / "broken" / name
    path.parent.mkdir(parents=True)
    for some in cases(name, 100):
        content = spoil(some, whole)
        path.write_bytes(content)
        keeps_the_law(lambda: read(path), [str(path)], lambda: content)


@pytest.mark.parametrize("name", ["result.json", ".hydra/config.yaml", "model/biencoder.json", "manifest.json"])
def test_a_run_with_a_damaged_file_is_opened_or_refused(name, finished_run, tmp_path):
    """As evaluate, retrieve, export and load begin."""
    run = tmp_path / "logs" / "runs" / "broken"
    skipped = shutil.ignore_patterns("*.safetensors", "rankings.jsonl")
    shutil.copytree(finished_run.path, run, ignore=skipped)
    whole = (run / name).read_bytes()
    for some in cases(f"open {name}", 25):
        content = (damaged_yaml if name.endswith("yaml") else damaged_json)(some, whole)
        (run / name).write_bytes(content)
        # What is wrong with a setting is said of its key, as on the command line.
        named = [str(run), *("=", ": must be")]
        keeps_the_law(lambda: open_run(run, ()), named, lambda: content)


def test_a_saved_model_is_loaded_or_refused(finished_run, tmp_path):
    whole = finished_run.path / "model"
    for some in cases("model", 50):
        model = tmp_path / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(whole, model, ignore=shutil.ignore_patterns("encoder"))
        damage = damage_one(some, model, ["biencoder.json", "biencoder.safetensors"])

        def load():
            return restore_biencoder(model, read_model_spec(model))

        keeps_the_law(load, [str(model)], lambda: damage)


# --- what is believed only as it was written ---


def small_checkpoint(run: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer, RunState]:
    """A run of three epochs whose second is the best, with its checkpoint."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    state = RunState()
    run.mkdir(parents=True)
    for epoch, value in ((-1, 0.1), (0, 0.5), (1, 0.7), (2, 0.6)):
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        state.records.append({"epoch": epoch, "val/top1_clean": value, "val/top1": value})
        state.step += epoch >= 0
        if epoch >= 0:
            state.best_epoch = 1 if epoch else 0
            save_checkpoint(run / "checkpoint", snapshot(model, optimizer, state))
    return model, optimizer, state


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_a_checkpoint_is_loaded_as_it_was_written_or_not_at_all(tmp_path):
    run = tmp_path / "runs" / "NAME"
    model, optimizer, state = small_checkpoint(run)
    trained = weights(model)
    names = sorted(files_below(run / "checkpoint"))
    assert names == ["best-1.pt", "last.pt", "last.pt.sha256"]
    kept = tmp_path / "kept"
    shutil.copytree(run / "checkpoint", kept)
    outcomes = set()
    for some in cases("checkpoint", 150):
        shutil.rmtree(run / "checkpoint")
        shutil.copytree(kept, run / "checkpoint")
        damage = damage_one(some, run / "checkpoint", names)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        try:
            with limited():
                loaded = load_checkpoint(run / "checkpoint", model, optimizer, "top1_clean")
        except DamagedCheckpoint as error:
            assert not steering(str(error)), damage
            assert all(not value.any() for value in weights(model)), damage
            outcomes.add("refused")
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\nof {damage!r:.2000}") from error
        if loaded is None:
            assert damage[0] == "last.pt" and not (run / "checkpoint" / "last.pt").exists()
            continue
        outcomes.add("loaded")
        assert (loaded.records, loaded.best_epoch, loaded.step) == (state.records, 1, 3), damage
        assert all(torch.equal(a, b) for a, b in zip(weights(model), trained, strict=True)), damage
    assert outcomes == {"refused", "loaded"}, "a damage may change nothing, as a line end of the checksum's file"


def test_an_entry_of_the_cache_is_as_it_was_made_or_made_anew(tmp_path, capsys):
    made = {"texts": ["a", "é"], "numbers": [1.5, None]}
    path = tmp_path / "cache" / "entry.json"
    num_made = 0

    def make():
        nonlocal num_made
        num_made += 1
        return made

    def entry():
        return load_or_make(
            path,
            lambda file: json.loads(file.read_bytes()),
            make,
            lambda value, file: file.write(json.dumps(value).encode()),
        )

    for some in cases("cache", 250):
        assert entry() == made
        damage = damage_one(some, path.parent, ["entry.json", "entry.json.sha256"])
        with limited():
            assert entry() == made, damage
        assert not steering(capsys.readouterr().err.replace("\n", "")), damage
        assert entry() == made and capsys.readouterr().err == "", damage
    assert num_made > 100


def test_a_kept_index_is_as_it_was_or_made_anew(tmp_path, capsys):
    import numpy as np

    from biencoder_ablate.api import SearchIndex
    from biencoder_ablate.evaluation.distances import Targets
    from biencoder_ablate.retrieve import load_index, save_index

    texts = ["one", "two", "three"]
    targets = Targets(torch.zeros(2), torch.arange(9.0).reshape(3, 3))
    index = SearchIndex(texts, np.arange(3), np.arange(3), torch.ones(3, 4), targets)
    path = tmp_path / "index" / "kept"
    num_kept = 0
    for some in cases("index", 60):
        shutil.rmtree(tmp_path / "index", ignore_errors=True)
        path.parent.mkdir()
        save_index(path, index, [["line 1"]] * 3)
        damage = damage_one(some, path.parent, ["kept/index.json", "kept/index.safetensors", "kept.sha256"])
        with limited():
            found = load_index(path, "cpu")
        if found is not None:
            num_kept += 1
            assert found[0].texts == texts and torch.equal(found[0].h, index.h), damage
    assert num_kept < 30 and "made anew" in capsys.readouterr().err


def test_bytes_that_change_one_file_change_its_checksum():
    """What the tests above rest on: hardly a damage leaves a file as it was."""
    whole = json.dumps({"a": 1, "b": ["é", None]}).encode()
    changed = sum(damaged(some, whole) != whole for some in cases("damages", 300))
    assert changed > 240
