"""From runs to the files of a report: everything is worked out first, then each file written whole."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from markupsafe import Markup

from biencoder_ablate.report import sentences
from biencoder_ablate.report.analysis import Analysis, analyse
from biencoder_ablate.report.diagnostics import baselines
from biencoder_ablate.report.examples import load_texts, side_by_side
from biencoder_ablate.report.plots import draw
from biencoder_ablate.report.read import FINISHED, Collection, Protocol
from biencoder_ablate.report.render import StudyReport, fill, markdown, missing_section, page, study_report
from biencoder_ablate.report.study import Study, make_studies
from biencoder_ablate.report.tables import MINUS, NOTHING, Column, Value, format_value, interval_text, runs_table
from biencoder_ablate.utils.files import read_json, whole_file
from biencoder_ablate.version import __version__

LOOKS = "looks.json"  # study → numbers of seeds that reports in this place have seen


def write_report(
    collection: Collection,
    output: Path,
    command: str,
    protocol: Protocol | None = None,
    looks: Sequence[int] = (),
    with_points: bool = False,
) -> None:
    """Write the report on these runs to `output`, with points.csv where asked, saying on the screen what came out;
    analyse() says what the rest is.

    Raises ValueError where there is no finished run, or an output that will not do.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"-o {output}: is a file; must be a directory, made if missing")
    studies = make_studies(collection.runs)
    if not studies:
        states = "; ".join(f"{run.name}: {run.status}, {run.why}" for run in collection.runs[:5])
        more = f"; and {len(collection.runs) - 5} more" if len(collection.runs) > 5 else ""
        raise ValueError(
            f"no finished run to report on ({states}{more}); run the same commands again: they go on where they stopped"
        )
    reports = []
    known = read_json(output / LOOKS)
    seen_before: dict[str, list[int]] = known if isinstance(known, dict) else {}
    for k, study in enumerate(studies):
        print(f"{study.name}: {study.size} …", file=sys.stderr)
        texts = load_texts(study)
        earlier = seen_before.get(study.name) or []
        analysis = replace(analyse(study, protocol, looks, texts.cluster_of), earlier=tuple(earlier))
        seen_before[study.name] = sorted({*earlier, len(study.seeds)})
        prefix, folder = "", "figures"
        if len(studies) > 1:
            prefix, folder = f"s{k + 1}-", f"figures/{re.sub('[^a-z0-9]+', '-', study.name.lower()).strip('-')}"
        others = baselines(study)
        pictures = draw(analysis, others)
        reports.append(study_report(analysis, others, pictures, side_by_side(analysis), texts, prefix, folder))
    analyses = [report.analysis for report in reports]
    missing = missing_section(collection, reports)
    files: dict[str, str | bytes] = {
        LOOKS: json.dumps(seen_before, indent=1, ensure_ascii=False) + "\n",
        "index.html": page(reports, missing, command, __version__),
        "report.md": markdown(reports, missing, command),
        "table.csv": groups_csv(analyses),
        "comparisons.csv": comparisons_csv(analyses),
        "runs.csv": runs_csv(studies),
        "table.tex": "\n".join(latex(report.analysis, report.headline) for report in reports),
    }
    if with_points:
        if len(analyses) > 1:
            raise ValueError(f"--points: these are runs on {len(analyses)} corpora; report on one at a time")
        files["points.csv"] = points_csv(analyses[0])
    for report in reports:
        for picture in report.pictures:
            files[f"{report.folder}/{picture.name}.svg"] = picture.svg
            files[f"{report.folder}/{picture.name}.png"] = picture.png
    try:
        for name, content in files.items():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            with whole_file(output / name, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ValueError(f"-o {output}: cannot be written to ({error.strerror}); give another directory") from error
    print(_summary(reports, collection, output))


def _summary(reports: Sequence[StudyReport], collection: Collection, output: Path) -> str:
    lines = []
    for report in reports:
        lines += [f"{report.analysis.study.name}:"] if len(reports) > 1 else []
        lines += [*map(str, report.answers), report.headline]
        lines += filter(None, [report.analysis.added_after_a_look])
    lines += [sentences.tally(collection.runs), *collection.notes]
    broken = [run for run in collection.runs if run.status not in (FINISHED, "running", "not started")]
    lines += [f"  {run.name}: {run.status}, {run.why}" for run in broken[:10]]
    lines += [f"  and {len(broken) - 10} more" for _ in broken[10:11]]
    return "\n".join([*lines, f"written: {output / 'index.html'}"])


def groups_csv(analyses: Sequence[Analysis]) -> str:
    """table.csv: a row a configuration, unrounded, all studies below one another."""
    axes = list(dict.fromkeys(axis.name for analysis in analyses for axis in analysis.study.axes))
    rows = []
    for analysis in analyses:
        names = [axis.name for axis in analysis.study.axes]
        for cell in analysis.study.cells:
            row: dict[str, Value] = {"corpus": analysis.study.name, **dict.fromkeys(axes, "")}
            row |= {name: level.label for name, level in zip(names, cell.levels, strict=True)}
            row |= {"num_seeds": len(cell.runs), "seeds": " ".join(map(str, cell.runs))}
            for protocol in Protocol:
                summary = analysis.summaries[cell.name].get(protocol)
                for what, field in (("mean", "mean"), ("sd", "standard_deviation"), ("low", "low"), ("high", "high")):
                    row[f"{protocol}_{what}"] = getattr(summary, field, None)
            rows.append(row)
    return csv_text(rows)


def points_csv(analysis: Analysis) -> str:
    """points.csv: a row a configuration, seed and test point of the figure that decides, as outside.py reads them."""
    rows: list[dict[str, Value]] = []
    cells = analysis.study.cells
    for cell in cells:
        system = cell.name if len(cells) > 1 else "biencoder-ablate"
        for seed, run in cell.runs.items():
            told = run.outcomes
            points = zip(told.ids, told.correct[analysis.primary].tolist(), told.debates, strict=True)
            rows += [
                {"system": system, "seed": seed, "query": point, "value": value, "group": debate}
                for point, value, debate in points
                if not math.isnan(value)
            ]
    return csv_text(rows)


def comparisons_csv(analyses: Sequence[Analysis]) -> str:
    """comparisons.csv: a row a comparison and figure, unrounded."""
    rows: list[dict[str, Value]] = [
        {
            "corpus": analysis.study.name, "family": family.title, "settings": "; ".join(family.arms.settings),
            "comparison": r.contrast.name, "figure": protocol, "decides": protocol is analysis.primary,
            "seeds": len(r.seeds), "estimate": r.estimate, "low": r.interval.low, "high": r.interval.high,
            "family_low": r.family_low, "family_high": r.family_high, **asdict(r.power),
            "degrees_of_freedom": r.interval.degrees_of_freedom, "p": r.p, "p_holm": r.p_holm,
            "p_crossed_holm": r.p_crossed_holm, "p_debates_holm": r.p_debates,
            "is_significant": r.is_significant(), "notes": "; ".join(r.notes),
        }
        for analysis in analyses
        for family in analysis.families
        for protocol, results in ((analysis.primary, family.primary), (analysis.primary.other, family.beside))
        for r in results
    ]  # fmt: skip
    return csv_text(
        rows, ["corpus", "family", "settings", "comparison", "figure", "decides", "seeds", "estimate", "low", "high"]
    )


def runs_csv(studies: Sequence[Study]) -> str:
    """runs.csv: a row a finished run; the studies' axes side by side."""
    rows: list[dict[str, Value]] = []
    for study in studies:
        if not study.trained_here:
            continue
        table = runs_table(study)
        names = [column.name for column in table.columns]
        rows += [{"corpus": study.name, **dict(zip(names, row, strict=True))} for row in table.rows]
    return csv_text(rows)


def csv_text(rows: Sequence[Mapping[str, Value]], heading: Sequence[str] = ()) -> str:
    """Comma-separated lines under `heading` and the keys that any row has; nothing where there is no number."""
    file = io.StringIO()
    keys = list(dict.fromkeys([*heading, *(key for row in rows for key in row)]))
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()})
    return file.getvalue()


def latex(analysis: Analysis, headline: str) -> str:
    """table.tex: the configurations' table for a paper, with booktabs: mean ± standard deviation, and one interval.

    Narrower than the page's table: with one or two axes it fits the text of an article, or nearly.
    """
    rows = []
    for cell in analysis.study.cells:
        texts = []
        for summary in (analysis.summaries[cell.name][protocol] for protocol in analysis.protocols):
            mean, deviation = (
                format_value(value, Column("", 3)) for value in (summary.mean, summary.standard_deviation)
            )
            texts.append(mean if deviation == NOTHING else f"{mean} ± {deviation}")
            texts.append(interval_text(summary.low, summary.high))
        rows.append([*(level.label for level in cell.levels), str(len(cell.runs)), *texts[:2], *texts[2::2]])
    said = Markup(" ".join(f"{analysis.study.name}: {headline}".split()))  # a comment needs no escaping
    return fill("table.tex.j2", latex_text, {}, said=said, analysis=analysis, rows=rows)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    MINUS: "$-$", NOTHING: "--", "×": r"$\times$", "±": r"$\pm$", "•": r"$\bullet$", "|": r"\textbar{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in re.sub(r"\s+", " ", text))
