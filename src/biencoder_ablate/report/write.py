"""From runs to the files of a report: everything is worked out first, then each file written whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import biencoder_ablate
from biencoder_ablate.files import whole_file, write_text
from biencoder_ablate.report import words
from biencoder_ablate.report.analysis import analyse
from biencoder_ablate.report.beside_source import BesideSource, beside_source
from biencoder_ablate.report.collect import FINISHED, Collection, collect
from biencoder_ablate.report.contents import StudyParts
from biencoder_ablate.report.figures import draw
from biencoder_ablate.report.formats import comparisons_csv, csv_text, groups_csv, latex
from biencoder_ablate.report.grouping import Study, make_studies
from biencoder_ablate.report.markdown_report import build_markdown
from biencoder_ablate.report.page import build_page
from biencoder_ablate.report.plotting import Picture
from biencoder_ablate.report.source_log import parse_source_log
from biencoder_ablate.report.tables import Value, runs_table
from biencoder_ablate.report.wins import all_wins, load_texts


def write_report(places: Sequence[Path], output: Path, logs: Mapping[str, Path], command: str) -> None:
    """Read the runs at `places` and write the report to `output`, saying on the screen what came out.

    Raises ValueError where there is no finished run, or a place, log or output that will not do.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"-o {output}: is a file; must be a directory, made if missing")
    read = {name: parse_source_log(path) for name, path in logs.items()}
    collection = collect(places)
    studies = make_studies(collection.runs)
    if not studies:
        raise ValueError(_nothing_finished(collection))
    parts = [_parts(study) for study in studies]
    source = beside_source(read, [part.analysis for part in parts]) if read else None
    folders = [f"figures/{_slug(study.name)}" if len(studies) > 1 else "figures" for study in studies] + ["figures"]
    files: dict[str, str | bytes] = {
        "index.html": build_page(parts, collection, source, command, biencoder_ablate.__version__),
        "report.md": build_markdown(parts, collection, source, command, folders),
        "table.csv": groups_csv([part.analysis for part in parts]),
        "comparisons.csv": comparisons_csv([part.analysis for part in parts]),
        "runs.csv": _runs_csv(studies),
        "table.tex": "\n".join(latex(part.analysis) for part in parts),
    }
    for part, folder in zip(parts, folders, strict=False):
        files |= _picture_files(part.pictures, folder)
    files |= _picture_files(source.pictures, folders[-1]) if source else {}
    _write(output, files)
    print(_summary(parts, collection, source, output))


def _parts(study: Study) -> StudyParts:
    print(f"{study.name}: {len(study.runs)} finished runs of {len(study.cells)} configurations …", file=sys.stderr)
    analysis = analyse(study)
    wins = all_wins(analysis)
    return StudyParts(analysis, draw(analysis), wins, load_texts(study))


def _nothing_finished(collection: Collection) -> str:
    states = "; ".join(f"{run.name}: {run.status}, {run.why}" for run in collection.runs[:5])
    more = f"; and {len(collection.runs) - 5} more" if len(collection.runs) > 5 else ""
    return f"no finished run to report on ({states}{more}); run the same commands again: they go on where they stopped"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _runs_csv(studies: Sequence[Study]) -> str:
    """A row a finished run; the studies' axes side by side."""
    tables = [runs_table(study) for study in studies]
    heading = list(dict.fromkeys(column.name for table in tables for column in table.columns))
    rows: list[list[Value]] = []
    for study, table in zip(studies, tables, strict=True):
        names = [column.name for column in table.columns]
        for row in table.rows:
            values = dict(zip(names, row, strict=True))
            rows.append([study.name, *(values.get(name) for name in heading)])
    return csv_text(["corpus", *heading], rows)


def _picture_files(pictures: Sequence[Picture], folder: str) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for found in pictures:
        files[f"{folder}/{found.name}.svg"] = found.svg
        files[f"{folder}/{found.name}.png"] = found.png
    return files


def _write(output: Path, files: Mapping[str, str | bytes]) -> None:
    try:
        for name, content in files.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                write_text(path, content)
            else:
                with whole_file(path, "wb") as file:
                    file.write(content)
    except OSError as error:
        raise ValueError(f"-o {output}: cannot be written to ({error.strerror}); give another directory") from error


def _summary(parts: Sequence[StudyParts], collection: Collection, source: BesideSource | None, output: Path) -> str:
    lines = []
    for part in parts:
        prefix = f"{part.analysis.study.name}: " if len(parts) > 1 else ""
        lines += [f"{prefix}{part.analysis.headline}", *words.effects(part.analysis)]
        if part.analysis.leakage is not None:
            lines.append(part.analysis.leakage.sentence)
    lines += [words.tally(collection.runs), *collection.notes]
    broken = [run for run in collection.runs if run.status not in (FINISHED, "running", "not started")]
    lines += [f"  {run.name}: {run.status}, {run.why}" for run in broken[:10]]
    lines += [f"  and {len(broken) - 10} more" for _ in broken[10:11]]
    if source is not None and source.problem:
        lines.append(source.problem)
    return "\n".join([*lines, f"written: {output / 'index.html'}"])
