"""The report's tables as plain values; the templates and export.py write them down.

A table keeps its raw values; how many decimals are shown is its columns' business.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report.contrasts import ContrastResult
from biencoder_ablate.report.examples import SideBySide
from biencoder_ablate.report.questions import ALPHA, Analysis, Family, Kind, Leakage, Verdict
from biencoder_ablate.report.read import FINISHED, Protocol, Run, Sweep
from biencoder_ablate.report.study import Arms, Study, show, task_values

Value = str | float | int | bool | None
MINUS = "−"
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column's heading, and how its values are shown: `digits` decimals, with a sign, or as a p-value."""

    name: str
    digits: int | None = None
    signed: bool = False
    p: bool = False
    code: bool = False

    @property
    def numeric(self) -> bool:
        return self.digits is not None or self.p


@dataclass(frozen=True)
class Table:
    """Rows of raw values under their columns. `key` names it in links, `caption` says what it is.

    `data` marks a table that people look things up in, however long; the others are lists to read.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    data: bool = True


def shown(value: Value, column: Column) -> str:
    """A value as people read it; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.p:
        return p_text(float(value))
    if column.digits is None or isinstance(value, str | int):
        return str(value)
    text = f"{value:{'+' if column.signed else ''}.{column.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def p_text(p: float) -> str:
    """A p-value for people."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.9995 else "1"


def interval_text(low: float, high: float, signed: bool = False) -> str:
    """[low, high] with three decimals, or a dash. A signed end keeps its sign: −0.000 lies below 0, and matters."""
    if math.isnan(low) or math.isnan(high):
        return NOTHING
    column = Column("", 3, signed)
    ends = [shown(end, column) for end in (low, high)]
    if signed:
        ends = [
            f"{MINUS if end < 0 else '+'}{text}" if end and text[0] == "0" else text
            for end, text in zip((low, high), ends, strict=True)
        ]
    return f"[{ends[0]}, {ends[1]}]"


def effect_text(result: ContrastResult) -> str:
    """A comparison in a sentence: its estimate, then its interval and Holm's p."""
    if not math.isfinite(result.estimate):
        return "an unknown amount (no seed in common)"
    low, high = interval_text(result.interval.low, result.interval.high, signed=True)[1:-1].split(", ")
    estimate = shown(result.estimate, Column("", 3, signed=True))
    return f"{estimate} (95% interval {low} to {high}; Holm p {p_text(result.p_family)})"


def groups_table(analysis: Analysis) -> Table:
    """One row a configuration: its figures over seeds."""
    columns = [*(Column(axis.name) for axis in analysis.study.axes), Column("seeds", 0)]
    for protocol in analysis.protocols:
        columns += [Column(f"{protocol} test", 3), Column("sd", 3), Column("95% interval")]
    columns += [Column("before training", 3), Column("official val", 3), Column("recall@10", 3), Column("epoch", 1)]
    rows = []
    for cell in analysis.study.cells:
        row: list[Value] = [*(level.label for level in cell.levels), len(cell.runs)]
        for protocol in analysis.protocols:
            summary = analysis.summaries[cell.name][protocol]
            row += [summary.mean, summary.standard_deviation, interval_text(summary.low, summary.high)]
        runs = list(cell.runs.values())
        row += [
            _mean(run.result["initial"].get(f"test/{analysis.primary.top1}") for run in runs),
            _mean(run.result["val"].get("top1") for run in runs),
            _mean(run.result["test"].get("recall@10") for run in runs),
            _mean(run.result["best_epoch"] for run in runs),
        ]
        rows.append(tuple(row))
    caption = (
        "Test top-1 at the val-selected epoch by configuration: mean over seeds, their standard deviation and the "
        f"mean's 95% interval (Student's t over seeds). Before training: {analysis.primary} test top-1 of the initial "
        "model. Recall@10 is of stage 1 on test; epoch is the mean selected one."
    )
    return Table("groups", caption, tuple(columns), tuple(rows))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def overview_table(analysis: Analysis) -> Table | None:
    """The main arms by setting: means, and which cannot be told apart from the setting's best."""
    arms = analysis.main
    if len(arms.settings) < 2:
        return None
    verdicts = {family.subject: family.verdict for family in analysis.of(Kind.SETTING)}
    means = {group.name: float(group.at(arms.seeds or group.seeds).mean()) for group in arms.groups(analysis.primary)}
    columns = [Column("setting"), *(Column(name, 3) for name in arms.names)]
    rows = []
    for k, setting in enumerate(arms.settings):
        cells = [arms.cells[name][k] for name in arms.names]
        figures = [analysis.summaries[cell.name][analysis.primary].mean for cell in cells]
        rows.append((setting, *_marked(arms.names, figures, verdicts.get(setting))))
    rows.append(("all settings", *_marked(arms.names, [means[name] for name in arms.names], analysis.verdict)))
    axis = analysis.study.axes[0].name
    caption = (
        f"{analysis.primary.capitalize()} test top-1 by setting and {axis}, mean over seeds. A dot marks the best of "
        "a row and all that cannot be told apart from it; a row without dots has too few seeds to tell."
    )
    return Table("overview", caption, tuple(columns), tuple(rows), data=False)


