"""`biencoder-ablate evaluate RUN_DIR …`: a finished run measured another way, and baselines beside it."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from biencoder_ablate.config.schema import MEASURING_KEYS
from biencoder_ablate.runs.directory import find_run
from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import format_number, text_table
from biencoder_ablate.utils.files import expand_user

if TYPE_CHECKING:
    from biencoder_ablate.api import TrainedRun
    from biencoder_ablate.data.corpus import Corpus
    from biencoder_ablate.data.text_table import TextTable
    from biencoder_ablate.encoder.texts import Hidden
    from biencoder_ablate.evaluation.candidates import RetrievalTask
    from biencoder_ablate.evaluation.pair_scores import PairScorer
    from biencoder_ablate.model.biencoder import Embeddings
    from biencoder_ablate.utils.console import RunLog

MEASURED = ("val", "test")
TREC_DEPTH = 1000
TITLES = {
    "tfidf_cosine": "TF-IDF cosine",
    "bm25": "BM25",
    "pretrained_euclidean": "pretrained, Euclidean",
    "pretrained_cosine": "pretrained, cosine",
}
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
    return run_command(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    run_dir = find_run(arguments.run_dir)
    report = evaluate(run_dir, arguments.overrides, arguments.baselines, arguments.trec, quiet=arguments.json)
    path = keep(run_dir, report)
    if arguments.json:
        print_json(report)
        return
    print(f"{describe(report)}\nkept in {path}")
    if arguments.trec:
        print(f"TREC runs and qrels in {arguments.trec}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate evaluate",
        description="Measure a finished run another way, beside its own figures. Nothing in the run changes but "
        "RUN_DIR/evaluations/, which gets a file.",
        epilog="Example: biencoder-ablate evaluate logs/runs/NAME evaluation.rerank=all --baselines",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished run: logs/runs/NAME, its name, or latest")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help=f"any of {', '.join(MEASURING_KEYS)}"
    )
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="add rows that need no training: TF-IDF cosine, BM25, the pretrained encoder's similarity",
    )
    parser.add_argument(
        "--trec",
        metavar="OUT",
        help=f"write val and test as TREC run and qrels files, the first {TREC_DEPTH} candidates of each point",
    )
    add_json_option(parser)
    return parser


def evaluate(
    run_dir: str | Path,
    overrides: Sequence[str],
    baselines: bool = False,
    trec: str | Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure val and test with the run's selected model. Raises ValueErrors that name what is wrong.

    `trec`: a directory to write runs and qrels of the official candidates to, as `write_trec` does.

    Returns `own` (the run's figures), `measured` and, where asked, `baselines`, each with figures by split as in
    result.json; `notes` says what a reader must know to compare them.
    """
    import torch

    from biencoder_ablate.api import open_run
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.data.text_table import build_table
    from biencoder_ablate.evaluation.pair_scores import pair_scorer
    from biencoder_ablate.evaluation.protocols import final_rankings, split_metrics, study_top1
    from biencoder_ablate.utils.console import RunLog
    from biencoder_ablate.utils.files import replace_nonfinite

    run = open_run(run_dir, overrides)
    if not os.access(run.path, os.W_OK):
        raise PermissionError(f"{run_dir}: cannot be written to, and evaluations/ belongs there; copy the run first")
    log, asked = RunLog(None, quiet), run.config.evaluation
    corpus = load_corpus(run.config.data)
    index = build_table(corpus)
    splits, notes = _splits(run, corpus, index)
    started = time.perf_counter()
    h, h_asking = run.pooled(index, log)
    seconds = {"encoding": time.perf_counter() - started}
    started = time.perf_counter()
    model = run.biencoder()
    with torch.no_grad():
        embeddings = model.embed(h, h_asking)
    score = pair_scorer(model, embeddings, run.config.training.fast)
    measured = {}
    for name, prepared in splits.items():
        measured[name] = split_metrics(final_rankings(prepared, embeddings, score, asked.rerank))
        if asked.source:
            measured[name]["source/top1"] = study_top1(prepared, embeddings, score)
        if trec is not None:
            write_trec(expand_user(trec), prepared, embeddings, score, asked.rerank, run.name)
    seconds["ranking"] = time.perf_counter() - started
    report: dict[str, Any] = {
        "run": run.name,
        "best_epoch": run.result["best_epoch"],
        "overrides": list(overrides),
        "evaluation": vars(asked) | {"max_tokens": run.config.model.max_tokens},
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "device": str(h.device),
        "precision": run.reading.precision,
        "notes": notes,
        "own": {"rerank": run.trained.evaluation.rerank, **{name: run.result[name] for name in MEASURED}},
        "measured": measured,
    }
    if baselines:
        started = time.perf_counter()
        report["baselines"] = _baselines(run, index, splits, (h, h_asking), notes, log)
        seconds["baselines"] = time.perf_counter() - started
    return replace_nonfinite(report | {"seconds": seconds})


