"""The report's tables as plain values; the templates and export.py write them down.

A table keeps its raw values; how many decimals are shown is its columns' business.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report import diagnostics as yardsticks
from biencoder_ablate.report.analysis import Analysis, Family, Kind
from biencoder_ablate.report.comparisons import ContrastResult, GroupSummary, Verdict, summarise
from biencoder_ablate.report.diagnostics import RULES, Baseline, Leakage, Selection
from biencoder_ablate.report.examples import SideBySide
from biencoder_ablate.report.read import FINISHED, Protocol, Run, Sweep
from biencoder_ablate.report.statistics import MOST_SEEDS, POWER
from biencoder_ablate.report.study import Arms, Cell, Study, show, task_values

Value = str | float | int | bool | None
MINUS = "−"
NOTHING = "–"
MOST_AXES = 3  # that have a column each


@dataclass(frozen=True)
class Column:
    """A column's heading, and how its values are shown: `digits` decimals, with a sign, or as a p-value.

    `warning` marks words that keep a reader from believing too much.
    """

    name: str
    digits: int | None = None
    signed: bool = False
    p: bool = False
    code: bool = False
    warning: bool = False

    @property
    def numeric(self) -> bool:
        return self.digits is not None or self.p


@dataclass(frozen=True)
class Table:
    """Rows of raw values under their columns. `key` names it in links, `caption` says what it is.

    `data` marks a table that people look things up in, however long; the others are lists to read. The `num_last` last
    rows are not like the others, but there to read these beside.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    data: bool = True
    num_last: int = 0


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


def groups_table(analysis: Analysis, others: Sequence[Baseline]) -> Table:
    """One row a configuration: its figures over seeds; then the baselines."""
    study = analysis.study
    names = [axis.name for axis in study.axes]
    labels = {cell.name: tuple(level.label for level in cell.levels) for cell in study.cells}
    if len(names) > MOST_AXES:  # a column each would hide the figures: only what is unlike most configurations
        usual = [Counter(column).most_common(1)[0][0] for column in zip(*labels.values(), strict=True)]
        for cell in study.cells:
            unlike = [
                axis.in_words(level)
                for axis, level, label in zip(study.axes, cell.levels, usual, strict=True)
                if level.label != label
            ]
            labels[cell.name] = (", ".join(unlike) or "like most",)
        names = ["what is unlike most"]
    if not names:
        names, labels = ["configuration"], {cell.name: (cell.name,) for cell in study.cells}
    rows = [
        (*labels[cell.name], *_figures(analysis, (cell,), analysis.summaries[cell.name], others))
        for cell in study.cells
    ]
    return _with_baselines(analysis, "groups", names, rows, others)


def arms_table(analysis: Analysis, others: Sequence[Baseline]) -> Table:
    """One row a level of what the verdict is about, averaged over settings; then the baselines."""
    arms, summaries = analysis.main, defaultdict[str, dict[Protocol, GroupSummary]](dict)
    for protocol in analysis.protocols:
        for group in arms.groups(protocol):
            summaries[group.name][protocol] = summarise(group)
    rows = [(name, *_figures(analysis, arms.cells[name], summaries[name], others)) for name in arms.names]
    return _with_baselines(analysis, "arms", [analysis.study.axes[0].name], rows, others)


def _figures(
    analysis: Analysis, cells: Sequence[Cell], summaries: Mapping[Protocol, GroupSummary], others: Sequence[Baseline]
) -> list[Value]:
    """What the columns of `_with_baselines` have of some cells, averaged."""
    runs = [run for cell in cells for run in cell.runs.values()]
    first = summaries[analysis.primary]
    row: list[Value] = [
        first.num_seeds,
        yardsticks.mean(yardsticks.stage1(run, analysis.primary, analysis.metric) for run in runs),
        first.mean,
    ]
    row += [first.standard_deviation, interval_text(first.low, first.high)]
    for protocol in analysis.protocols[1:]:
        row += [
            yardsticks.mean(yardsticks.stage1(run, protocol, analysis.metric) for run in runs),
            summaries[protocol].mean,
        ]
    row += [yardsticks.mean(run.test.get("recall@10") for run in runs)]
    row += [yardsticks.mean(run.result.get("best_epoch") for run in runs)]
    marks = [*dict.fromkeys(cell.missing_queries for cell in cells)]
    marks += [yardsticks.inactive_head(cells, analysis.primary, analysis.metric)]
    higher = yardsticks.below(first.mean, analysis.key(), others)
    marks += [f"below {', '.join(other.label for other in higher)}"] if higher else []
    return [*row, "; ".join(filter(None, marks))]


