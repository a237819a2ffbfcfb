"""From runs to the files of a report: everything is worked out first, then each file written whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import biencoder_ablate
from biencoder_ablate.files import whole_file
from biencoder_ablate.report import sentences
from biencoder_ablate.report.examples import load_texts, side_by_side
from biencoder_ablate.report.export import comparisons_csv, groups_csv, latex, runs_csv
from biencoder_ablate.report.plots import draw
from biencoder_ablate.report.questions import analyse
from biencoder_ablate.report.read import FINISHED, Collection, collect
from biencoder_ablate.report.render import StudyReport, markdown, missing_section, page, study_report
from biencoder_ablate.report.study import make_studies


def write_report(places: Sequence[Path], output: Path, command: str) -> None:
    """Read the runs at `places` and write the report to `output`, saying on the screen what came out.

    Raises ValueError where there is no finished run, or a place or output that will not do.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"-o {output}: is a file; must be a directory, made if missing")
    collection = collect(places)
    studies = make_studies(collection.runs)
    if not studies:
        states = "; ".join(f"{run.name}: {run.status}, {run.why}" for run in collection.runs[:5])
        more = f"; and {len(collection.runs) - 5} more" if len(collection.runs) > 5 else ""
        raise ValueError(
            f"no finished run to report on ({states}{more}); run the same commands again: they go on where they stopped"
        )
    reports = []
    for k, study in enumerate(studies):
        print(f"{study.name}: {len(study.runs)} finished runs of {len(study.cells)} configurations …", file=sys.stderr)
        analysis = analyse(study)
        prefix, folder = "", "figures"
        if len(studies) > 1:
            prefix, folder = f"s{k + 1}-", f"figures/{re.sub('[^a-z0-9]+', '-', study.name.lower()).strip('-')}"
        parts = draw(analysis), side_by_side(analysis), load_texts(study)
        reports.append(study_report(analysis, *parts, prefix, folder))
    analyses = [report.analysis for report in reports]
    missing = missing_section(collection, reports)
    files: dict[str, str | bytes] = {
        "index.html": page(reports, missing, command, biencoder_ablate.__version__),
        "report.md": markdown(reports, missing, command),
        "table.csv": groups_csv(analyses),
        "comparisons.csv": comparisons_csv(analyses),
        "runs.csv": runs_csv(studies),
        "table.tex": "\n".join(latex(analysis) for analysis in analyses),
    }
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
        analysis = report.analysis
        prefix = f"{analysis.study.name}: " if len(reports) > 1 else ""
        lines += [f"{prefix}{analysis.headline}", *sentences.effects(analysis)]
        if analysis.leakage is not None:
            lines.append(analysis.leakage.sentence)
    lines += [sentences.tally(collection.runs), *collection.notes]
    broken = [run for run in collection.runs if run.status not in (FINISHED, "running", "not started")]
    lines += [f"  {run.name}: {run.status}, {run.why}" for run in broken[:10]]
    lines += [f"  and {len(broken) - 10} more" for _ in broken[10:11]]
    return "\n".join([*lines, f"written: {output / 'index.html'}"])