def _marked(names: Sequence[str], figures: Sequence[float], verdict: Verdict | None) -> list[str]:
    """Figures with a dot at those that may be the best."""
    best = verdict.not_told_apart if verdict is not None and verdict.status != "too_few_seeds" else ()
    return [f"{'• ' if name in best else ''}{x:.3f}" for name, x in zip(names, figures, strict=True)]


def family_table(family: Family, primary: Protocol, key: str) -> Table:
    """A family's comparisons: difference, interval, p and Holm's p; the other figure beside."""
    columns = [
        Column("comparison"), Column("seeds", 0), Column(primary, 3, signed=True), Column("95% interval"),
        Column("p", p=True), Column("Holm p", p=True), Column("told apart"),
    ]  # fmt: skip
    if family.beside:
        columns += [Column(primary.other, 3, signed=True), Column("95% interval"), Column("Holm p", p=True)]
    rows = []
    for k, result in enumerate(family.primary):
        interval = interval_text(result.interval.low, result.interval.high, signed=True)
        row: list[Value] = [result.contrast.name, len(result.seeds), result.estimate, interval]
        row += [result.test.p, result.p_family, result.told_apart(ALPHA)]
        for beside in family.beside[k : k + 1]:
            interval = interval_text(beside.interval.low, beside.interval.high, signed=True)
            row += [beside.estimate, interval, beside.p_family]
        rows.append(tuple(row))
    return Table(key, family.title, tuple(columns), tuple(rows))


def leakage_table(leakage: Leakage) -> Table:
    """Each pair's difference under both figures, and the sign-flip test of what changes."""
    columns = (
        Column("comparison"), Column(Protocol.CLEAN, 3, signed=True), Column(Protocol.OFFICIAL, 3, signed=True),
        Column("official − clean", 3, signed=True), Column("p", p=True), Column("Holm p", p=True),
        Column("change places"),
    )  # fmt: skip
    rows = tuple(
        (s.name, s.clean, s.official, s.official - s.clean, s.test.p, s.p_holm, s.swaps) for s in leakage.shifts
    )
    caption = "What leakage does to each difference. The test is over seeds, on these points; Holm over the rows."
    return Table("leakage-pairs", caption, columns, rows)


def tasks_table(arms: Arms) -> Table:
    """Test top-1 on the eight candidate sets, mean over seeds."""
    rows = tuple(
        (name, *(_mean(task_values(arms.cells[name], task).tolist()) for task in TASKS)) for name in arms.names
    )
    caption = "Test top-1 on the eight candidate sets of Wachsmuth et al. 2018, mean over seeds; epa is official."
    return Table("task-figures", caption, (Column(""), *(Column(task, 3) for task in TASKS)), rows)


def debates_table(pair: SideBySide, key: str) -> Table:
    """One row a debate: the shares that two arms get right."""
    columns = (
        Column("debate"), Column("points", 0), Column(pair.a, 2), Column(pair.b, 2),
        Column("difference", 2, signed=True),
    )  # fmt: skip
    rows = tuple((debate, num, a, b, a - b) for debate, num, a, b in pair.debates)
    ahead, behind = sum(row[4] > 0 for row in rows), sum(row[4] < 0 for row in rows)
    caption = (
        f"Share of a debate's points right at top 1, over {pair.num_runs} runs each: {pair.a} leads in {ahead} "
        f"debates, {pair.b} in {behind}, {len(rows) - ahead - behind} are even."
    )
    return Table(key, caption, columns, rows)


