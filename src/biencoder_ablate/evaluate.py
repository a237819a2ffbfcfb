"""`python -m biencoder_ablate.evaluate RUN_DIR …`: a finished run measured another way, and baselines beside it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.command import add_json_option, answer, print_json
from biencoder_ablate.trained_run import (
    ALLOWED,
    FinishedRun,
    as_untrained,
    device_and_precision,
    hidden_of_corpus,
    open_run,
)

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.data.corpus import Corpus
    from biencoder_ablate.data.index import TextIndex
    from biencoder_ablate.evaluation.measure import SplitCandidates
    from biencoder_ablate.runs.records import RunLog

MEASURED = ("val", "test")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, keep RUN_DIR/evaluations/NAME.json, print tables or JSON; returns the exit code."""
    return answer(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    report = evaluate(arguments.run_dir, arguments.overrides, arguments.baselines, quiet=arguments.json)
    path = keep(arguments.run_dir, report)
    if arguments.json:
        print_json(report)
        return
    from biencoder_ablate.evaluation.reevaluate import describe

    print(f"{describe(report)}\nkept in {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate-evaluate",
        description="Measure a finished run another way, beside its own figures. Nothing in the run changes but "
        "RUN_DIR/evaluations/, which gets a file.",
        epilog="Example: biencoder-ablate-evaluate logs/runs/NAME evaluation.rerank=all --baselines",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the directory of a finished run, logs/runs/NAME")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=f"any of {', '.join(ALLOWED)}")
    parser.add_argument(
        "--baselines",
        action="store_true",
        help="add rows that need no training: TF-IDF cosine, BM25, the untrained encoder's similarity",
    )
    add_json_option(parser)
    return parser


def evaluate(
    run_dir: str | Path, overrides: Sequence[str], baselines: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Measure val and test with the run's selected model. Raises ValueErrors that name what is wrong.

    Returns `own` (the run's figures), `measured` and, where asked, `baselines`, each with figures by split as in
    result.json; `notes` says what a reader must know to compare them.
    """
    run = open_run(run_dir, overrides)
    if not os.access(run.path, os.W_OK):
        raise PermissionError(f"{run_dir}: cannot be written to, and evaluations/ belongs there; copy the run first")
    from biencoder_ablate.data.index import build_index
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.evaluation.fast_scoring import fast_scorer, plain_scorer
    from biencoder_ablate.evaluation.reevaluate import measured_figures
    from biencoder_ablate.files import finite
    from biencoder_ablate.model.restore import restore_biencoder
    from biencoder_ablate.runs.records import RunLog

    log = RunLog(None, quiet)
    corpus = load_corpus(run.config.data)
    table = build_index(corpus)
    splits, notes = _splits(run, corpus, table)
    started = time.perf_counter()
    h = hidden_of_corpus(run, table, log)
    model = restore_biencoder(run.contract).to(h.device)
    r = model.retrieval(h).detach()
    seconds = {"encoding": time.perf_counter() - started}
    started = time.perf_counter()
    asked = run.config.evaluation
    score = (fast_scorer if run.config.training.fast else plain_scorer)(model, h, r)
    measured = measured_figures(splits, model, h, r, score, asked.rerank, asked.source)
    seconds["ranking"] = time.perf_counter() - started
    report: dict[str, Any] = {
        "run": run.path.resolve().name,
        "best_epoch": run.result["best_epoch"],
        "overrides": list(overrides),
        "evaluation": vars(asked) | {"max_tokens": run.config.model.max_tokens},
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "device": str(h.device),
        "precision": device_and_precision(run)[1],
        "notes": notes,
        "own": {"rerank": run.trained.evaluation.rerank, **{name: run.result[name] for name in MEASURED}},
        "measured": measured,
    }
    if baselines:
        started = time.perf_counter()
        report["baselines"] = _baselines(run, table, splits, h, notes, log)
        seconds["baselines"] = time.perf_counter() - started
    return finite(report | {"seconds": seconds})


def _splits(run: FinishedRun, corpus: Corpus, table: TextIndex) -> tuple[dict[str, SplitCandidates], list[str]]:
    """Val and test with their candidates, and what must be said of them.

    On another corpus than the run's, clean figures also leave out what the model has seen: for val the training
    split that the run had, for test its val as well.
    """
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.evaluation.measure import prepare
    from biencoder_ablate.evaluation.reevaluate import leave_out_seen

    notes = list(corpus.notes)
    arrays = {name: table.splits[name] for name in MEASURED}
    if corpus.fingerprint == run.trained_on:
        return {name: prepare(split) for name, split in arrays.items()}, notes
    notes.append("not the corpus, or not the part of it, that the run's own figures are of")
    try:
        published = load_corpus(run.trained.data).published
    except (ValueError, OSError) as error:
        notes.append(f"clean figures do not leave out texts that the run was trained on: its corpus is gone ({error})")
    else:
        seen = {"val": published["train"], "test": published["train"] | published["val"]}
        arrays = {name: leave_out_seen(split, seen[name]) for name, split in arrays.items()}
    return {name: prepare(split) for name, split in arrays.items()}, notes


def _baselines(
    run: FinishedRun,
    table: TextIndex,
    splits: Mapping[str, SplitCandidates],
    h: torch.Tensor,
    notes: list[str],
    log: RunLog,
) -> dict[str, Any]:
    """Figures that need no training. Without the untrained encoder its rows are missing, and `notes` says why."""
    from biencoder_ablate.evaluation.reevaluate import encoder_figures, lexical_figures

    found = lexical_figures(table.texts, splits)
    try:
        untrained = hidden_of_corpus(as_untrained(run), table, log) if run.contract.copied else h
    except (ValueError, OSError) as error:
        notes.append(f"no figures of the untrained encoder: {error}")
        return found
    return found | encoder_figures(untrained, splits)


def keep(run_dir: str | Path, report: Mapping[str, Any]) -> Path:
    """Write the report to RUN_DIR/evaluations/, whole, named by what was measured; the same again replaces it."""
    from biencoder_ablate.files import write_json
    from biencoder_ablate.runs.identity import short_hash

    measured = {key: report[key] for key in ("evaluation", "data", "precision")}
    rows = "_baselines" if "baselines" in report else ""
    name = f"{report['data']['name']}_rerank{report['evaluation']['rerank']}{rows}_{short_hash(measured)}.json"
    path = Path(run_dir).expanduser() / "evaluations" / name
    path.parent.mkdir(exist_ok=True)
    write_json(path, report)
    return path


if __name__ == "__main__":
    sys.exit(main())
