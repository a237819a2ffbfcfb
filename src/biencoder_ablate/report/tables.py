"""The report's tables as plain values; the templates and write.py write them down.

A table keeps its raw values; how many decimals are shown is its columns' business.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biencoder_ablate.report import diagnostics
from biencoder_ablate.report.analysis import Analysis, Family, Kind
from biencoder_ablate.report.candidate_sets import measured_tasks
from biencoder_ablate.report.comparisons import ContrastResult, GroupSummary, Verdict, summarise
from biencoder_ablate.report.diagnostics import RULES, Baseline, Leakage, Selection
from biencoder_ablate.report.examples import SideBySide
from biencoder_ablate.report.read import FINISHED, NOT_EVALUATED, Metric, Protocol, Run, Sweep
from biencoder_ablate.report.statistics import MOST_SEEDS, POWER
from biencoder_ablate.report.study import Arms, Cell, Study, show, task_values
from biencoder_ablate.report.words import Words
from biencoder_ablate.runs.records import metric_in_words

Value = str | float | int | bool | None
Row = tuple[Value, ...]
MINUS = "−"
NOTHING = "–"
MOST_AXES = 3  # that have a column each
SECONDS_BELOW = 0.1  # minutes of a run from which on minutes are shown
CLEAN_IN_WORDS = (
    "Clean: only {}, and only candidates, whose texts are in no earlier split; official: all, as published."
)


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


METRIC = Column("", 3)
DIFFERENCE = Column("", 3, signed=True)


@dataclass(frozen=True)
class Table:
    """Rows of raw values under their columns. `key` names it in links, `caption` says what it is.

    `data` marks a table that people look things up in, however long; the others are lists to read. The `num_last` last
    rows are not like the others, but there to read these beside.
    """

    key: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    data: bool = True
    num_last: int = 0


# --- values in words ---


def format_value(value: Value, column: Column) -> str:
    """A value as people read it; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.p:
        return p_text(float(value))
    if column.digits is None or isinstance(value, str | int):
        return str(value)

    # What rounds to 0 has no sign, and a minus is as wide as a plus.
    sign = "+" if column.signed else ""
    text = f"{value:{sign}.{column.digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def p_text(p: float) -> str:
    """A p-value for people."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.9995 else "1"


def interval_text(low: float, high: float, signed: bool = False) -> str:
    """[low, high] with three decimals, or a dash. A signed end keeps its sign: −0.000 lies below 0, and matters."""
    if math.isnan(low) or math.isnan(high):
        return NOTHING
    ends = []
    for end in (low, high):
        text = format_value(end, DIFFERENCE if signed else METRIC)
        if signed and end and text[0] == "0":  # rounded to 0, and its sign lost with that
            text = f"{MINUS if end < 0 else '+'}{text}"
        ends.append(text)
    return f"[{ends[0]}, {ends[1]}]"


def effect_text(result: ContrastResult) -> str:
    """A comparison in a sentence: its estimate, then its interval and Holm's p."""
    if not math.isfinite(result.estimate):
        return "an unknown amount (no seed in common)"
    estimate = format_value(result.estimate, DIFFERENCE)
    interval = "no interval"
    if math.isfinite(result.interval.low):
        low, high = _interval(result)[1:-1].split(", ")
        interval = f"95% interval {low} to {high}"
    return f"{estimate} ({interval}; Holm p {p_text(result.p_family)})"


def _interval(result: ContrastResult) -> str:
    return interval_text(result.interval.low, result.interval.high, signed=True)


def command(run_or_sweep: Run | Sweep) -> str:
    """The command line that makes a run again, or its evaluation, or goes on with a sweep as it was last started."""
    if isinstance(run_or_sweep, Run) and run_or_sweep.evaluate:
        return run_or_sweep.evaluate
    multirun = ["-m"] if isinstance(run_or_sweep, Sweep) else []
    return shlex.join(["python", "-m", "biencoder_ablate", *multirun, *run_or_sweep.overrides])


# --- how good each is ---


