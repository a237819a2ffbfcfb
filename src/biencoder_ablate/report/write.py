"""From runs to the files of a report: everything is worked out first, then each file written whole."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import biencoder_ablate
from biencoder_ablate.files import read_json, whole_file
from biencoder_ablate.report import sentences
from biencoder_ablate.report.examples import load_texts, side_by_side
from biencoder_ablate.report.export import comparisons_csv, groups_csv, latex, points_csv, runs_csv
from biencoder_ablate.report.plots import draw
from biencoder_ablate.report.questions import analyse
from biencoder_ablate.report.read import FINISHED, Collection, Protocol
from biencoder_ablate.report.render import StudyReport, markdown, missing_section, page, study_report
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.yardsticks import baselines

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
        "index.html": page(reports, missing, command, biencoder_ablate.__version__),
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