def runs_table(study: Study) -> Table:
    """One row a finished run, with the command that makes it again."""
    columns = [Column(axis.name) for axis in study.axes] + [
        Column("seed", 0), Column("epoch", 0), Column("val", 3), Column("test", 3), Column("clean test", 3),
        Column("dead pairs", 3), Column("minutes", 1), Column("command", code=True), Column("run", code=True),
    ]  # fmt: skip
    rows = []
    for cell in study.cells:
        for seed, run in cell.runs.items():
            result, test = run.result, run.result["test"]
            row = [*(level.label for level in cell.levels), seed, result["best_epoch"], result["val"].get("top1")]
            row += [test.get("top1"), test.get("top1_clean"), (result.get("selected") or {}).get("dead_pairs")]
            rows.append((*row, result["seconds"] / 60, command(run), run.name))
    caption = "Every finished run at its val-selected epoch, and the command that makes it again."
    return Table("runs", caption, tuple(columns), tuple(rows))


def command(run_or_sweep: Run | Sweep) -> str:
    """The command line that makes a run again, or goes on with a sweep as it was last started."""
    multirun = ["-m"] if isinstance(run_or_sweep, Sweep) else []
    return shlex.join(["python", "-m", "biencoder_ablate", *multirun, *run_or_sweep.overrides])


def missing_table(runs: Sequence[Run], studies: Sequence[Study], sweeps: Sequence[Sweep] = ()) -> Table:
    """What is not there: sweeps to go on with, runs that did not finish, seeds that some configurations lack."""
    finished = {run.name for run in runs if run.status == FINISHED}
    rows: list[tuple[Value, ...]] = []
    for sweep in sweeps:
        done = len(finished.intersection(sweep.names))
        if done < len(sweep.names):
            state = f"{done} of {len(sweep.names)} runs finished"
            rows.append((f"sweep {sweep.path.name}", state, "its command goes on with the rest", command(sweep)))
    rows += [(run.name, run.status, run.why, command(run)) for run in runs if run.status != FINISHED]
    for study in studies:
        for cell in study.cells:
            lacking = [seed for seed in study.seeds if seed not in cell.runs]
            if lacking:
                where = f"{study.name}: {cell.name}" if len(studies) > 1 else cell.name
                why = f"{', '.join(map(str, lacking))}; others have {'it' if len(lacking) == 1 else 'them'}"
                rows.append((where, "lacks seeds", why, ""))
    columns = (Column("what"), Column("state"), Column("why"), Column("command", code=True))
    caption = "Sweeps that are not complete, runs that are not finished, and configurations that lack seeds."
    return Table("missing-runs", caption, columns, tuple(rows))


def constants_table(study: Study) -> Table:
    """The settings that all runs of a study share, and what changes together with an axis."""
    rows = [(key, value) for key, value in study.constants if value != "null"]
    rows += [(f"with {axis.name}", text) for axis in study.axes for text in axis.with_it]
    caption = "Settings that all runs share (those that are null are left out), and what changes with an axis."
    return Table("settings", caption, (Column("setting"), Column("value")), tuple(rows), data=False)


def versions_table(study: Study) -> Table:
    """What the runs were made with; where they differ, each value with its number of runs."""
    named = {"biencoder-ablate": "biencoder_ablate", "commit": "git_commit"}
    named |= {key: key for key in ("python", "platform", "device", "precision")} | {"threads": "num_threads"}
    by_run = [
        {name: run.manifest.get(key) for name, key in named.items()} | (run.manifest.get("libraries") or {})
        for run in study.runs
    ]
    rows = []
    for what in dict.fromkeys(name for versions in by_run for name in versions):
        counts = Counter(show(versions.get(what)) for versions in by_run)
        listed = [value if len(counts) == 1 else f"{value} ({num} runs)" for value, num in counts.most_common()]
        rows.append((what, "; ".join(listed).replace("null", "not known")))
    rows.append(("corpus fingerprint", study.fingerprint))
    rows.append(("hours of all runs", f"{sum(run.result['seconds'] for run in study.runs) / 3600:.2f}"))
    return Table(
        "versions", "What the runs were made with.", (Column("what"), Column("value")), tuple(rows), data=False
    )