def groups_table(analysis: Analysis, others: Sequence[Baseline]) -> Table:
    """One row a configuration: its metrics over seeds; then the baselines."""
    study = analysis.study
    names = [axis.name for axis in study.axes]
    by_cell: list[list[str]] = [[level.text for level in cell.levels] for cell in study.cells]
    cells = list(study.cells)
    star = analysis.star
    if star is not None:
        # The centre first; of the others what they change.
        names = ["change"]
        cells = [star.centre, *(cell for cell in cells if cell is not star.centre)]
        by_cell = [[star.changes.get(cell.name, "the centre")] for cell in cells]
    elif len(names) > MOST_AXES:
        # A column each would hide the metrics: only what is unlike most configurations.
        names = ["what is unlike most"]
        usual = [Counter(labels).most_common(1)[0][0] for labels in zip(*by_cell, strict=True)]
        for cell, labels in zip(study.cells, by_cell, strict=True):
            unlike = [
                axis.in_words(level)
                for axis, level, label in zip(study.axes, cell.levels, usual, strict=True)
                if level.text != label
            ]
            labels[:] = [", ".join(unlike) or "like most"]
    elif not names:
        names = ["configuration"]
        by_cell = [[cell.name] for cell in study.cells]
    rows = [
        (*labels, *_metrics(analysis, [cell], analysis.summaries[cell.name], others))
        for cell, labels in zip(cells, by_cell, strict=True)
    ]
    return _with_baselines(analysis, "groups", names, rows, others)


def arms_table(analysis: Analysis, others: Sequence[Baseline]) -> Table:
    """One row a level of what the verdict is about, averaged over settings; then the baselines."""
    arms = analysis.main
    by_protocol = {protocol: [summarise(group) for group in arms.groups(protocol)] for protocol in analysis.protocols}
    rows = []
    for k, name in enumerate(arms.names):
        summaries = {protocol: by_arm[k] for protocol, by_arm in by_protocol.items()}
        rows.append((name, *_metrics(analysis, arms.cells[name], summaries, others)))
    return _with_baselines(analysis, "arms", [analysis.study.axes[0].name], rows, others)


def _metrics(
    analysis: Analysis,
    cells: Sequence[Cell],
    summaries: Mapping[Protocol, GroupSummary],
    others: Sequence[Baseline],
) -> Row:
    """What the columns of `_with_baselines` have of some cells, averaged."""
    primary, metric = analysis.primary, analysis.metric
    runs = [run for cell in cells for run in cell.runs.values()]
    row: list[Value] = [summaries[primary].num_seeds]
    for protocol in analysis.protocols:
        summary = summaries[protocol]
        before = diagnostics.mean(diagnostics.stage1(run, protocol, metric) for run in runs)
        row += [before, summary.mean]
        if protocol is primary:
            row += [summary.standard_deviation, interval_text(summary.low, summary.high)]
    row.append(diagnostics.mean(run.test.get("recall@10") for run in runs))
    row.append(diagnostics.mean(run.result.get("best_epoch") for run in runs))

    # What keeps a reader from believing too much.
    remarks = [*dict.fromkeys(cell.missing_queries for cell in cells)]
    remarks.append(analysis.unasked(cells))
    remarks.append(diagnostics.inactive_head(cells, primary, metric))
    higher = diagnostics.below(summaries[primary].mean, analysis.key(), others)
    if higher:
        remarks.append(f"below {', '.join(other.label for other in higher)}")
    return (*row, "; ".join(filter(None, remarks)))


def _with_baselines(
    analysis: Analysis,
    key: str,
    names: Sequence[str],
    rows: Sequence[Row],
    others: Sequence[Baseline],
) -> Table:
    """The table of rows that begin with `names`, baselines below them, without the columns that all leave empty."""
    primary, *second = analysis.protocols
    trained_here = analysis.study.trained_here
    columns = [*map(Column, names), Column("seeds", 0)]
    for protocol in analysis.protocols:
        before, after = f"{protocol}, before", f"{protocol}, after"
        if not analysis.protocols_differ:
            before, after = "before", "after"
        columns += [Column(before, 3), Column(after if trained_here else analysis.measure, 3)]
        if protocol is primary:
            columns += [Column("sd", 3), Column("95% interval")]
    columns += [
        Column("recall@10", 3),
        Column("epoch", 1),
        Column("remarks", warning=True),
    ]

    # A baseline needs no seeds: it has neither a number of them nor what is over them.
    all_rows = list(rows)
    for other in others:
        row: list[Value] = [other.label, *[""] * (len(names) - 1), None]
        for protocol in analysis.protocols:
            row += [None, other.figures.get(analysis.key(protocol))]
            if protocol is primary:
                row += [None, NOTHING]
        all_rows.append((*row, other.figures.get("recall@10"), None, ""))

    # Columns that every row leaves empty, such as the metric before the head of external runs, are left out.
    filled = [k for k in range(len(columns)) if any(row[k] not in (None, "") for row in all_rows)]

    # The arms' table stands first where there are several settings, and says what the metrics are.
    num_settings = len(analysis.main.settings)
    over = f" and over {num_settings} settings" if key == "arms" and num_settings > 1 else ""
    if key == "groups" and num_settings > 1:
        caption = "The same figures, configuration by configuration."
    elif trained_here:
        counts = _counted(analysis, second)
        caption = (
            f"Test {analysis.measure}, mean over seeds{over} ({counts}). Before: candidates in the order of their "
            f"distance alone (stage 1). After: the head has re-ranked the first of them. sd: standard deviation over "
            "seeds. 95% interval: where the mean over many seeds lies (Student's t). Recall@10 is of stage 1."
        )
        if analysis.protocols_differ and analysis.num_points[Protocol.CLEAN]:
            caption += f" {CLEAN_IN_WORDS.format(analysis.words.plural)}"
        if others:
            caption += " In italics: what needs no training."
        if analysis.star is not None:
            caption += f" The centre is {analysis.star.centre.name}."
    else:
        caption = (
            f"{analysis.measure}, mean over seeds{over} ({analysis.num_points[primary]} queries). sd: standard "
            "deviation over seeds. 95% interval: where the mean over many seeds lies on these queries (Student's t)."
        )
        if analysis.star is not None:
            caption += f" The centre is {analysis.star.centre.name}."
    return Table(
        key,
        caption,
        [columns[k] for k in filled],
        [tuple(row[k] for k in filled) for row in all_rows],
        num_last=len(others),
    )


