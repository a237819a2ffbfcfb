"""The tables of parts: whether each is alive and what it is worth, and what it costs; and what configurations cost."""

from __future__ import annotations

from biencoder_ablate.report import diagnostics
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.parts import Worth, costs_of, is_worth_its_price, worths
from biencoder_ablate.report.tables import Column, Row, Table


def parts_blocks(analysis: Analysis) -> list[tuple[str, Table]]:
    """The tables of parts for the report's section; none where no run watched its parts."""
    found = worths(analysis)
    if not found:
        return []
    blocks = [("table", alive_table(analysis, found))]
    if any(worth.costs is not None for worth in found):
        blocks.append(("table", prices_table(analysis, found)))
    return blocks


def alive_table(analysis: Analysis, found: list[Worth]) -> Table:
    """One row a part: its gradients and weights, whether it acts, and what is lost without it in two ways."""
    columns = [
        Column("part"),
        Column("runs", 0),
        Column("steps with gradient", 2),
        Column("weights moved", 4),
        Column("steps acted", 2),
        Column("rankings changed", 3),
        Column("bypassed after training", 3, signed=True),
        Column("trained without it", 3, signed=True),
        Column("not alive", warning=True),
    ]
    rows: list[Row] = []
    for worth in found:
        rows.append(
            (
                worth.key.label,
                worth.num_runs,
                worth.gradient_share,
                worth.change,
                worth.acted_share,
                worth.changed,
                worth.bypassed,
                worth.without,
                worth.void,
            )
        )
    if not any(worth.void for worth in found):
        columns.pop()
        rows = [row[:-1] for row in rows]
    caption = (
        "Whether the parts are alive, means over the runs that have each. Weights moved: the length of their change "
        "since the start beside that of the start. Steps acted: of a layer without weights, those in which it changed "
        "a value. Rankings changed: the share of val and test points whose first candidate or right answer's rank is "
        "another once the part is bypassed. Bypassed after training: what the trained model loses then (a layer passes "
        "on what it is given, a projection is as before training, the head leaves the order of stage 1, the weight of "
        "the similarity leaves the head alone). Trained without it: what configurations that differ in nothing else "
        "lose. Both in "
        f"{analysis.figure()}."
    )
    return Table("alive", caption, columns, rows)


def prices_table(analysis: Analysis, found: list[Worth]) -> Table:
    """One row a part: what it brings, and what it costs in weights, operations, bytes and time."""
    columns = [
        Column("part"),
        Column("brings", 3, signed=True),
        Column("weights", 0),
        Column("operations a pair", 0),
        Column("bytes a text", 0, signed=True),
        Column("ms a step", 2, signed=True),
        Column("ms an answer", 3, signed=True),
    ]
    rows: list[Row] = []
    for worth in found:
        costs = worth.costs
        if costs is None:
            continue
        rows.append(
            (
                worth.key.label,
                worth.without,
                worth.weights,
                worth.operations,
                costs.bytes_a_text,
                costs.step,
                costs.answer,
            )
        )
    caption = (
        f"What a part brings in {analysis.figure()}, and what it costs, of parts that some configurations were trained "
        "without. Weights and operations are its own; bytes of the index a text and times are by how much the "
        "configurations with it cost more, and times are as busy as the machine was."
    )
    return Table("prices", caption, columns, rows)


def costs_table(analysis: Analysis) -> Table:
    """One row a configuration: its score, what it costs to keep and to use, and what its epochs take."""
    study = analysis.study
    means = {name: by_protocol[analysis.primary].mean for name, by_protocol in analysis.summaries.items()}
    worth_it = is_worth_its_price(study, means)
    columns = [
        Column("configuration"),
        Column(analysis.figure(), 3),
        Column("trained weights", 0),
        Column("operations a pair", 0),
        Column("bytes a text", 0),
        Column("ms a step", 2),
        Column("ms an answer", 3),
        Column("seconds a run", 1),
        Column("worth its price"),
    ]
    rows: list[Row] = []
    for cell in study.cells:
        costs = costs_of(cell)
        seconds = []
        for run in cell.runs.values():
            of_epochs = [record.get(f"{part}_seconds") or 0.0 for record in run.metrics for part in ("train", "eval")]
            seconds.append(sum(of_epochs) if of_epochs else None)
        rows.append(
            (
                cell.name,
                means[cell.name],
                costs.weights,
                costs.operations,
                costs.bytes_a_text,
                costs.step,
                costs.answer,
                diagnostics.mean(seconds),
                worth_it[cell.name],
            )
        )

    # What no run says, as those of older versions, has no column.
    kept = [k for k in range(len(columns)) if any(row[k] is not None for row in rows)]
    caption = (
        "What a configuration costs. Operations: of stage 2 for one pair, by the head's own forward. Bytes: of the "
        "index for one text. An answer: one query ranked, all texts encoded. Seconds: all epochs of a run with "
        "measuring after each, mean over seeds; without reading and encoding the corpus, which the first run does for "
        "all. Worth its price: no configuration that costs as much or less in weights, operations and bytes has a mean "
        "as high."
    )
    return Table("costs", caption, [columns[k] for k in kept], [tuple(row[k] for k in kept) for row in rows])
