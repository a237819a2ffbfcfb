"""What `evaluate` keeps of a finished run, in its directory evaluations/: NAME.json, and NAME.rankings.jsonl beside it.

The rankings are those of rankings.jsonl, a line a val and test point, so that statistics over points are possible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biencoder_ablate.runs.identity import short_hash
from biencoder_ablate.runs.records import Record
from biencoder_ablate.utils.files import expand_user, load_json, refuse_link, replace_nonfinite, write_json, write_text

DIRECTORY = "evaluations"
WITH_BASELINES = "_baselines"
_RANKINGS = ".rankings.jsonl"


def evaluation_name(report: Mapping[str, Any], baselines: bool) -> str:
    """What an evaluation is called: by its corpus, its settings and its precision, and by whether it has baselines.

    The same of two runs where they were measured alike. `report` needs `evaluation`, `data` and `precision`.
    """
    determined_by = short_hash({key: report[key] for key in ("evaluation", "data", "precision")})
    rows = WITH_BASELINES if baselines else ""
    return f"{report['data']['name']}_rerank{report['evaluation']['rerank']}{rows}_{determined_by}"


def keep(run_dir: str | Path, report: Mapping[str, Any], records: Sequence[Record]) -> Path:
    """Write a report and the records of its points, each file whole; the same again replaces them.

    Returns the report's path. The report comes last: with it the evaluation is there. Raises OSError, and ValueError
    for a link.
    """
    name = evaluation_name(report, "baselines" in report)
    path = expand_user(run_dir) / DIRECTORY / f"{name}.json"
    for place in (path.parent, path, rankings_of(path)):
        refuse_link(place)
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps(replace_nonfinite(record), ensure_ascii=False) + "\n" for record in records]
    write_text(rankings_of(path), "".join(lines))
    write_json(path, report)
    return path


def rankings_of(path: Path) -> Path:
    """Where the records of an evaluation's points are, beside its report."""
    return path.with_name(path.stem + _RANKINGS)


def kept_evaluations(run_dir: Path) -> list[Path]:
    """The reports in a run's directory, by name; also those of earlier versions, which have no rankings."""
    return sorted((run_dir / DIRECTORY).glob("[!.]*.json"))


def load_evaluation(path: Path) -> dict[str, Any]:
    """A report. Raises OSError, or Damaged."""
    return load_json(path, evaluation=dict, data=dict, precision=str, measured=dict, overrides=list)


def is_kept(run_dir: Path, name: str) -> bool:
    """Whether an evaluation of this name is there, whole and with its rankings."""
    path = run_dir / DIRECTORY / f"{name}.json"
    if not rankings_of(path).is_file():
        return False
    try:
        load_evaluation(path)
    except (OSError, ValueError):
        return False
    return True
