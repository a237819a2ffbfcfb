"""`biencoder-ablate evaluate RUN_DIR …`: finished runs measured another way, and baselines beside them."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from biencoder_ablate.config.schema import MEASURING_KEYS
from biencoder_ablate.data.candidate_choice import IN_WORDS, resolve_candidates
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.baselines import (
    MEASURED,
    SIMILARITIES,
    chance_metrics,
    encoder_metrics,
    lexical_metrics,
)
from biencoder_ablate.evaluation.candidates import TASKS, build_task
from biencoder_ablate.runs.directory import RunDirectory, find_run
from biencoder_ablate.runs.evaluations import DIRECTORY, evaluation_name, is_kept, keep, load_evaluation
from biencoder_ablate.runs.status import run_status
from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import RunLog, format_number, show, text_table
from biencoder_ablate.utils.files import expand_user, refuse_link, replace_nonfinite, write_text

if TYPE_CHECKING:
    from biencoder_ablate.api import TrainedRun
    from biencoder_ablate.config.schema import DataConfig
    from biencoder_ablate.data.corpus import Corpus
    from biencoder_ablate.data.text_table import TextTable
    from biencoder_ablate.evaluation.candidates import RetrievalTask
    from biencoder_ablate.evaluation.pair_scores import PairScorer
    from biencoder_ablate.model.biencoder import Embeddings
    from biencoder_ablate.runs.records import Record

TREC_DEPTH = 1000
_OVERRIDE = re.compile(r"[+~]*[\w.@]+=|~")
"""How a word begins that is an override, and no run: a key and an equals sign, or what takes a key away."""
COLUMNS = {
    "top-1": "top1",
    "clean": "top1_clean",
    "stage 1": "top1_stage1",
    "MRR": "mrr",
    "nDCG@10": "ndcg@10",
    "R@10": "recall@10",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, keep RUN_DIR/evaluations/NAME.json, print tables or JSON; returns the exit code."""
    return run_command(_parser(), argv, _evaluate_and_print)


def _evaluate_and_print(arguments: argparse.Namespace) -> None:
    places, overrides = _places_and_overrides(arguments.words)
    if len(places) > 1 or _holds_runs(places[0]):
        _evaluate_all(places, overrides, arguments)
        return

    (run_dir,) = places
    opened = open_to_measure(run_dir, overrides)
    report, records = opened.measure(arguments.baselines, arguments.trec, quiet=arguments.json)
    path = keep(run_dir, report, records)
    if arguments.json:
        print_json(report)
        return

    show(describe(report))
    show(f"kept in {path}")
    if arguments.trec:
        show(f"TREC runs and qrels in {arguments.trec}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate evaluate",
        description="Measure a finished run another way, beside its own figures, or every finished run of a sweep. "
        "Nothing in a run changes but RUN_DIR/evaluations/. `biencoder-ablate report SWEEP --evaluations` reports on "
        "what was kept of a sweep.",
        usage="biencoder-ablate evaluate RUN_DIR [RUN_DIR ...] [KEY=VALUE ...]\n"
        "       [--baselines] [--trec OUT] [--json]",
        epilog="Examples: biencoder-ablate evaluate logs/runs/NAME evaluation.rerank=all --baselines; "
        "biencoder-ablate evaluate logs/sweeps/NAME data=pairs data.path=other.csv",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN_DIR … KEY=VALUE …",
        help="a finished run: logs/runs/NAME, its name, or latest; or several, a sweep or a logs directory, of which "
        "each run is measured that has not been measured in the same way; then what is to be other than in training: "
        f"any of {', '.join(MEASURING_KEYS)}",
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="add rows that need no training: TF-IDF cosine, BM25, the pretrained encoder's similarity",
    )
    parser.add_argument(
        "--trec",
        metavar="OUT",
        help=f"write val and test of one run as TREC run and qrels files, the first {TREC_DEPTH} candidates of each "
        "point",
    )
    add_json_option(parser)
    return parser


