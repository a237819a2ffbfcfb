"""Tuning a sweep's variants: the same trials for each, chosen by val alone, and both questions in the report."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from support.helpers import run_here
from support.report_runs import config_of, made_up_points, write_run

from biencoder_ablate.cli.sweep import runs_alone
from biencoder_ablate.cli.tuning import (
    Trials,
    check_earlier,
    draw_points,
    pick,
    plan_trials,
    tuned_jobs,
    variant_of,
    with_earlier,
    with_runs,
)
from biencoder_ablate.config.schema import Config, ConfigError, DataConfig, TrainingConfig, TuningConfig
from biencoder_ablate.decide import main as decide
from biencoder_ablate.report.__main__ import main as report
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.tuning import OWN, best_of, note_left_out, with_own_settings
from biencoder_ablate.runs.directory import RunDirectory
from biencoder_ablate.runs.status import RunStatus
from biencoder_ablate.runs.tuning import Trial, Tuning, Variant, edges, load_tuning, write_tuning
from biencoder_ablate.utils.files import Damaged

RATE = "training.head_learning_rate"
SPACE = {RATE: "tag(log, interval(1e-5, 1e-2))"}
SWEEP = [
    "-m", "model=tiny", "model.max_tokens=16", "data.limit=1", "training.freeze_encoder=true", "training.epochs=1",
    "head=none,layernorm", "seed=0", "tuning=rates", "tuning.trials=2", "tuning.num_seeds=1",
]  # fmt: skip


def jobs_of(heads, seeds):
    return [[f"head={head}", f"seed={seed}"] for head in heads for seed in seeds]


def planned(heads, seeds=(0, 1), **tuning):
    settings = {"name": "rates", "trials": 3, "num_seeds": 2, "space": SPACE} | tuning
    return plan_trials(Config(tuning=TuningConfig(**settings)), jobs_of(heads, seeds))


def status(name, val=None, test=0.0):
    """A run as its result.json has it; one without a val metric failed."""
    result = {"status": "finished", "select": "top1_clean", "val": {"top1_clean": val}, "test": {"top1_clean": test}}
    run = RunDirectory(Path("runs") / name)
    return RunStatus(run, "failed") if val is None else RunStatus(run, "finished", "", result)


# --- which trials ---


def test_every_variant_is_tried_with_the_same_settings_on_seeds_of_their_own():
    trials = planned(["none", "relu"])
    jobs = trials.jobs()
    assert len(jobs) == 2 * 3 * 2
    of_none, of_relu = jobs[:6], jobs[6:]
    assert [job[1:] for job in of_none] == [job[1:] for job in of_relu]
    seeds = {item for job in jobs for item in job if item.startswith("seed=")}
    assert seeds == {"seed=1000000", "seed=1000001"}


def test_another_variant_and_more_trials_leave_the_earlier_trials_as_they_are():
    few, more = planned(["none"]), planned(["none", "relu"], trials=8)
    assert more.points[:3] == few.points
    assert few.jobs() == [job for job in more.jobs() if job[0] == "head=none"][:6]


def test_points_are_even_on_the_scale_of_the_space():
    points = draw_points({RATE: "tag(log, interval(1e-4, 1e-2))", "training.epochs": "choice(2, 4)"}, 64)
    rates = [point[RATE] for point in points]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert sum(rate < 1e-3 for rate in rates) == pytest.approx(32, abs=2)
    assert [point["training.epochs"] for point in points].count(2) == pytest.approx(32, abs=2)
    assert all(rate == float(f"{rate:.3g}") for rate in rates)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "nothing to tune"),
        ({"training.rate": "interval(0, 1)"}, "there is no key training.rate"),
        ({RATE: "0.1"}, "is one value; must be interval(low, high), tag(log, interval(low, high)) or choice(a, b)"),
        ({RATE: "tag(log, interval(0, 1))"}, "with 0 < low < high for log"),
        ({RATE: "interval(2, 1)"}, "is no interval"),
        ({RATE: "interval("}, "cannot be read"),
        ({"evaluation.rerank": "choice(5, 10)"}, "is not how a variant is trained"),
        ({"seed": "range(0, 3)"}, "is not how a variant is trained"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(space, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned(["none"], space=space)


def test_a_key_that_is_swept_is_not_tuned():
    jobs = [[f"{RATE}={rate}", "seed=0"] for rate in (0.1, 0.2)]
    config = Config(tuning=TuningConfig("rates", 3, 1, SPACE))
    with pytest.raises(ConfigError, match=f"{RATE} is swept as well"):
        plan_trials(config, jobs)


def test_seeds_that_choose_settings_are_not_the_sweeps():
    with pytest.raises(ConfigError, match="seed=1000001: is a seed that tuning=rates chooses settings with"):
        planned(["none"], seeds=(0, 1000001))


def test_folds_are_not_tuned_on_each_others_test_points():
    config = Config(data=DataConfig(folds=3), tuning=TuningConfig("rates", 3, 1, SPACE))
    with pytest.raises(ConfigError, match="another fold has as its test"):
        plan_trials(config, jobs_of(["none"], [0]))


# --- what is chosen ---

POINTS = ({RATE: 1e-4}, {RATE: 1e-3}, {RATE: 1e-2})
TWO = Trials((("head=none",), ("head=relu",)), POINTS, (7, 8), SPACE)


def test_each_variant_keeps_the_settings_of_its_highest_mean_val_metric_whatever_test_says():
    # Two seeds a setting: means 0.2, 0.3, 0.3 of none, and 0.5, 0.1, 0.4 of relu. Test has the opposite order.
    vals = [0.1, 0.3, 0.2, 0.4, 0.5, 0.1, 0.4, 0.6, 0.1, 0.1, 0.4, 0.4]
    statuses = {f"r{k}": status(f"r{k}", val, test=1 - val) for k, val in enumerate(vals)}
    tuning = pick(TWO, "top1_clean", list(statuses), statuses)
    assert [variant.chosen for variant in tuning.variants] == [1, 0]
    assert [trial.value for trial in tuning.variants[0].trials] == pytest.approx([0.2, 0.3, 0.3])
    assert tuning.variants[0].trials[1].runs == ("r2", "r3")
    assert [variant.at_edge for variant in tuning.variants] == [(), (RATE,)]


def test_a_trial_of_which_a_run_failed_is_never_chosen():
    vals = [None, 0.9, 0.2, 0.2, 0.1, 0.1, 0.4, 0.6, 0.1, 0.1, 0.4, 0.4]
    statuses = {f"r{k}": status(f"r{k}", val) for k, val in enumerate(vals)}
    tuning = pick(TWO, "top1_clean", list(statuses), statuses)
    assert tuning.variants[0].chosen == 1
    assert tuning.variants[0].trials[0].value is None

    statuses |= {f"r{k}": status(f"r{k}") for k in range(6)}
    with pytest.raises(ConfigError, match="every trial of head=none failed"):
        pick(TWO, "top1_clean", list(statuses), statuses)


def test_the_edge_is_the_lowest_or_highest_number_tried():
    points = [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}, {"a": 3.0, "b": "z"}]
    assert [edges(points, k) for k in range(3)] == [("a",), (), ("a",)]


def test_the_sweeps_jobs_get_what_their_variant_has_chosen():
    trials = (Trial(("a",), 0.1), Trial(("b",), 0.2), Trial(("c",), 0.3))
    variants = (
        Variant(("head=none", f"{RATE}=0.5"), trials, 0, ()),
        Variant(("head=relu", f"{RATE}=0.5"), trials, 2, ()),
    )
    tuning = Tuning((7,), SPACE, "top1_clean", POINTS, variants)
    jobs = [[f"head={head}", f"{RATE}=0.5", f"seed={seed}"] for head in ("none", "relu") for seed in (0, 1)]
    made = tuned_jobs(tuning, jobs)
    assert made == [
        ["head=none", f"{RATE}=0.0001", "seed=0"],
        ["head=none", f"{RATE}=0.0001", "seed=1"],
        ["head=relu", f"{RATE}=0.01", "seed=0"],
        ["head=relu", f"{RATE}=0.01", "seed=1"],
    ]
    named = with_runs(tuning, jobs, ["n0", "n1", "r0", "r1"])
    assert [variant.runs for variant in named.variants] == [("n0", "n1"), ("r0", "r1")]
    assert variant_of(jobs[0]) == ("head=none", f"{RATE}=0.5")


def test_a_tuning_is_read_back_as_it_was_kept_and_a_damaged_one_is_said(tmp_path):
    trials = (Trial(("a",), 0.5), Trial(("b",), None), Trial(("c",), 0.25))
    tuning = Tuning((7,), SPACE, "top1_clean", POINTS, (Variant(("head=none",), trials, 0, (RATE,), ("n",)),))
    assert load_tuning(tmp_path) is None
    write_tuning(tmp_path, tuning)
    assert load_tuning(tmp_path) == tuning

    content = json.loads((tmp_path / "tuning.json").read_text())
    for change in ({"schema": 9}, {"points": []}, {"variants": [{}]}, {"space": 3}):
        (tmp_path / "tuning.json").write_text(json.dumps(content | change))
        with pytest.raises(Damaged):
            load_tuning(tmp_path)


# --- what a later command adds ---


def tuned(head, chosen, *runs, points=POINTS):
    trials = tuple(Trial((f"{head}{k}",), 0.1) for k in range(len(points)))
    return Tuning((7,), SPACE, "top1_clean", points, (Variant((f"head={head}",), trials, chosen, (), runs),))


def test_variants_and_seeds_of_later_commands_join_those_that_a_sweep_has():
    first = tuned("none", 1, "n0", "n1")
    with_relu, lines = with_earlier(tuned("relu", 2, "r0"), first)
    assert [(variant.overrides[0], variant.runs) for variant in with_relu.variants] == [
        ("head=none", ("n0", "n1")),
        ("head=relu", ("r0",)),
    ]
    with_seed, more = with_earlier(tuned("none", 1, "n1", "n2"), with_relu)
    assert [variant.runs for variant in with_seed.variants] == [("n0", "n1", "n2"), ("r0",)]
    assert lines == more == []


def test_runs_at_settings_that_a_variant_no_longer_has_do_not_count_and_are_said():
    joined, [line] = with_earlier(tuned("none", 0, "m2"), tuned("none", 1, "n0", "n1"))
    assert joined.variants[0].runs == ("m2",)
    assert "head=none: 2 runs at settings that it had chosen earlier no longer count" in line


def test_variants_that_had_other_trials_are_not_joined():
    trials = Trials((("head=relu",),), POINTS, (7,), SPACE)
    check_earlier(trials, "top1_clean", tuned("none", 1))
    check_earlier(trials, "top1_clean", tuned("relu", 0, points=POINTS[:2]))
    for earlier, metric in ((tuned("none", 1, points=POINTS[:2]), "top1_clean"), (tuned("none", 1), "mrr")):
        with pytest.raises(ConfigError, match="variants with other trials \\(head=none"):
            check_earlier(trials, metric, earlier)


def test_how_a_sweep_is_tuned_is_no_setting_of_a_run_and_is_not_swept():
    job = ["head=none", "tuning=rates", "+tuning.space={a: b}", "tuning.trials=2", "parts=out"]
    assert runs_alone([job, job], job) == [["head=none"], ["head=none"]]
    with pytest.raises(ConfigError, match="tuning=none,rates: cannot be swept; must be one value"):
        runs_alone([["tuning=none"], ["tuning=rates"]], ["tuning=none,rates"])
    with pytest.raises(ConfigError, match="parts=out,in: cannot be swept; must be one value"):
        runs_alone([["parts=out"], ["parts=in"]], ["parts=out,in"])
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.params: parts=out is of the sweep"):
        runs_alone([["parts=out", "head=none"]], ["head=none"])


# --- what n trials find ---


@pytest.mark.parametrize("num_trials", [1, 2, 3, 5, 6])
def test_the_expected_best_is_the_mean_over_all_choices_of_trials(num_trials):
    values = [0.3, 0.1, 0.4, 0.15, 0.9, 0.4]
    bests = sorted(max(chosen) for chosen in itertools.combinations(values, num_trials))
    budget = best_of(values, num_trials)
    assert budget.mean == pytest.approx(sum(bests) / len(bests))
    within = [best for best in bests if budget.low <= best <= budget.high]
    assert len(within) >= 0.95 * len(bests)
    assert budget.low in bests and budget.high in bests


# --- the report ---

QUERIES = made_up_points(20, per_debate=3)


def made_up_sweep(tmp_path, common, own):
    """A sweep of heads with six seeds: `common` and `own` are how many of 60 queries each head has right."""
    runs, sweep = tmp_path / "logs" / "runs", tmp_path / "logs" / "sweeps" / "s"
    jobs, variants = [], []
    for place, head in enumerate(common):
        names = {}
        for kind, right in (("common", common[head]), ("own", own[head])):
            rate = 0.05 if kind == "common" else POINTS[place][RATE]
            training = TrainingConfig(head_learning_rate=rate)
            for seed in range(6):
                first = (right + seed % 2) * [1] + (60 - right - seed % 2) * [0]
                path = write_run(runs, config_of(head, seed, training=training), first, QUERIES, fingerprint="f" * 64)
                names.setdefault(kind, []).append(path.name)
        jobs += [{"overrides": [f"head={head}"], "name": n, "directory": f"../../runs/{n}"} for n in names["common"]]
        trials = tuple(Trial((f"{head}{k}",), 0.2 + 0.1 * (k == place)) for k in range(3))
        variants.append(Variant((f"head={head}",), trials, place, edges(POINTS, place), tuple(names["own"])))
    sweep.mkdir(parents=True)
    (sweep / "runs.json").write_text(json.dumps({"overrides": [], "jobs": jobs}))
    write_tuning(sweep, Tuning((1000000,), SPACE, "top1_clean", POINTS, tuple(variants)))
    return sweep


def test_a_variant_that_only_needs_another_rate_is_told_from_one_that_is_worse(tmp_path, capsys):
    # At one rate for both LayerNorm loses 30 of 60 queries, and none where each has its own.
    sweep = made_up_sweep(tmp_path, {"none": 45, "layernorm": 15}, {"none": 45, "layernorm": 45})
    decide([str(sweep), "--json"])
    document = json.loads(capsys.readouterr().out)
    common, tuned = document["studies"]
    assert (common["settings"], tuned["settings"]) == ("common", "tuned")
    assert [each["verdict"] for each in common["comparisons"]] == ["higher"]
    assert [each["verdict"] for each in tuned["comparisons"]] == ["not_yet"]
    [turned] = tuned["turned_by_tuning"]
    assert "higher at common settings (+0.500)" in turned and "not yet (+0.000)" in turned
    assert common["turned_by_tuning"] == [] == common["tuning"]
    assert [choice["settings"] for choice in tuned["tuning"]] == [{RATE: 1e-4}, {RATE: 1e-3}]
    assert [choice["at_edge"] for choice in tuned["tuning"]] == [[RATE], []]


def test_a_variant_that_is_worse_is_so_at_its_own_settings_too(tmp_path, capsys):
    sweep = made_up_sweep(tmp_path, {"none": 45, "layernorm": 15}, {"none": 50, "layernorm": 20})
    decide([str(sweep)])
    said = capsys.readouterr().out
    assert "each variant tuned:" in said and "at common settings" not in said


def test_the_page_has_both_questions_what_was_chosen_and_the_budget(tmp_path):
    sweep = made_up_sweep(tmp_path, {"none": 45, "layernorm": 15}, {"none": 45, "layernorm": 45})
    assert report([str(sweep), "-o", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "each variant tuned" in page and "## Tuning" in page
    row = next(line for line in page.splitlines() if line.startswith("| none | 0.0001 |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][2:4] == ["0.300", "3"]
    assert "at common settings (+0.500)" in page
    # The tuned rate is no axis of the tuned runs, which differ in their head alone.
    table = (tmp_path / "out" / "table.csv").read_text("utf-8").splitlines()
    assert table[0].startswith("corpus,head,num_seeds")


def test_tuned_settings_are_no_axis_however_deep_they_lie():
    identity = {
        "neg_ratio": 0.1,
        "head": {"name": "sum", "options": {"width": 8, "depth": 2}},
        "training": {"epochs": 3},
    }
    made = with_own_settings(identity, ["neg_ratio", "head.options.width", "training.gone", "gone"])
    assert made == {
        "neg_ratio": OWN, "head": {"name": "sum", "options": {"width": OWN, "depth": 2}}, "training": {"epochs": 3},
    }  # fmt: skip
    assert identity["head"]["options"]["width"] == 8


def test_evaluations_of_a_tuned_sweep_say_that_the_tuned_runs_are_left_out(tmp_path):
    sweep = made_up_sweep(tmp_path, {"none": 45, "layernorm": 15}, {"none": 45, "layernorm": 45})
    (note,) = note_left_out(collect([sweep])).notes
    assert note == "s: evaluations at common settings alone; for the tuned runs give s_tuned"


def test_a_damaged_tuning_leaves_the_runs_at_common_settings(tmp_path, capsys):
    sweep = made_up_sweep(tmp_path, {"none": 45, "layernorm": 15}, {"none": 45, "layernorm": 45})
    (sweep / "tuning.json").write_text("[]")
    decide([str(sweep)])
    said = capsys.readouterr().out
    assert "what was tuned is left out" in said and "each variant tuned" not in said


# --- the command ---


def test_a_tuned_sweep_tunes_first_asks_twice_and_makes_no_run_again(tmp_path):
    options = [*SWEEP, f"logs_dir={tmp_path}/logs", f"cache_dir={tmp_path}/cache", "sweep_name=t"]
    asked = run_here([*options, "plan=true"], tmp_path)
    assert "4 trials (2 variants, 2 settings of" in " ".join(asked.stdout.split())
    first = run_here(options, tmp_path)
    assert first.returncode == 0, first.stderr
    runs = {path.name for path in (tmp_path / "logs" / "runs").iterdir()}
    assert len(runs) == 4 + 2 + 2
    tuning = load_tuning(tmp_path / "logs" / "sweeps" / "t")
    for variant in tuning.variants:
        assert {name for trial in variant.trials for name in trial.runs} <= runs
        assert set(variant.runs) <= runs

    # The rest of a sweep that was stopped: one trial is made again, and the same settings are chosen.
    lost = tmp_path / "logs" / "runs" / tuning.variants[1].trials[0].runs[0]
    before = (lost / "result.json").read_text()
    (lost / "result.json").unlink()
    again = run_here(options, tmp_path)
    assert "4 runs, 1 to run" in again.stdout and "sweep t_tuned: 2 runs, 0 to run" in again.stdout
    assert json.loads((lost / "result.json").read_text())["test"] == json.loads(before)["test"]
    assert load_tuning(tmp_path / "logs" / "sweeps" / "t") == tuning

    alone = run_here([item for item in options if item not in ("-m", "head=none,layernorm")], tmp_path)
    assert alone.returncode == 1 and "tuning=rates: is for a sweep" in alone.stderr