def _counted(analysis: Analysis, second: Sequence[Protocol]) -> str:
    """How many queries each protocol has: "384 queries", or "550 clean points, 1401 official"."""
    words = analysis.words
    number = analysis.num_points[analysis.primary]
    if not analysis.protocols_differ:
        return words.queries(number)
    others = [f"{analysis.num_points[protocol]} {protocol}" for protocol in second]
    return ", ".join([f"{number} {analysis.primary} {words.plural}", *others])


def overview_table(analysis: Analysis) -> Table | None:
    """The main arms by setting: means, and which cannot be told apart from the setting's best."""
    arms = analysis.main
    if len(arms.settings) < 2:
        return None
    verdicts = {family.subject: family.verdict for family in analysis.of(Kind.SETTING)}
    rows = []
    for k, setting in enumerate(arms.settings):
        cells = {name: arms.cells[name][k].name for name in arms.names}
        means = {name: analysis.summaries[cell][analysis.primary].mean for name, cell in cells.items()}
        rows.append((setting, *_with_dots(means, verdicts.get(setting))))
    rows.append(("all settings", *_with_dots(arms.means(analysis.primary), analysis.verdict)))
    caption = (
        f"{analysis.figure(starts=True)} by setting and {analysis.study.axes[0].name}, mean over seeds. A dot marks "
        "the best of a row and all that cannot be told apart from it; a row without dots has too few seeds to tell."
    )
    columns = [Column("setting"), *(Column(name, 3) for name in arms.names)]
    return Table("overview", caption, columns, rows, data=False)


def _with_dots(means: Mapping[str, float], verdict: Verdict | None) -> list[str]:
    """Means with a dot at those that may be the best."""
    best = () if verdict is None or verdict.status == "too_few_seeds" else verdict.not_told_apart
    return [f"{'• ' if name in best else ''}{mean:.3f}" for name, mean in means.items()]


def tasks_table(study: Study, arms: Arms) -> Table:
    """Test top-1 on the candidate sets that were measured, mean over seeds."""
    tasks = measured_tasks(study.runs)
    rows = []
    for name in arms.names:
        by_task = [task_values(arms.cells[name], task).tolist() for task in tasks]
        rows.append((name, *map(diagnostics.mean, by_task)))
    return Table(
        "task-figures",
        f"Test top-1 on candidate sets of Wachsmuth et al. 2018, mean over seeds; {tasks[-1]} is official.",
        [Column("name"), *(Column(task, 3) for task in tasks)],
        rows,
    )


def debates_table(pair: SideBySide, key: str, words: Words) -> Table:
    """One row a debate, or other group of queries: the shares that two arms get right."""
    columns = [
        Column(words.group),
        Column(words.plural, 0),
        Column(pair.a, 2),
        Column(pair.b, 2),
        Column("difference", 2, signed=True),
    ]
    # Ties count for neither.
    leads = [a - b for _, _, a, b in pair.debates]
    num_ahead = sum(lead > 0 for lead in leads)
    num_behind = sum(lead < 0 for lead in leads)
    caption = (
        f"The {words.plural} of a {words.group}, what they score on average, over {pair.num_runs} runs each. Of "
        f"{len(leads)} {words.groups} "
        f"{pair.a} leads in {num_ahead} and {pair.b} in {num_behind}."
    )
    rows = [(*debate, lead) for debate, lead in zip(pair.debates, leads, strict=True)]
    return Table(key, caption, columns, rows)


