"""`decide`: exit codes, the JSON, what is refused, and what is remembered; and the same in Python as data frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas
import pytest
from support.helpers import run_python
from support.report_runs import made_up_points, write_study
from support.tables import scores, write_columns

import biencoder_ablate
from biencoder_ablate.decide import main
from biencoder_ablate.report.__main__ import main as report
from biencoder_ablate.runs.status import SweepDirectory

HEADS = {"none": 0.5, "layernorm": 0.3, "relu": 0.5, "layernorm_relu": 0.3}


def make_sweep(folder: Path, num_seeds: int, margin: float | None = None, unfinished: int = 0) -> Path:
    """Four heads; LayerNorm costs 0.2, the ReLU brings nothing. `unfinished` further seeds are listed alone."""
    points = made_up_points(60, 8)
    paths = write_study(folder / "logs" / "runs", HEADS, range(num_seeds), points=points)
    names = [path.name for path in paths]
    jobs = [[f"head={head}", f"seed={seed}"] for head in HEADS for seed in range(num_seeds)]
    for head in HEADS if unfinished else ():
        for seed in range(num_seeds, num_seeds + unfinished):
            jobs.append([f"head={head}", f"seed={seed}"])
            names.append(f"{head}_seed{seed}")
    sweep = SweepDirectory(folder / "logs" / "sweeps" / "first")
    typed = ["head=none,layernorm,relu,layernorm_relu", f"seed=range(0,{num_seeds + unfinished})"]
    sweep.write(typed, jobs, names, margin)
    return sweep.path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweep"), 8)


@pytest.fixture
def unseen(sweep) -> Path:
    """The sweep as nobody has looked at it."""
    (sweep / "looks.json").unlink(missing_ok=True)
    return sweep


def decided(capsys, *arguments: str | Path) -> tuple[int, dict]:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def only_error(capsys, *arguments: str | Path) -> str:
    assert main([*map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def by_name(document: dict) -> dict[str, dict]:
    return {each["name"]: each for each in document["studies"][0]["comparisons"]}


def test_the_exit_code_is_0_where_all_is_decided_and_3_where_not(unseen, capsys):
    code, document = decided(capsys, unseen, "--margin", 0.06)
    assert (code, document["exit_code"], document["decided"]) == (0, 0, True)
    assert by_name(document)["LayerNorm"]["verdict"] == "does_harm"
    assert by_name(document)["ReLU"]["verdict"] == "may_be_removed"
    assert document["next"] == {"seeds": None, "command": None}
    (unseen / "looks.json").unlink()
    code, document = decided(capsys, unseen)
    assert (code, document["decided"]) == (3, False)
    assert by_name(document)["ReLU"]["verdict"] == "not_yet"


def test_the_json_says_what_was_read_and_what_was_not(unseen, capsys):
    _, document = decided(capsys, unseen, "--margin", 0.06)
    assert document["schema"] == 1
    assert (document["metric"], document["protocol"], document["margin"]) == ("top-1", "clean", 0.06)
    assert document["margin_declared_by"] == "command"
    assert (document["runs"]["found"], document["runs"]["finished"]) == (32, 32)
    (study,) = document["studies"]
    assert (study["queries"], study["groups"], study["seeds"]) == (480, 60, list(range(8)))
    assert [each["name"] for each in study["without_training"]] == ["chance"]
    part = by_name(document)["LayerNorm"]
    assert part["family_interval"][0] < part["interval"][0] < part["estimate"] < part["interval"][1]
    assert part["would_decide"] is None


def test_few_seeds_are_not_enough_and_the_next_command_goes_on_with_the_sweep(tmp_path, capsys):
    sweep = make_sweep(tmp_path, 4)
    code, document = decided(capsys, sweep)
    assert code == 3
    needed = by_name(document)["LayerNorm"]["would_decide"]
    assert needed["seeds"] == 7, "three tests by Holm: 3 · 2/2^7 is below 0.05, 3 · 2/2^6 is not"
    assert needed["command"] == (
        "python -m biencoder_ablate -m head=none,layernorm,relu,layernorm_relu 'seed=range(0,7)' sweep_name=first"
    )


def test_runs_that_are_listed_come_first(tmp_path, capsys):
    sweep = make_sweep(tmp_path, 4, unfinished=2)
    code, document = decided(capsys, sweep)
    assert code == 3
    assert document["runs"]["not_finished"][0]["status"] == "not started"
    assert document["next"]["command"].endswith("layernorm_relu 'seed=range(0,6)' sweep_name=first")

    # The last call had fewer seeds than the sweep lists: what goes on is all of it.
    described = json.loads((sweep / "runs.json").read_text())
    described["overrides"] = ["head=none,layernorm,relu,layernorm_relu", "seed=0,1"]
    (sweep / "runs.json").write_text(json.dumps(described))
    _, document = decided(capsys, sweep)
    assert document["next"]["command"].endswith("layernorm_relu 'seed=range(0,6)' sweep_name=first")


def test_a_configuration_without_a_run_keeps_the_question_open(unseen, tmp_path, capsys):
    described = json.loads((unseen / "runs.json").read_text())
    described["jobs"].append({"name": "mlp", "directory": "../../runs/mlp", "overrides": ["head=mlp", "seed=0"]})
    partial = unseen.parent / "partial"
    partial.mkdir()
    (partial / "runs.json").write_text(json.dumps(described))
    code, document = decided(capsys, partial, "--margin", 0.06)
    assert (code, document["decided"]) == (3, False)
    assert document["runs"]["configurations_without_a_run"] == ["head=mlp"]


def test_the_margin_of_the_sweep_counts_and_another_one_is_refused(tmp_path, capsys):
    sweep = make_sweep(tmp_path, 3, margin=0.06)
    _, document = decided(capsys, sweep)
    assert (document["margin"], document["margin_declared_by"]) == (0.06, "sweep")
    before = (sweep / "looks.json").read_bytes()
    error = only_error(capsys, sweep, "--margin", 0.1)
    assert error == "error: margin=0.1: sweep first declared margin=0.06 before it ran; leave --margin out\n"
    assert (sweep / "looks.json").read_bytes() == before
    assert report([str(sweep), "--margin", "0.1", "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_a_margin_after_a_look_is_said_to_be_one_and_cannot_be_changed(unseen, capsys):
    decided(capsys, unseen)
    _, document = decided(capsys, unseen, "--margin", 0.06)
    assert document["margin_declared_by"] == "after_a_look"
    _, document = decided(capsys, unseen)
    assert (document["margin"], document["margin_declared_by"]) == (0.06, "after_a_look")
    assert "an earlier look at this sweep had 0.06" in only_error(capsys, unseen, "--margin", 0.05)


def test_looks_that_nobody_declared_are_counted(tmp_path, capsys):
    sweep = make_sweep(tmp_path, 4)
    (sweep / "looks.json").write_text('{"seeds": {"arguana": [2, 3]}}')
    _, document = decided(capsys, sweep)
    assert document["studies"][0]["looks"] == {
        "declared": [],
        "undeclared": [2, 3],
        "num_undeclared": 2,
        "reached": None,
    }
    assert json.loads((sweep / "looks.json").read_text())["seeds"] == {"arguana": [2, 3, 4]}
    assert main([str(sweep)]) == 3
    assert "Seeds were added after a look" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--margin", "0"], "margin=0: must be a number above 0"),
        (["--margin", "nan"], "margin=nan: must be a number above 0"),
        (["--margin", "-1"], "margin=-1: must be a number above 0"),
        (["--margin", "some"], "--margin"),
        (["--metric", "accuracy"], "--metric"),
        (["--looks", "1"], "--looks 1: must be numbers of seeds"),
        (["--looks", "8,12", "--looks", "8,20"], "--looks: 8,12 and 8,20 contradict each other; give one"),
        (["--margin", "0.01", "--margin", "0.02"], "--margin: 0.01 and 0.02 contradict each other; give one"),
    ],
)
def test_what_is_not_valid_is_one_line_and_nothing_is_remembered(unseen, capsys, arguments, said):
    assert said in only_error(capsys, unseen, *arguments)
    assert not (unseen / "looks.json").exists()


def test_another_programs_table_is_decided_and_looks_need_seeds(tmp_path, capsys):
    path = write_columns(tmp_path / "scores.csv", scores({"a": 0.0, "b": 0.0, "c": 0.3}))
    code, document = decided(capsys, "--from", path, "--margin", 0.08)
    assert code == 0
    assert by_name(document)["a − b"]["verdict"] == "equal"
    assert by_name(document)["a − c"]["verdict"] == "lower"
    without = {**scores({"a": 0.0, "b": 0.3}, num_seeds=1)}
    without["seed"] = [""] * len(without["seed"])
    path = write_columns(tmp_path / "without.csv", without)
    assert "the table has no seeds" in only_error(capsys, "--from", path, "--looks", "8,12")
    alone = write_columns(tmp_path / "alone.csv", scores({"a": 0.0}))
    assert "nothing to decide" in only_error(capsys, "--from", alone)


def test_the_report_writes_the_same_verdict(unseen, tmp_path, capsys):
    assert report([str(unseen), "--margin", "0.06", "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    written = json.loads((tmp_path / "out" / "verdict.json").read_text("utf-8"))
    (unseen / "looks.json").unlink()
    _, document = decided(capsys, unseen, "--margin", 0.06)
    assert written == document
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "may be removed" in page
    assert "A margin of 0.06 was declared (on the command line)" in (tmp_path / "out" / "report.md").read_text("utf-8")


# --- in Python ---


def test_a_frame_and_a_mapping_of_columns_are_compared_alike():
    columns = scores({"a": 0.0, "b": 0.0, "c": 0.3})
    frames = [biencoder_ablate.compare(given, margin=0.08) for given in (columns, pandas.DataFrame(columns))]
    for results in frames:
        assert results.decided
        outcomes = dict(zip(results.verdicts["name"], results.verdicts["verdict"], strict=True))
        assert outcomes == {"a − b": "equal", "a − c": "lower", "b − c": "lower"}
    assert frames[0].to_dict() == frames[1].to_dict()
    assert frames[0].table["system"].tolist() == ["a", "b", "c"]
    assert len(frames[0].points) == len(columns["value"])
    assert frames[0].comparisons["estimate"].tolist() == pytest.approx(frames[0].verdicts["estimate"].tolist())


def test_its_own_points_give_the_same_verdict_again():
    results = biencoder_ablate.compare(scores({"a": 0.0, "b": 0.05}), margin=0.08)
    again = biencoder_ablate.compare(results.points, margin=0.08)
    assert again.verdicts["p_margin"].tolist() == results.verdicts["p_margin"].tolist()


def test_columns_have_the_names_that_are_given_and_others_are_said_not_to_be_read():
    columns = scores({"a": 0.0, "b": 0.3})
    named = {"model": columns["system"], "run": columns["seed"], "topic": columns["query"], "ndcg": columns["value"]}
    results = biencoder_ablate.compare(
        named | {"rank": columns["seed"]}, metric="ndcg", system="model", seed="run", query="topic", baseline="a"
    )
    assert results.verdicts["name"].tolist() == ["b − a"]
    assert "Columns that were not read: rank." in str(results)
    assert results.to_dict()["metric"] == "ndcg"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "hit"}, "value=hit: no such column; the frame has system, seed, query, value, group"),
        ({"group": "topic"}, "group=topic: no such column"),
        ({"baseline": "z"}, "baseline=z: no such system; there are a, b"),
        ({"margin": 0.0}, "margin=0: must be a number above 0"),
        ({"factors": ["baseline"]}, "factors=baseline: is no factor"),
    ],
)
def test_what_a_frame_lacks_is_named(options, said):
    with pytest.raises(ValueError, match=said):
        biencoder_ablate.compare(scores({"a": 0.0, "b": 0.3}, num_seeds=2), **options)


def test_a_value_that_is_no_number_is_refused_with_its_row():
    columns = scores({"a": 0.0, "b": 0.3}, num_seeds=2)
    columns["value"][7] = float("nan")
    with pytest.raises(ValueError, match=r"^row 7: value="):
        biencoder_ablate.compare(columns)


def test_a_sweep_as_data_frames_and_in_a_notebook(unseen):
    results = biencoder_ablate.study(unseen, margin=0.06)
    assert results.decided
    assert len(results.points) == 4 * 8 * 480
    shown = results._repr_html_()
    assert "data:image/svg+xml;base64," in shown
    assert "ReLU: may be removed" in shown
    with pytest.raises(ValueError, match="metric=accuracy: must be top1, mrr, "):
        biencoder_ablate.study(unseen, metric="accuracy")


def test_importing_the_package_imports_neither_numpy_nor_pandas(tmp_path):
    code = "import sys, biencoder_ablate; print([name for name in ('numpy', 'pandas', 'scipy') if name in sys.modules])"
    assert run_python(["-c", code], tmp_path).stdout == "[]\n"


def test_without_pandas_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="install the `pandas` extra"):
        biencoder_ablate.compare({})


def test_looks_on_the_command_line_are_kept_and_other_ones_refused(tmp_path, capsys):
    sweep = make_sweep(tmp_path, 4)
    code, document = decided(capsys, sweep, "--looks", "3,4")
    assert code == 3
    assert document["studies"][0]["looks"]["reached"] == 4
    assert document["next"] == {"seeds": None, "command": None}, "no look is left"
    assert "an earlier look at this sweep had 3,4" in only_error(capsys, sweep, "--looks", "3,8")
    _, document = decided(capsys, sweep)
    assert document["studies"][0]["looks"]["declared"] == [3, 4]


def test_what_a_look_decided_is_remembered_and_said_where_the_runs_have_changed(unseen, capsys):
    """LayerNorm costs 0.2; a ledger that says otherwise is of other runs."""
    assert main([str(unseen), "--looks", "8,12"]) == 3
    capsys.readouterr()
    kept = json.loads((unseen / "looks.json").read_text())
    assert kept["verdicts"] == {"arguana": {"8": {"LayerNorm": "does_harm"}}}
    kept["verdicts"]["arguana"]["8"]["LayerNorm"] = "earns_its_place"
    (unseen / "looks.json").write_text(json.dumps(kept))
    main([str(unseen)])
    said = capsys.readouterr().out
    assert "The look at 8 seeds found LayerNorm: earns_its_place, and its runs now say does_harm" in said
    assert json.loads((unseen / "looks.json").read_text())["verdicts"] == kept["verdicts"], "as it was first found"


@pytest.mark.parametrize("looks", [[1, 8], [2.5], ["8"]])
def test_looks_in_python_are_whole_numbers_of_seeds(looks):
    with pytest.raises(ValueError, match="must be whole numbers of seeds from 2"):
        biencoder_ablate.compare(scores({"a": 0.0, "b": 0.3}, num_seeds=2, num_groups=2), looks=looks)