def _with_baselines(
    analysis: Analysis, key: str, names: Sequence[str], rows: Sequence[tuple[Value, ...]], others: Sequence[Baseline]
) -> Table:
    columns = [*(Column(name) for name in names), Column("seeds", 0)]
    first, *second = analysis.protocols
    after = f"{first}, after" if analysis.study.trained_here else analysis.measure
    columns += [Column(f"{first}, before", 3), Column(after, 3), Column("sd", 3)]
    columns += [Column("95% interval")]
    for protocol in second:
        columns += [Column(f"{protocol}, before", 3), Column(f"{protocol}, after", 3)]
    columns += [Column("recall@10", 3), Column("epoch", 1), Column("remarks", warning=True)]
    listed = [*rows]
    for other in others:
        official = [value for protocol in second for value in (None, other.figures.get(analysis.key(protocol)))]
        row = [other.label, *[""] * (len(names) - 1), None, None, other.figures.get(analysis.key()), None, NOTHING]
        listed.append((*row, *official, other.figures.get("recall@10"), None, ""))
    settings = len(analysis.main.settings)
    over = f" and over {settings} settings" if key == "arms" and settings > 1 else ""
    blank = [k for k, column in enumerate(columns) if all(row[k] in (None, "") for row in listed)]
    columns = [column for k, column in enumerate(columns) if k not in blank]
    caption = (
        f"Test {analysis.measure}, mean over seeds{over} ({analysis.num_points[first]} {first} points"
        + "".join(f", {analysis.num_points[protocol]} {protocol}" for protocol in second)
        + "): what stage 1 finds before the head re-ranks, and after. 95% interval: of the mean, Student's t over "
        "seeds. Recall@10 is of stage 1." + (" In italics: what needs no training." if others else "")
    )
    if not analysis.study.trained_here:
        caption = (
            f"{analysis.measure}, mean over seeds{over} ({analysis.num_points[first]} queries). 95% interval: of the "
            "mean, Student's t over seeds, on these queries."
        )
    if key == "groups" and settings > 1:
        caption = "The same figures, configuration by configuration."  # the arms' table has said what they are
    kept = tuple(tuple(value for k, value in enumerate(row) if k not in blank) for row in listed)
    return Table(key, caption, tuple(columns), kept, num_last=len(others))


def overview_table(analysis: Analysis) -> Table | None:
    """The main arms by setting: means, and which cannot be told apart from the setting's best."""
    arms = analysis.main
    if len(arms.settings) < 2:
        return None
    verdicts = {family.subject: family.verdict for family in analysis.of(Kind.SETTING)}
    means = arms.means(analysis.primary)
    columns = [Column("setting"), *(Column(name, 3) for name in arms.names)]
    rows = []
    for k, setting in enumerate(arms.settings):
        cells = [arms.cells[name][k] for name in arms.names]
        figures = [analysis.summaries[cell.name][analysis.primary].mean for cell in cells]
        rows.append((setting, *_marked(arms.names, figures, verdicts.get(setting))))
    rows.append(("all settings", *_marked(arms.names, [means[name] for name in arms.names], analysis.verdict)))
    axis = analysis.study.axes[0].name
    caption = (
        f"{analysis.figure(starts=True)} by setting and {axis}, mean over seeds. A dot marks the best of "
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
        Column("comparison"), Column("seeds", 0),
        Column(primary if family.beside else "difference", 3, signed=True), Column("95% interval"),
        Column("family's 95%"), Column("p", p=True), Column("Holm p", p=True), Column("told apart"),
    ]  # fmt: skip
    if family.beside:
        columns += [Column(primary.other, 3, signed=True), Column("95% interval"), Column("Holm p", p=True)]
    rows = []
    for k, result in enumerate(family.primary):
        interval = interval_text(result.interval.low, result.interval.high, signed=True)
        row: list[Value] = [result.contrast.name, len(result.seeds), result.estimate, interval]
        row.append(interval_text(result.family_low, result.family_high, signed=True))
        row += [result.p, result.p_family, result.is_significant()]
        for beside in family.beside[k : k + 1]:
            interval = interval_text(beside.interval.low, beside.interval.high, signed=True)
            row += [beside.estimate, interval, beside.p_family]
        rows.append(tuple(row))
    return Table(key, family.title, tuple(columns), tuple(rows))