def write_trec(
    out: Path, prepared: RetrievalTask, embeddings: Embeddings, score: PairScorer, depth: int | str, tag: str
) -> None:
    """Write OUT/SPLIT.run and OUT/SPLIT.qrels: the official candidates of each point, ranked as the figures are.

    A file's score is minus the rank: distances of stage 1 and scores of stage 2 lie on no common scale. What ranks
    beyond TREC_DEPTH is left out; a right answer that is no candidate is called absent. Blanks and percent signs of
    names are percent-encoded. Raises OSError.
    """
    from biencoder_ablate.evaluation.ranking import rerank, stage1
    from biencoder_ablate.utils.files import write_text

    candidates, asked, split = prepared.candidates, prepared.sets()[0], prepared.split
    num = {"all": len(candidates), "none": 0}.get(str(depth), depth)
    assert isinstance(num, int)
    (found,) = stage1(embeddings, prepared.point, candidates, [asked], max(num, TREC_DEPTH))
    order = rerank(found, num, prepared.point, candidates, score).order[:, :TREC_DEPTH]
    names = [trec_name(prepared.name_of(candidate)) for candidate in range(len(candidates))]
    points = [trec_name(pair.query or pair.id) for pair in (split.pairs[row] for row in prepared.pair.tolist())]
    lines = [
        f"{points[row]} Q0 {names[candidate]} {rank} {-rank} {tag}\n"
        for row, candidates_of in enumerate(order.tolist())
        for rank, candidate in enumerate(candidates_of, start=1)
        if candidate >= 0
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{split.name}.run", "".join(lines))
    right = prepared.qrels
    answers = [
        f"{points[row]} 0 {names[candidate] if candidate >= 0 else f'absent{number}'} {grade}\n"
        for number, (row, candidate, grade) in enumerate(
            zip(right.row.tolist(), right.candidate.tolist(), right.grade.tolist(), strict=True)
        )
    ]
    write_text(out / f"{split.name}.qrels", "".join(answers))


def trec_name(name: str) -> str:
    """A name without blanks, which TREC's files are cut at; no two names become one."""
    return re.sub(r"[\s%]", lambda found: quote(found[0]), name)


def _splits(run: TrainedRun, corpus: Corpus, index: TextTable) -> tuple[dict[str, RetrievalTask], list[str]]:
    """Val and test with their candidates, and what must be said of them.

    On another corpus than the run's, clean figures also leave out what the model has seen: for val the training
    split that the run had, for test its val as well.
    """
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.evaluation.candidates import build_task
    from biencoder_ablate.evaluation.protocols import leave_out_seen

    notes = list(corpus.notes)
    arrays = {name: index.splits[name] for name in MEASURED if len(index.splits[name])}
    if corpus.fingerprint == run.trained_on:
        return {name: build_task(split) for name, split in arrays.items()}, notes
    notes.append("not the corpus, or not the part of it, that the run's own figures are of")
    try:
        published = load_corpus(run.trained.data).published
    except (ValueError, OSError) as error:
        notes.append(f"clean figures do not leave out texts that the run was trained on: its corpus is gone ({error})")
    else:
        seen = {"val": published["train"], "test": published["train"] | published["val"]}
        arrays = {name: leave_out_seen(split, seen[name]) for name, split in arrays.items()}
    return {name: build_task(split) for name, split in arrays.items()}, notes


def _baselines(
    run: TrainedRun,
    index: TextTable,
    splits: Mapping[str, RetrievalTask],
    hidden: Hidden,
    notes: list[str],
    log: RunLog,
) -> dict[str, Any]:
    """Figures that need no training. Without the pretrained encoder its rows are missing, and `notes` says why."""
    from biencoder_ablate.evaluation.baselines import encoder_metrics, lexical_metrics

    found = lexical_metrics(index.texts, splits)
    try:
        h, h_asking = run.as_pretrained().pooled(index, log) if run.contract.copied else hidden
    except (ValueError, OSError) as error:
        notes.append(f"no figures of the pretrained encoder: {error}")
        return found
    return found | encoder_metrics(h, splits, h_asking)


def keep(run_dir: str | Path, report: Mapping[str, Any]) -> Path:
    """Write the report to RUN_DIR/evaluations/, whole, named by what was measured; the same again replaces it."""
    from biencoder_ablate.runs.identity import short_hash
    from biencoder_ablate.utils.files import write_json

    measured = {key: report[key] for key in ("evaluation", "data", "precision")}
    rows = "_baselines" if "baselines" in report else ""
    name = f"{report['data']['name']}_rerank{report['evaluation']['rerank']}{rows}_{short_hash(measured)}.json"
    path = expand_user(run_dir) / "evaluations" / name
    path.parent.mkdir(exist_ok=True)
    write_json(path, report)
    return path


def describe(report: Mapping[str, Any]) -> str:
    """A report as tables for a person, one a split."""
    epoch = report["best_epoch"]
    chosen = f"selected epoch {epoch}" if epoch >= 0 else "not trained"
    lines = [
        f"{report['run']}, {chosen}, on {report['data']['name']}, {report['device']}, {report['precision']}",
        *(f"note: {note}" for note in report["notes"]),
    ]
    if report.get("baselines", {}).keys() & {"pretrained_cosine"}:
        lines.append("pretrained: the encoder as downloaded, without linear1 and head")
    for split, measured in report["measured"].items():
        rows = [
            (f"this run, rerank={report['own']['rerank']}", report["own"][split]),
            (f"measured, rerank={report['evaluation']['rerank']}", measured),
        ]
        rows += [(TITLES[name], figures[split]) for name, figures in report.get("baselines", {}).items()]
        lines += ["", figures_table(split, rows)]
        if "source/top1" in measured:
            lines.append(
                f"source/{split}/top1 {measured['source/top1']:.4f}: to read the source study's logs beside "
                "ours, not to publish"
            )
    lines.append(
        "\nsd, st, ep: same debate, same theme, everything; oc, c, oa, a: opposing counters,\n"
        "counters, opposing arguments, arguments; epa is official"
    )
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items())
    return "\n".join([*lines, "", took])


def figures_table(split: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Figures of one split, a line a row: (name, figures as `protocols.split_metrics` gives them)."""
    from biencoder_ablate.evaluation.candidates import TASKS

    sizes = {(figures["num_points"], figures["num_points_clean"]) for _, figures in rows}
    over = " or ".join(f"{points} points, {clean} of them clean" for points, clean in sorted(sizes, reverse=True))
    main = [[name, *(format_number(figures.get(key)) or "–" for key in COLUMNS.values())] for name, figures in rows]
    shown = f"{split}: {over}\n{text_table(['', *COLUMNS], main)}"
    kept = [task for task in TASKS if any(task in figures["tasks"] for _, figures in rows)]
    tasks = [
        [name, *(format_number(figures["tasks"].get(task, {}).get("top1"), 3) or "–" for task in kept)]
        for name, figures in rows
    ]
    return f"{shown}\n\n{text_table(['top-1 among', *kept], tasks)}" if kept else shown


if __name__ == "__main__":
    sys.exit(main())