def _places_and_overrides(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The runs and sweeps that words name, and the overrides among them: what has a key and an equals sign.

    The first word is always a place.
    """
    overrides = [word for word in words[1:] if _OVERRIDE.match(word)]
    others = [word for word in words[1:] if word not in overrides]
    places = []
    for word in (words[0], *others):
        # The newest run, also where its sweep was written after it.
        sweeps = Path(word).name != "latest"
        places.append(find_run(word, sweeps))
    return places, overrides


def _holds_runs(place: Path) -> bool:
    """Whether a place is a sweep or a logs directory, and no single run."""
    return (place / "runs.json").is_file() or any((place / name).is_dir() for name in ("runs", "sweeps"))


# --- every run of a sweep ---


def _evaluate_all(places: Sequence[Path], overrides: Sequence[str], arguments: argparse.Namespace) -> None:
    """Evaluate every finished run at `places`, a line each; raises ValueError at the end where some could not be."""
    from biencoder_ablate.report.read import find_runs

    if arguments.trec:
        raise ValueError(f"--trec {arguments.trec}: its files are of one run; give one at a time")
    paths, _, problems = find_runs(places)
    finished = []
    for path in paths:
        if run_status(RunDirectory(path)).status == "finished":
            finished.append(path)
    if not finished:
        raise ValueError(f"none of the {len(paths)} runs there has finished; the command that started them goes on")

    rows = []
    notes: Counter[str] = Counter()
    for number, path in enumerate(finished, start=1):
        row = _evaluate_one(path, overrides, arguments.baselines)
        notes.update(row.pop("notes", ()))
        rows.append(row)
        if not arguments.json:
            show(f"{number}/{len(finished)} {_as_line(row)}")
    if arguments.json:
        print_json({"evaluations": rows, "not_finished": len(paths) - len(finished), "notes": dict(notes)})
    else:
        for note, count in notes.items():
            show(f"note, of {count} run{'s' * (count > 1)}: {note}")
        for problem in problems:
            show(f"note: {problem}")
        if len(paths) > len(finished):
            show(f"{len(paths) - len(finished)} of {len(paths)} runs have not finished and are left out")

    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        first = f"{failed[0]['run']}: {failed[0]['why']}"
        raise ValueError(f"{len(failed)} of {len(finished)} runs could not be evaluated; the first is {first}")


def _evaluate_one(path: Path, overrides: Sequence[str], baselines: bool) -> dict[str, Any]:
    """Evaluate a run unless that is kept of it already: what came of it, a failure too."""
    try:
        opened = open_to_measure(path, overrides)
        name = evaluation_name(opened.report, baselines)
        kept = path / DIRECTORY / f"{name}.json"
        status = "kept already"
        if is_kept(path, name):
            report = load_evaluation(kept)
        else:
            report, records = opened.measure(baselines, quiet=True)
            kept = keep(path, report, records)
            status = "evaluated"
    except (ValueError, OSError) as error:
        return {"run": path.name, "status": "failed", "why": " ".join(str(error).split())}
    return {
        "run": path.name,
        "status": status,
        "path": str(kept),
        "measured": report["measured"],
        "notes": report.get("notes", []),
    }


def _as_line(row: Mapping[str, Any]) -> str:
    """What came of a run, for a person: its figures on test, or on val where there is no test."""
    if row["status"] == "failed":
        return f"{row['run']}: failed: {row['why']}"
    split = "test" if "test" in row["measured"] else "val"
    metrics = row["measured"].get(split, {})
    figures = [f"{title} {format_number(metrics.get(key)) or '–'}" for title, key in COLUMNS.items()]
    return f"{row['run']}: {split} {', '.join(figures)}; {row['status']}"


# --- one run ---


def evaluate(
    run_dir: str | Path,
    overrides: Sequence[str],
    baselines: bool = False,
    trec: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure val and test with the run's selected model. Raises ValueErrors that name what is wrong.

    `trec`: a directory to write runs and qrels of the official candidates to, as `write_trec` does.

    Returns `own` (the run's metrics), `measured` and, where asked, `baselines`, each with metrics by split as in
    result.json; `notes` says what a reader must know to compare them.
    """
    report, _ = open_to_measure(run_dir, overrides).measure(baselines, trec, quiet)
    return report


@dataclass(frozen=True)
class Opened:
    """A finished run with the corpus that it is to be measured on. `report` has all that is known before measuring,
    and so what the evaluation is called."""

    run: TrainedRun
    corpus: Corpus
    report: dict[str, Any]

    def measure(
        self,
        baselines: bool = False,
        trec: str | Path | None = None,
        quiet: bool = False,
    ) -> tuple[dict[str, Any], list[Record]]:
        """What `evaluate` returns, and the records of all val and test points, as rankings.jsonl has them."""
        import torch

        from biencoder_ablate.evaluation.pair_scores import pair_scorer
        from biencoder_ablate.evaluation.protocols import final_rankings, point_records, split_metrics, study_top1

        run, settings = self.run, self.report["evaluation"]
        log = RunLog(None, quiet)
        table = build_table(self.corpus)
        tasks, notes_of_clean = _build_tasks(run, self.corpus, table, settings["candidates"])
        notes = [*self.report["notes"], *notes_of_clean]

        # h of all texts, from the cache where this reading of them is there.
        seconds = {}
        started = time.perf_counter()
        pooled = run.pooled(table, log)
        seconds["encoding"] = time.perf_counter() - started

        # Ranked as at the end of training, with the run's own projections and head.
        started = time.perf_counter()
        model = run.biencoder()
        with torch.no_grad():
            embeddings = model.embed(*pooled)
        score = pair_scorer(model, embeddings, run.config.training.fast)
        measured, records = {}, []
        for split, task in tasks.items():
            rankings = final_rankings(task, embeddings, score, settings["rerank"])
            measured[split] = split_metrics(rankings)
            records += point_records(rankings)
            if settings["source"]:
                measured[split]["source/top1"] = study_top1(task, embeddings, score)
            if trec is not None:
                write_trec(expand_user(trec), task, embeddings, score, settings["rerank"], run.name)
        seconds["ranking"] = time.perf_counter() - started

        report = self.report | {
            "notes": notes,
            "device": str(embeddings.h.device),
            "measured": measured,
            "chance": {split: chance_metrics(task) for split, task in tasks.items()},
        }
        if baselines:
            started = time.perf_counter()
            report["baselines"] = lexical_metrics(table.texts, tasks)
            try:
                if run.contract.copied:  # the run's encoder is not the one it started from
                    pooled = run.as_pretrained().pooled(table, log)
                h, h_asking = pooled
                report["baselines"] |= encoder_metrics(h, tasks, h_asking)
            except (ValueError, OSError) as error:
                notes.append(f"no figures of the pretrained encoder: {error}")
            seconds["baselines"] = time.perf_counter() - started
        return replace_nonfinite(report | {"seconds": seconds}), records


def open_to_measure(run_dir: str | Path, overrides: Sequence[str]) -> Opened:
    """A finished run and the corpus to measure it on, before anything is encoded. Raises as `evaluate`."""
    from biencoder_ablate.api import open_run

    run = open_run(run_dir, overrides)
    if not os.access(run.path, os.W_OK):
        raise PermissionError(f"{run_dir}: cannot be written to, and evaluations/ belongs there; copy the run first")
    refuse_link(run.path / DIRECTORY)
    corpus, notes = run.corpus()
    settings = resolve_candidates(run.config, corpus).evaluation
    report: dict[str, Any] = {
        "run": run.name,
        "best_epoch": run.result["best_epoch"],
        "overrides": list(overrides),
        "evaluation": vars(settings) | {"max_tokens": run.config.model.max_tokens},
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "read_as": _found_from_anywhere(run.config.data),
        "precision": run.settings.precision,
        "notes": [*corpus.notes, *notes],
        "own": {
            "rerank": run.trained.evaluation.rerank,
            "candidates": run.trained.evaluation.candidates,
            **{name: run.result[name] for name in MEASURED},
        },
    }
    return Opened(run, corpus, report)


def _found_from_anywhere(settings: DataConfig) -> dict[str, Any]:
    """The settings of the group `data`, a path in them absolute where there is something: a report reads it later."""
    values = dict(vars(settings))
    if settings.path is not None and expand_user(settings.path).exists():
        values["path"] = os.path.abspath(expand_user(settings.path))
    return values


def write_trec(
    out: Path,
    task: RetrievalTask,
    embeddings: Embeddings,
    score: PairScorer,
    depth: int | str,
    tag: str,
) -> None:
    """Write OUT/SPLIT.run and OUT/SPLIT.qrels: the official candidates of each point, ranked as the metrics rank them.

    A file's score is minus the rank: distances of stage 1 and scores of stage 2 lie on no common scale. What ranks
    beyond TREC_DEPTH is left out; a right answer that is no candidate is called absent. Blanks and percent signs of
    names are percent-encoded. Raises OSError.
    """
    from biencoder_ablate.evaluation.ranking import rerank, rerank_depth, stage1

    candidates, split = task.candidates, task.split
    num_reranked = rerank_depth(depth, len(candidates))
    official = task.sets()[:1]
    (nearest,) = stage1(embeddings, task.point, candidates, official, max(num_reranked, TREC_DEPTH))
    top_k = rerank(nearest, num_reranked, task.point, candidates, score)

    # The run: a line for each point and place.
    names = [trec_name(task.name_of(candidate)) for candidate in range(len(candidates))]
    pairs = [split.pairs[row] for row in task.pair.tolist()]
    points = [trec_name(pair.query or pair.name or pair.id) for pair in pairs]
    lines = []
    for point, ranked in zip(points, top_k.order[:, :TREC_DEPTH].tolist(), strict=True):
        for rank, candidate in enumerate(ranked, start=1):
            if candidate >= 0:
                lines.append(f"{point} Q0 {names[candidate]} {rank} {-rank} {tag}\n")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{split.name}.run", "".join(lines))

    # The qrels: a line for each right answer. Two that are no candidates are told apart by their numbers.
    lines = []
    qrels = np.stack([task.qrels.row, task.qrels.candidate, task.qrels.grade], axis=1)
    for number, (row, candidate, grade) in enumerate(qrels.tolist()):
        name = names[candidate] if candidate >= 0 else f"absent{number}"
        lines.append(f"{points[row]} 0 {name} {grade}\n")
    write_text(out / f"{split.name}.qrels", "".join(lines))


def trec_name(name: str) -> str:
    """A name without blanks, which TREC's files are cut at; no two names become one."""
    return re.sub(r"[\s%]", lambda match: quote(match[0]), name)


def _build_tasks(
    run: TrainedRun,
    corpus: Corpus,
    table: TextTable,
    among: str | None,
) -> tuple[dict[str, RetrievalTask], list[str]]:
    """Val and test with their candidates, and what must be said of them.

    On another corpus than the run's, clean metrics also leave out what the model has seen: for val the training
    split that the run had, for test its val as well.
    """
    from biencoder_ablate.evaluation.protocols import leave_out_seen

    notes = []
    ranked_by_run = run.trained.evaluation.candidates
    if among != ranked_by_run:
        notes.append(f"ranked {IN_WORDS[str(among)]}; the run's own figures are {IN_WORDS[str(ranked_by_run)]}")
    splits = {name: table.splits[name] for name in MEASURED if len(table.splits[name])}
    # What the run was trained on may be in another corpus's texts too.
    if corpus.fingerprint != run.trained_on:
        try:
            own = run.own_corpus()
        except (ValueError, OSError) as error:
            notes.append(
                f"clean figures do not leave out texts that the run was trained on: its corpus is gone ({error})"
            )
        else:
            if own.fingerprint != run.trained_on:
                notes.append(
                    "clean figures leave out what the run's corpus holds now, and not what the run was trained on"
                )
            published = own.published
            seen = {"val": published["train"], "test": published["train"] | published["val"]}
            splits = {name: leave_out_seen(split, seen[name]) for name, split in splits.items()}
    return {name: build_task(split, among) for name, split in splits.items()}, notes


def describe(report: Mapping[str, Any]) -> str:
    """A report as tables for a person, one a split."""
    epoch = report["best_epoch"]
    selected = f"selected epoch {epoch}" if epoch >= 0 else "not trained"
    where = f"{report['data']['name']}, {IN_WORDS[report['evaluation']['candidates']]}"
    lines = [f"{report['run']}, {selected}, on {where}, {report['device']}, {report['precision']}"]
    lines += [f"note: {note}" for note in report["notes"]]
    baselines = report.get("baselines", {})
    if "pretrained_cosine" in baselines:
        lines.append("pretrained: the encoder as downloaded, without linear1 and head")

    # What was ranked is named where it is not the same in both rows.
    own, settings = report["own"], report["evaluation"]
    ranked = ["", ""]
    if own["candidates"] != settings["candidates"]:
        ranked = [f", {own['candidates']}", f", {settings['candidates']}"]
    for split, measured in report["measured"].items():
        rows = [
            (f"this run, rerank={own['rerank']}{ranked[0]}", own[split]),
            (f"measured, rerank={settings['rerank']}{ranked[1]}", measured),
        ]
        rows += [(SIMILARITIES[name], by_split[split]) for name, by_split in baselines.items()]
        lines += ["", metrics_table(split, rows)]
        if "source/top1" in measured:
            lines.append(
                f"source/{split}/top1 {measured['source/top1']:.4f}: to read the source study's logs beside "
                "ours, not to publish"
            )

    if any(measured["tasks"] for measured in report["measured"].values()):
        official = "epa" if report["evaluation"]["candidates"] == "all" else "epc"
        lines += [
            "",
            "sd, st, ep: same debate, same theme, everything; oc, c, oa, a: opposing counters,",
            f"counters, opposing arguments, arguments; {official} is official",
        ]
    lines += [
        "",
        ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items()),
    ]
    return "\n".join(lines)


def metrics_table(split: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Metrics of one split, a line a row: (name, metrics as `protocols.split_metrics` gives them)."""
    # On another corpus the run's own metrics are of other points than those measured now.
    sizes = {(metrics["num_points"], metrics["num_points_clean"]) for _, metrics in rows}
    over = " or ".join(f"{points} points, {clean} of them clean" for points, clean in sorted(sizes, reverse=True))
    main_rows, task_rows = [], []
    tasks = [name for name in TASKS if any(name in metrics["tasks"] for _, metrics in rows)]
    for title, metrics in rows:
        values = [format_number(metrics.get(key)) or "–" for key in COLUMNS.values()]
        main_rows.append([title, *values])
        by_task = [metrics["tasks"].get(name, {}).get("top1") for name in tasks]
        task_rows.append([title, *(format_number(value, 3) or "–" for value in by_task)])

    text = f"{split}: {over}\n" + text_table(["", *COLUMNS], main_rows)
    if tasks:
        text += "\n\n" + text_table(["top-1 among", *tasks], task_rows)
    return text


if __name__ == "__main__":
    sys.exit(main())