# --- comparisons ---


def family_table(family: Family, primary: Protocol, key: str) -> Table:
    """A family's comparisons: difference, interval, p and Holm's p; the other protocol's beside."""
    columns = [
        Column("comparison"),
        Column("seeds", 0),
        Column(primary if family.beside else "difference", 3, signed=True),
        Column("95% interval"),
        Column("family's 95%"),
        Column("p", p=True),
        Column("Holm p", p=True),
        Column("told apart"),
    ]
    if family.beside:
        columns += [
            Column(primary.other, 3, signed=True),
            Column("95% interval"),
            Column("Holm p", p=True),
        ]
    rows = []
    for k, result in enumerate(family.primary):
        row: list[Value] = [
            result.contrast.name,
            len(result.seeds),
            result.estimate,
            _interval(result),
            interval_text(result.family_low, result.family_high, signed=True),
            result.p,
            result.p_family,
            result.is_significant(),
        ]
        if family.beside:
            beside = family.beside[k]
            row += [beside.estimate, _interval(beside), beside.p_family]
        rows.append(tuple(row))
    return Table(key, family.title, columns, rows)


def power_table(family: Family, words: Words) -> Table:
    """What the family could have found, how many seeds would decide, and what one more seed will do."""
    rows = []
    for result in family.primary:
        power = result.power
        if not math.isfinite(power.detectable):
            seeds = NOTHING
        elif result.is_significant():
            seeds = "decided"
        else:
            seeds = str(power.seeds_to_decide or f"over {MOST_SEEDS}")
        rows.append(
            (
                result.contrast.name,
                result.estimate,
                power.detectable,
                seeds,
                power.p_first_better,
            )
        )
    caption = (
        f"What more seeds would show. Within reach: the least difference that these seeds and {words.groups} find in "
        f"{POWER:.0%} of studies, the family adjusted for. Seeds to decide: how many would find one as large as that "
        "seen, if it is so large. A new seed above 0: the probability that one more seed's difference is, on these "
        f"{words.plural}."
    )
    columns = [
        Column("comparison"),
        Column("seen", 3, signed=True),
        Column("within reach", 3),
        Column("seeds to decide"),
        Column("a new seed above 0", 2),
    ]
    return Table("outlook", caption, columns, rows, data=False)


def selection_table(analysis: Analysis, selection: Selection) -> Table:
    """What each rule of picking the epoch makes of the arms, and of the effects of the parts below them."""
    # One column a rule of picking the epoch.
    columns = [Column("figure")]
    for rule in selection.means:
        declared = ", declared" if rule == selection.declared else ""
        columns.append(Column(f"{RULES.get(rule) or f'val {metric_in_words(rule)}'}{declared}", 3))
    means = list(selection.means.values())
    effects = list(selection.effects.values())

    rows: list[Row] = [("mean epoch", *(f"{selection.epochs[rule]:.1f}" for rule in selection.means))]
    for name in analysis.main.names:
        rows.append((name, *(by_arm[name] for by_arm in means)))
    for name in effects[0]:
        label = name if "×" in name else f"effect of {name}"
        rows.append((label, *(format_value(by_effect[name], DIFFERENCE) for by_effect in effects)))
    caption = f"{analysis.figure(starts=True)} at the epoch that each rule picks, mean over seeds."
    return Table("rules", caption, columns, rows, data=False)


def leakage_table(leakage: Leakage) -> Table:
    """Each pair's difference under both protocols, and the sign-flip test of what changes."""
    columns = [
        Column("comparison"),
        Column(Protocol.CLEAN, 3, signed=True),
        Column(Protocol.OFFICIAL, 3, signed=True),
        Column("official − clean", 3, signed=True),
        Column("p", p=True),
        Column("Holm p", p=True),
        Column("change places"),
    ]
    rows = []
    for shift in leakage.shifts:
        rows.append(
            (
                shift.name,
                shift.clean,
                shift.official,
                shift.official - shift.clean,
                shift.p,
                shift.p_holm,
                shift.swaps,
            )
        )
    caption = "What leakage does to each difference. The test is over seeds, on these queries; Holm over the rows."
    return Table("leakage-pairs", caption, columns, rows)


# --- runs ---


