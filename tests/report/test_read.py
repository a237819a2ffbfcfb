"""From paths to studies: which runs are found, what is wrong with the others, and what sets configs apart."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.helpers import start
from support.report_runs import CURRICULUM, HEADS, config_of, made_up_points, sample_points, write_run, write_study

from biencoder_ablate.config.schema import DataConfig, EvaluationConfig, FusionConfig, ModelConfig, TrainingConfig
from biencoder_ablate.report.read import Metric, Protocol, collect, read_overrides
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.runs.directory import locked
from biencoder_ablate.utils.files import write_json

NUM_SAMPLE_POINTS = len(sample_points())


@pytest.fixture
def logs(tmp_path) -> Path:
    """logs/ with two runs."""
    for seed in (0, 1):
        write_run(tmp_path / "logs" / "runs", config_of(seed=seed), [1] * NUM_SAMPLE_POINTS)
    return tmp_path / "logs"


def write_sweep(logs: Path, names: list[str]) -> Path:
    sweep = logs / "sweeps" / "heads"
    sweep.mkdir(parents=True)
    jobs = [{"overrides": ["seed=7"], "name": name, "directory": f"../../runs/{name}"} for name in names]
    write_json(sweep / "runs.json", {"name": "heads", "overrides": [], "jobs": jobs})
    return sweep


# --- which runs ---


def test_runs_are_found_wherever_one_points(logs):
    runs = sorted((logs / "runs").iterdir())
    (logs / "runs" / ".old.old").mkdir()
    sweep = write_sweep(logs, [run.name for run in runs])
    for places in ([logs], [logs / "runs"], runs, [sweep], [logs / "sweeps"], [logs.parent], [logs, sweep, *runs]):
        collection = collect(places)
        assert sorted(run.path for run in collection.runs) == runs, places
        assert {run.status for run in collection.runs} == {"finished"}
        assert collection.notes == ()


def test_a_sweep_tells_of_runs_that_never_started(logs):
    sweep = write_sweep(logs, ["none_neg0.01_seed7_00000000", next((logs / "runs").iterdir()).name])
    missing, finished = collect([sweep]).runs
    assert (missing.status, missing.overrides) == ("not started", ("seed=7",))
    assert finished.status == "finished"


def test_a_sweep_is_known_by_its_runs_and_its_command(logs):
    names = ["none_neg0.01_seed7_00000000", next((logs / "runs").iterdir()).name]
    sweep = write_sweep(logs, names)
    for places in ([sweep], [logs], [logs / "sweeps", sweep]):
        (found,) = collect(places).sweeps
        assert (found.path, found.overrides, list(found.names)) == (sweep, (), names)
    assert collect([logs / "runs"]).sweeps == ()


def test_a_config_with_references_is_read_as_one_without(logs):
    run = sorted((logs / "runs").iterdir())[0]
    plain = collect([run]).runs[0].config
    assert plain["data"]["name"] == "sample" and plain["training"]["head_learning_rate"] == 1e-3
    path = run / ".hydra" / "config.yaml"
    written = path.read_text("utf-8")
    assert "  split_seed: 0\n" in written and "\nseed: 0\n" in written
    path.write_text(written.replace("  split_seed: 0\n", "  split_seed: ${seed}\n"), "utf-8")
    assert collect([run]).runs[0].config == plain
    # What a resolver would make of it could be this machine's own.
    path.write_text(written.replace("name: sample", "name: ${oc.decode:sample}"), "utf-8")
    assert collect([run]).runs[0].config["data"]["name"] == "${oc.decode:sample}"
    path.write_text("data: [", "utf-8")
    assert collect([run]).runs[0].config == {}


def test_one_run_in_two_places_counts_once(logs, tmp_path):
    other = tmp_path / "copy" / "runs"
    shutil.copytree(logs / "runs", other)
    name = next(other.iterdir()).name
    (logs / "runs" / name / "result.json").unlink()
    collection = collect([logs, tmp_path / "copy"])
    assert len(collection.runs) == 2
    assert {run.status for run in collection.runs} == {"finished"}, "the finished one of the two is used"
    assert len(collection.notes) == 2
    assert f"{other / name} is used" in "\n".join(collection.notes)


@pytest.mark.parametrize(("make", "message"), [(False, "no such directory"), (True, "no run in it")])
def test_a_place_without_runs_is_refused(tmp_path, make, message):
    place = tmp_path / "here"
    if make:
        place.mkdir()
    with pytest.raises(ValueError, match=message):
        collect([place])


def test_a_damaged_list_of_a_sweep_is_refused(logs):
    sweep = write_sweep(logs, [])
    (sweep / "runs.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"runs\.json: damaged"):
        collect([sweep])


def test_who_is_right_is_read_under_each_protocol_by_its_own_rank(tmp_path):
    """A point can be right among the clean candidates alone, where a text equal to it came first officially."""
    right, right_clean = [1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 1, 1]
    write_run(tmp_path, config_of(), right, made_up_points(1), leaked=(5,), right_clean=right_clean, fingerprint="f")
    outcomes = collect([tmp_path]).runs[0].outcomes
    assert outcomes.correct[Protocol.OFFICIAL].tolist() == right
    clean = outcomes.correct[Protocol.CLEAN]
    assert clean[:5].tolist() == right_clean[:5]
    assert math.isnan(clean[5])
    assert outcomes.debates_of(Protocol.CLEAN) == ["debate-000"] * 5


@pytest.mark.parametrize("metric", [Metric.TOP1, Metric.MRR, Metric.RECALL])
@pytest.mark.parametrize("spelling", ["as runs write it", "close", "from the last key", "val after test", "CRLF"])
def test_rankings_are_read_alike_however_they_are_spelled(tmp_path, metric, spelling):
    """Lines in the form in which runs write them are cut without being parsed; here beside what JSON says they hold."""
    path = write_run(tmp_path, config_of(), [1] * 30, made_up_points(5), leaked=(3,), fingerprint="f")
    rng = np.random.default_rng(0)
    val, *test = map(json.loads, (path / "rankings.jsonl").read_text("utf-8").splitlines())
    for record in test:
        for key in ("stage1_rank", "rank", "clean_stage1_rank", "clean_rank"):
            record[key] = record[key] and int(rng.integers(1, 14))
    test[7]["id"], test[9]["first"], test[11]["debate"] = 'test/a "b"\\con01', "test/ü\t#point", 'test "test" ẞ'
    lines = [val, *test] if spelling != "val after test" else [*test, val]
    if spelling == "from the last key":
        lines = [dict(reversed(record.items())) for record in lines]
    close = {"separators": (",", ":")} if spelling == "close" else {}
    text = [json.dumps(record, ensure_ascii=False, **close) + "\r" * (spelling == "CRLF") for record in lines]
    (path / "rankings.jsonl").write_bytes("".join(f"{line}\n" for line in text).encode())
    which = "stage1_rank" if metric is Metric.RECALL else "rank"
    ranks = {Protocol.CLEAN: [r[f"clean_{which}"] for r in test], Protocol.OFFICIAL: [r[which] for r in test]}
    scores = {Metric.TOP1: lambda r: float(r == 1), Metric.MRR: lambda r: 1 / r, Metric.RECALL: lambda r: float(r < 11)}
    figure = float(np.mean([scores[metric](rank) for rank in ranks[Protocol.OFFICIAL]]))
    rewrite(path / "result.json", test={"top1": 0.5, metric: figure})
    (run,) = collect([path], metric).runs
    assert run.status == "finished", run.why
    outcomes = run.outcomes
    assert list(outcomes.ids) == [record["id"] for record in test]
    assert list(outcomes.debates) == [record["debate"] for record in test]
    assert list(outcomes.first) == [record["first"] for record in test]
    for protocol, listed in ranks.items():
        expected = [math.nan if rank is None else scores[metric](rank) for rank in listed]
        np.testing.assert_array_equal(outcomes.correct[protocol], expected)


# --- what is wrong with a run ---


def state(path: Path) -> tuple[str, str]:
    (run,) = collect([path]).runs
    return run.status, run.why


def rewrite(path: Path, **changes) -> None:
    content = json.loads(path.read_text("utf-8"))
    write_json(path, {**content, **changes})


def test_what_is_wrong_is_said_and_never_raised(logs):
    def damaged(change) -> tuple[str, str]:
        """State of a fresh run after `change` has been at its directory."""
        path = write_run(logs / "broken", config_of(seed=5), [1] * NUM_SAMPLE_POINTS)
        change(path)
        found = state(path)
        shutil.rmtree(logs / "broken")
        return found

    assert damaged(lambda p: rewrite(p / "result.json", status="failed", error="OSError: disk full")) == (
        "failed",
        "OSError: disk full",
    )
    assert damaged(lambda p: (p / "result.json").unlink())[0] == "interrupted"
    assert "4 epochs done" in damaged(lambda p: (p / "result.json").unlink())[1]
    assert damaged(lambda p: (p / "result.json").write_text("{", "utf-8")) == (
        "damaged",
        "result.json cannot be read as JSON",
    )
    assert damaged(lambda p: (p / "rankings.jsonl").unlink()) == ("damaged", "rankings.jsonl is missing")
    assert damaged(lambda p: (p / "rankings.jsonl").write_text('{"split": "test"', "utf-8"))[0] == "damaged"
    assert damaged(lambda p: (p / "rankings.jsonl").write_text("", "utf-8"))[1] == "rankings.jsonl has no test point"
    assert damaged(lambda p: (p / "manifest.json").unlink())[0] == "damaged"
    assert damaged(lambda p: (p / "metrics.jsonl").unlink())[0] == "damaged"
    assert "not of one run" in damaged(lambda p: rewrite(p / "result.json", test={"top1": 0.5}))[1]
    assert damaged(lambda p: (p / ".hydra" / "config.yaml").write_text("{", "utf-8"))[0] == "finished"


def test_a_run_that_someone_works_in_is_running(logs):
    path = write_run(logs / "runs", config_of(seed=5), [1] * NUM_SAMPLE_POINTS)
    with locked(path):
        program = (
            "from pathlib import Path; from biencoder_ablate.report.read import read_run; import sys; "
            "print(read_run(Path(sys.argv[1])).status)"
        )
        assert start(["-c", program, path], logs).communicate()[0].strip() == "running"
    assert state(path)[0] == "finished"


@pytest.mark.parametrize(
    "override", ["head=relu", "data.path='/a b/c: d #e.csv'", "x={a: 1}", "sweep_name=l'été", "a=[1,2]"]
)
def test_overrides_are_read_as_typed(tmp_path, override):
    path = tmp_path / "overrides.yaml"
    path.write_text(f"- seed=1\n- {override}\n", "utf-8")
    assert read_overrides(path) == ("seed=1", override)


@pytest.mark.parametrize("line", ["- 'data.path=l''été: #1'", '- "data.path=l\'été: #1"'])
def test_overrides_may_be_quoted_as_yaml(tmp_path, line):
    path = tmp_path / "overrides.yaml"
    path.write_text(f"{line}\n", "utf-8")
    assert read_overrides(path) == ("data.path=l'été: #1",)
    path.write_text("[]\n", "utf-8")
    assert read_overrides(path) == ()


# --- what sets configs apart ---


def labels(axis) -> tuple[str, ...]:
    return tuple(level.label for level in axis.levels)


def study_of(runs: Path):
    (study,) = make_studies(collect([runs]).runs)
    return study


def test_heads_ratios_and_seeds_are_found(tmp_path):
    write_study(tmp_path, dict.fromkeys(HEADS, 0.5), seeds=(3, 1), ratios=(0.2, 0.01), points=sample_points())
    write_study(
        tmp_path,
        dict.fromkeys(HEADS, 0.5),
        seeds=(1,),
        points=sample_points(),
        change=lambda config: replace(config, negatives=CURRICULUM),
    )
    study = study_of(tmp_path)
    assert [(axis.name, labels(axis)) for axis in study.axes] == [
        ("head", ("none", "layernorm", "relu", "layernorm_relu")),
        ("negatives", ("neg 0.01", "neg 0.2", "curr 0.01")),
    ]
    assert [cell.name for cell in study.cells][:4] == [
        "none, neg 0.01",
        "none, neg 0.2",
        "none, curr 0.01",
        "layernorm, neg 0.01",
    ]
    assert list(study.cells[0].runs) == [1, 3]
    assert ("fusion", "concat") in study.constants
    assert study.name == "sample"


def test_seeds_are_in_order_of_their_numbers(tmp_path):
    """Whatever order runs are found in: 10 stands before 2 in a list of directories."""
    points = made_up_points(2)
    for seed in (10, 8, 2, 1):
        write_run(tmp_path, config_of(seed=seed), [1.0] * len(points), points, fingerprint="f" * 64)
    study = study_of(tmp_path)
    assert study.seeds == [1, 2, 8, 10]
    assert [list(cell.runs) for cell in study.cells] == [[1, 2, 8, 10]]
    assert [run.identity["seed"] for run in study.runs] == [1, 2, 8, 10]


def test_where_the_relu_stands_sets_apart_only_heads_that_have_one(tmp_path):
    positions = {"none": ["before"], "layernorm": ["after"], "relu": ["before", "after"]}
    positions["layernorm_relu"] = positions["relu"]
    for head, found in positions.items():
        for position in found:
            config = config_of(head)
            config = replace(config, head=replace(config.head, activation_position=f"{position}_linear2"))
            write_run(tmp_path, config, [1] * NUM_SAMPLE_POINTS)
    (axis,) = study_of(tmp_path).axes
    assert labels(axis) == (*HEADS, "relu before linear2", "layernorm_relu before linear2")


def test_what_always_changes_together_is_one_axis(tmp_path):
    minilm = ModelConfig(name="minilm", name_or_path="sentence-transformers/all-MiniLM-L6-v2", max_tokens=256)
    tiny = ModelConfig(name="tiny", name_or_path=None, max_tokens=128)
    for seed in (0, 1):
        write_run(tmp_path, config_of(seed=seed, model=tiny), [1] * NUM_SAMPLE_POINTS, encoder="b" * 64)
        write_run(tmp_path, config_of(seed=seed, model=minilm), [1] * NUM_SAMPLE_POINTS, encoder="a" * 64)
    (axis,) = study_of(tmp_path).axes
    assert (axis.name, labels(axis)) == ("encoder", ("all-MiniLM-L6-v2", "tiny"))
    assert axis.with_it == ("model.max_tokens (all-MiniLM-L6-v2: 256, tiny: 128)",)


def test_any_other_setting_is_an_axis_by_its_key(tmp_path):
    for fusion in ("pooled", "concat"):
        for batch_size in (16, 8, 128):
            config = config_of(fusion=FusionConfig(fusion), training=TrainingConfig(batch_size=batch_size))
            write_run(tmp_path, config, [1] * NUM_SAMPLE_POINTS)
    study = study_of(tmp_path)
    assert [(axis.name, labels(axis)) for axis in study.axes] == [
        ("fusion", ("concat", "pooled")),
        ("training.batch_size", ("8", "16", "128")),
    ]
    assert study.cells[0].name == "fusion=concat, training.batch_size=8"


def test_paths_and_places_set_nothing_apart(tmp_path):
    for seed, changes in enumerate(({}, {"logs_dir": "elsewhere", "cache_dir": "/tmp/c", "sweep_name": "s"})):
        write_run(tmp_path, config_of(seed=seed, **changes), [1] * NUM_SAMPLE_POINTS)
    study = study_of(tmp_path)
    assert study.axes == ()
    assert list(study.cells[0].runs) == [0, 1]


def test_null_is_a_level_and_comes_last(tmp_path):
    for dim in (None, 128, 32):
        write_run(tmp_path, config_of(model=ModelConfig(retrieval_dim=dim)), [1] * NUM_SAMPLE_POINTS)
    assert labels(study_of(tmp_path).axes[0]) == ("32", "128", "null")


def test_different_corpora_are_kept_apart(tmp_path):
    write_study(tmp_path, {"none": 0.5, "relu": 0.5}, seeds=range(3), points=made_up_points(5))
    write_study(tmp_path, {"none": 0.5}, seeds=range(2), points=sample_points())
    first, second = make_studies(collect([tmp_path]).runs)
    assert (len(first.runs), len(second.runs)) == (6, 2), "the larger first"
    assert first.name.startswith("arguana (ffffffff")
    assert second.name.startswith("sample (")
    assert [axis.name for axis in first.axes] == ["head"]


def test_what_the_corpus_was_cut_to_is_in_its_name(tmp_path):
    data = DataConfig(name="pairs", path="/my/pairs.csv", limit=3, disjoint=True)
    write_run(tmp_path, config_of(data=data), [1] * NUM_SAMPLE_POINTS)
    assert study_of(tmp_path).name == "pairs.csv, first 3 debates of each split, disjoint"


def test_other_points_under_one_fingerprint_are_refused(tmp_path):
    write_run(tmp_path, config_of(seed=0), [1] * 6, made_up_points(1), fingerprint="f" * 64)
    write_run(tmp_path, config_of(seed=1), [1] * 12, made_up_points(2), fingerprint="f" * 64)
    with pytest.raises(ValueError, match="hold different test points; run the damaged one again"):
        make_studies(collect([tmp_path]).runs)


def test_runs_that_only_measure_differently_are_told_apart(tmp_path):
    for rerank in (10, "all"):
        write_run(tmp_path, config_of(evaluation=EvaluationConfig(rerank=rerank)), [1] * NUM_SAMPLE_POINTS)
    assert labels(study_of(tmp_path).axes[0]) == ("10", "all")


# --- any heads, any settings ---

FOUR = [{"norm": norm, "activation": activation} for activation in ("none", "relu") for norm in ("none", "layernorm")]
OTHERS = [
    {"norm": "rmsnorm", "activation": "gelu", "activation_position": "after_linear2"},
    {"name": "bilinear", "norm": None, "activation": None},
    {"name": "mlp", "norm": None, "activation": None, "hidden": 64},
    {"name": "elsewhere.gated", "norm": None, "activation": None, "options": {"width": 8, "deep": True}},
]


def write_settings(runs: Path, *changes: dict, seeds=range(2)) -> None:
    """A run of each set of changes to the settings, and seed; points that nobody knows."""
    points = made_up_points(4)
    for k, some in enumerate(changes):
        for seed in seeds:
            right = [(i + k + seed) % 3 == 0 for i in range(len(points))]
            settings = {**some, "seed": seed}
            write_run(runs, config_of(seed=seed), right, points, fingerprint="f" * 64, determined_by=settings)


def test_heads_of_every_kind_have_a_name_and_unknown_ones_come_last(tmp_path):
    before = {"activation": "relu", "activation_position": "before_linear2"}
    write_settings(tmp_path, *({"head": head} for head in [*OTHERS, before, *FOUR]))
    (axis,) = study_of(tmp_path).axes
    assert axis.name == "head"
    assert labels(axis) == (
        *HEADS,
        "relu before linear2",
        "bilinear",
        "elsewhere.gated width=8 deep=true",
        "mlp",
        "rmsnorm_gelu",
    )


def test_heads_of_one_name_are_told_apart_by_what_differs(tmp_path):
    write_settings(tmp_path, *({"head": {"name": "mlp", "hidden": hidden, "norm": None}} for hidden in (64, 8)))
    write_settings(tmp_path, *({"head": {"name": "mine", "norm": norm}} for norm in ("layernorm", "rmsnorm")))
    write_settings(tmp_path, *({"head": {"name": "mine", "norm": "none", "options": {"depth": n}}} for n in (1, 2)))
    write_settings(
        tmp_path,
        *({"head": {"activation": "gelu", "activation_position": f"{w}_linear2"}} for w in ("after", "before")),
    )
    (axis,) = study_of(tmp_path).axes
    assert set(labels(axis)) == {
        "mlp hidden=8", "mlp hidden=64", "mine norm=layernorm", "mine norm=rmsnorm", "mine depth=1", "mine depth=2",
        "gelu", "gelu before linear2",
    }  # fmt: skip


def test_settings_that_the_report_has_never_heard_of_are_axes_too(tmp_path):
    write_settings(
        tmp_path,
        *(
            {"model": {"towers": towers}, "training": {"ema": ema}}
            for towers in ("shared", "separate")
            for ema in (0.9, None, 0.99)
        ),
        seeds=(0,),
    )
    assert [(axis.name, labels(axis)) for axis in study_of(tmp_path).axes] == [
        ("model.towers", ("separate", "shared")),
        ("training.ema", ("0.9", "0.99", "null")),
    ]


def test_what_a_change_of_loss_brings_with_it_is_one_axis(tmp_path):
    contrastive = {"name": "contrastive", "triplet": None, "temperature": 0.05, "options": {"hard": 2}}
    write_settings(tmp_path, {}, {"loss": contrastive})
    (axis,) = study_of(tmp_path).axes
    assert (axis.name, labels(axis)) == ("loss", ("contrastive", "study"))
    assert "loss.options.hard (contrastive: 2, study: null)" in axis.with_it


def test_the_number_of_negatives_is_an_axis_beside_their_schedule(tmp_path):
    some = [{"negatives": {"per_pair": n}, "neg_ratio": ratio} for n in (1, 4) for ratio in (0.1, 0.02)]
    write_settings(tmp_path, *some, {"negatives": {"schedule": "curriculum", "start": 0.2}, "neg_ratio": 0.02})
    assert [(axis.name, labels(axis)) for axis in study_of(tmp_path).axes] == [
        ("negatives", ("neg 0.02", "neg 0.1", "curr 0.02")),
        ("negatives.per_pair", ("1", "4")),
    ]


def test_numbers_that_differ_in_a_late_digit_are_two_levels(tmp_path):
    write_settings(tmp_path, *({"training": {"rate": rate}} for rate in (0.12345671, 0.12345672)))
    assert labels(study_of(tmp_path).axes[0]) == ("0.12345671", "0.12345672")