def power_table(family: Family) -> Table:
    """What the family could have found, how many seeds would decide, and what one more seed will do."""
    columns = (
        Column("comparison"), Column("seen", 3, signed=True), Column("within reach", 3), Column("seeds to decide"),
        Column("a new seed above 0", 2),
    )  # fmt: skip
    rows = []
    for result in family.primary:
        power = result.power
        needed = str(power.seeds_to_decide) if power.seeds_to_decide else f"over {MOST_SEEDS}"
        decided = "decided" if result.is_significant() else needed
        decided = decided if math.isfinite(power.detectable) else NOTHING
        rows.append((result.contrast.name, result.estimate, power.detectable, decided, power.p_first_better))
    caption = (
        f"What more seeds would show. Within reach: the least difference that these seeds and debates find in "
        f"{POWER:.0%} of studies, the family adjusted for. Seeds to decide: how many would find one as large as that "
        "seen, if it is so large. A new seed above 0: the probability that one more seed's difference is, on these "
        "points."
    )
    return Table("outlook", caption, columns, tuple(rows), data=False)


def selection_table(analysis: Analysis, found: Selection) -> Table:
    """What each rule of picking the epoch makes of the arms, and of the effects of the parts below them."""
    columns = [Column("figure")]
    for rule in found.means:
        columns.append(Column(f"{RULES[rule]}{', declared' if rule == found.declared else ''}", 3))
    rows: list[tuple[Value, ...]] = [("mean epoch", *(f"{found.epochs[rule]:.1f}" for rule in found.means))]
    rows += [(name, *(found.means[rule][name] for rule in found.means)) for name in analysis.main.names]
    for effect in found.effects[next(iter(found.effects))]:
        changes = [shown(found.effects[rule][effect], Column("", 3, signed=True)) for rule in found.means]
        rows.append((f"effect of {effect}" if "×" not in effect else effect, *changes))
    caption = f"{analysis.figure(starts=True)} at the epoch that each rule picks, mean over seeds."
    return Table("rules", caption, tuple(columns), tuple(rows), data=False)


def leakage_table(leakage: Leakage) -> Table:
    """Each pair's difference under both figures, and the sign-flip test of what changes."""
    columns = (
        Column("comparison"), Column(Protocol.CLEAN, 3, signed=True), Column(Protocol.OFFICIAL, 3, signed=True),
        Column("official − clean", 3, signed=True), Column("p", p=True), Column("Holm p", p=True),
        Column("change places"),
    )  # fmt: skip
    rows = tuple((s.name, s.clean, s.official, s.official - s.clean, s.p, s.p_holm, s.swaps) for s in leakage.shifts)
    caption = "What leakage does to each difference. The test is over seeds, on these points; Holm over the rows."
    return Table("leakage-pairs", caption, columns, rows)


def tasks_table(arms: Arms) -> Table:
    """Test top-1 on the eight candidate sets, mean over seeds."""
    rows = tuple(
        (name, *(yardsticks.mean(task_values(arms.cells[name], task).tolist()) for task in TASKS))
        for name in arms.names
    )
    caption = "Test top-1 on the eight candidate sets of Wachsmuth et al. 2018, mean over seeds; epa is official."
    return Table("task-figures", caption, (Column("name"), *(Column(task, 3) for task in TASKS)), rows)


def costs_table(study: Study) -> Table:
    """One row a configuration: its trained weights, where runs tell them, and what its epochs take."""
    rows: list[tuple[Value, ...]] = []
    for cell in study.cells:
        runs = cell.runs.values()
        weights = {run.result.get("trained_weights") for run in runs}
        spent = [
            sum(record.get(f"{what}_seconds") or 0.0 for record in run.metrics for what in ("train", "eval"))
            for run in runs
        ]
        rows.append((cell.name, weights.pop() if len(weights) == 1 else None, yardsticks.mean(spent)))
    columns = [Column("configuration"), Column("trained weights", 0), Column("seconds a run", 1)]
    if all(row[1] is None for row in rows):  # of versions before 0.4.0
        columns, rows = [columns[0], columns[2]], [(row[0], row[2]) for row in rows]
    caption = (
        "What a configuration costs. Seconds: all epochs of a run with measuring after each, mean over seeds; without "
        "reading and encoding the corpus, which the first run does for all."
    )
    return Table("costs", caption, tuple(columns), tuple(rows))


def debates_table(pair: SideBySide, key: str) -> Table:
    """One row a debate: the shares that two arms get right."""
    columns = (
        Column("debate"), Column("points", 0), Column(pair.a, 2), Column(pair.b, 2),
        Column("difference", 2, signed=True),
    )  # fmt: skip
    rows = tuple((debate, num, a, b, a - b) for debate, num, a, b in pair.debates)
    ahead, behind = sum(row[4] > 0 for row in rows), sum(row[4] < 0 for row in rows)
    caption = (
        f"A debate's points, what they score on average, over {pair.num_runs} runs each. Of {len(rows)} debates "
        f"{pair.a} leads in {ahead} and {pair.b} in {behind}."
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
            result, test = run.result, run.test
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