def runs_table(study: Study) -> Table:
    """One row a finished run, with the command that makes it again. Its test figures are the means of what the other
    tables are made from."""
    outcomes = study.runs[0].outcomes
    measure = outcomes.measure
    metric = next(metric for metric in Metric if metric.label == measure)
    minutes = max(run.result["seconds"] for run in study.runs) / 60
    unit, seconds_in = ("minutes", 60) if minutes >= SECONDS_BELOW else ("seconds", 1)
    columns = [
        *(Column(axis.name) for axis in study.axes),
        Column("seed", 0),
        Column("epoch", 0),
        Column(f"val {measure}", 3),
        Column(f"test {measure}", 3),
        Column(f"clean test {measure}", 3),
        Column("dead pairs", 3),
        Column(unit, 1),
        Column("command", code=True),
        Column("run", code=True),
    ]
    rows = []
    for cell in study.cells:
        labels = [level.text for level in cell.levels]
        for seed, run in cell.runs.items():
            result = run.result
            figures = {protocol: run.outcomes.mean(protocol) for protocol in Protocol}
            selected = result.get("selected") or {}
            rows.append(
                (
                    *labels,
                    seed,
                    result["best_epoch"],
                    result["val"].get(metric),
                    figures[Protocol.OFFICIAL],
                    figures[Protocol.CLEAN],
                    selected.get("dead_pairs"),
                    result["seconds"] / seconds_in,
                    command(run),
                    run.name,
                )
            )
    caption = "Every finished run at its val-selected epoch, and the command that makes it again."
    return Table("runs", caption, columns, rows)


def missing_table(runs: Sequence[Run], studies: Sequence[Study], sweeps: Sequence[Sweep] = ()) -> Table:
    """What is not there: sweeps to go on with, runs that did not finish, seeds that some configurations lack."""
    # First what one command finishes, then single runs, then what only a look at all of them shows.
    finished = {run.name for run in runs if run.status in (FINISHED, NOT_EVALUATED)}
    rows = []
    for sweep in sweeps:
        num_runs = len(sweep.names)
        num_finished = len(finished.intersection(sweep.names))
        if num_finished < num_runs:
            state = f"{num_finished} of {num_runs} runs finished"
            rows.append((f"sweep {sweep.path.name}", state, "its command goes on with the rest", command(sweep)))
    for run in runs:
        if run.status != FINISHED:
            rows.append((run.name, run.status, run.why, command(run)))
    for study in studies:
        for cell in study.cells:
            lacking = [str(seed) for seed in study.seeds if seed not in cell.runs]
            if not lacking:
                continue
            where = f"{study.name}: {cell.name}" if len(studies) > 1 else cell.name
            them = "it" if len(lacking) == 1 else "them"
            rows.append((where, "lacks seeds", f"{', '.join(lacking)}; others have {them}", ""))
    return Table(
        "missing-runs",
        "Sweeps that are not complete, runs that are not finished, and configurations that lack seeds.",
        [Column("what"), Column("state"), Column("why"), Column("command", code=True)],
        rows,
    )


def constants_table(study: Study) -> Table:
    """The settings that all runs of a study share, and what changes together with an axis."""
    # The encoder's rate is in force where the encoder is trained; a frozen one is named with 0 for it.
    idle = ("training.learning_rate", "0")
    rows = [constant for constant in study.constants if constant[1] != "null" and constant != idle]
    for axis in study.axes:
        rows += [(f"with {axis.name}", text) for text in axis.with_it]
    caption = "Settings that all runs share (those that are null are left out), and what changes with an axis."
    return Table("settings", caption, [Column("setting"), Column("value")], rows, data=False)


def versions_table(study: Study) -> Table:
    """What the runs were made with; where they differ, each value with its number of runs."""
    keys = {
        "biencoder-ablate": "biencoder_ablate",
        "commit": "git_commit",
        "python": "python",
        "platform": "platform",
        "device": "device",
        "precision": "precision",
        "threads": "num_threads",
    }
    # Libraries by their own names, whichever a run lists.
    by_run = []
    for run in study.runs:
        versions = {name: run.manifest.get(key) for name, key in keys.items()}
        by_run.append(versions | (run.manifest.get("libraries") or {}))
    rows = []
    for name in dict.fromkeys(name for versions in by_run for name in versions):
        counts = Counter(show(versions.get(name)) for versions in by_run)
        values = [value if len(counts) == 1 else f"{value} ({num} runs)" for value, num in counts.most_common()]
        rows.append((name, "; ".join(values).replace("null", "not known")))

    hours = sum(run.result["seconds"] for run in study.runs) / 3600
    rows.append(("corpus fingerprint", study.fingerprint))
    rows.append(("hours of all runs", f"{hours:.2f}"))
    caption = "What the runs were made with."
    return Table("versions", caption, [Column("what"), Column("value")], rows, data=False)
