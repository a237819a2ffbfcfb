"""`python -m biencoder_ablate.retrieve RUN_DIR "an argument"`: the best counters that a trained model finds."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.command import add_json_option, answer, print_json

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.model.biencoder import BiEncoder
    from biencoder_ablate.runs.records import RunLog
    from biencoder_ablate.trained_run import FinishedRun


def main(argv: Sequence[str] | None = None) -> int:
    """Print the best counters as text or JSON; returns the exit code (1 with one message for what is wrong)."""
    return answer(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    argument = sys.stdin.read() if arguments.argument == "-" else arguments.argument
    found = retrieve(arguments.run_dir, argument, arguments.k, arguments.candidates, arguments.overrides)
    if arguments.json:
        print_json(found)
    else:
        print(describe(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate-retrieve",
        description="The best counters to an argument, found by a trained model among the texts of its corpus, or "
        "among your own.",
        epilog='Example: biencoder-ablate-retrieve logs/runs/NAME "Zoos protect endangered species." -k 3',
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the directory of a finished run, logs/runs/NAME")
    parser.add_argument("argument", metavar="ARGUMENT", help="the argument to counter; - reads it from standard input")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="where things are, or how to rank: data.path=…, evaluation.rerank=all, cache_dir=…",
    )
    parser.add_argument("-k", type=int, default=5, metavar="N", help="how many counters to print (default 5)")
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help="rank the lines of this text file, one argument a line, instead of the run's corpus",
    )
    add_json_option(parser)
    return parser


def retrieve(
    run_dir: str | Path, argument: str, k: int = 5, candidates: str | Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The k best counters to an argument. Raises ValueErrors that name what is wrong.

    Candidates are the distinct texts of all splits of the run's corpus, or of the lines of `candidates`, without
    the argument itself (texts are equal when they are so after folding case, space and punctuation). Stage 1 and
    the head rank them as in evaluation, to the depth of evaluation.rerank. A result has its text, where it is,
    its distance in retrieval space and, where the head scored it, logit 1 - logit 0 (`margin`), P(class 1)
    and whether it is `dead`.
    """
    argument = argument.strip()
    if not argument:
        raise ValueError("the argument is empty; give a text, or - to read it from standard input")
    if k < 1:
        raise ValueError(f"-k {k}: must be an integer of 1 or more")
    lines = None if candidates is None else read_lines(Path(candidates))
    from biencoder_ablate.data.corpus import text_key
    from biencoder_ablate.model.restore import restore_biencoder
    from biencoder_ablate.runs.records import RunLog
    from biencoder_ablate.trained_run import hidden_of_texts, open_encoder, open_run

    log = RunLog(None, quiet=True)
    run = open_run(run_dir, overrides)
    encoder = open_encoder(run, log)
    if lines is None:
        places, h = _corpus_texts(run, log)
    else:
        places = distinct_texts((line, f"line {number}") for number, line in lines)
        h = hidden_of_texts(run, [text for text, _ in places], log)
    kept = [row for row, (text, _) in enumerate(places) if text_key(text) != text_key(argument)]
    if not kept:
        raise ValueError(f"{candidates or run_dir}: no candidate but the argument itself")
    model = restore_biencoder(run.contract).to(h.device)
    ranked = rank_texts(model, encoder([argument]), h[kept], run.config.evaluation.rerank)
    results = [
        {
            "rank": rank,
            "text": places[kept[found.row]][0],
            "places": places[kept[found.row]][1],
            "distance": found.distance,
            "margin": found.margin,
            "probability": found.probability,
            "dead": found.dead,
        }
        for rank, found in enumerate(ranked[:k], start=1)
    ]
    num_tokens = encoder.num_tokens(argument)
    return {
        "run": run.path.resolve().name,
        "argument": argument,
        "num_tokens": num_tokens,
        "num_tokens_read": min(num_tokens, encoder.max_tokens),
        "num_candidates": len(kept),
        "rerank": run.config.evaluation.rerank,
        "results": results,
    }


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text) of the lines of a text file that are not blank. Raises ValueError naming the file."""
    try:
        content = path.expanduser().read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"--candidates {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--candidates {path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    lines = [(number, line.strip()) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"--candidates {path}: no lines; must hold one argument a line")
    return lines


def distinct_texts(texts: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """From (text, place): each distinct text as first spelled, with all its places, in order of first appearance."""
    from biencoder_ablate.data.corpus import text_key

    found: dict[str, tuple[str, list[str]]] = {}
    for text, place in texts:
        found.setdefault(text_key(text), (text, []))[1].append(place)
    return list(found.values())


def _corpus_texts(run: FinishedRun, log: RunLog) -> tuple[list[tuple[str, list[str]]], torch.Tensor]:
    """The distinct texts of the run's corpus with their places, and their pooled outputs h (C, H)."""
    from biencoder_ablate.data.corpus import SPLITS
    from biencoder_ablate.data.index import build_index
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.trained_run import hidden_of_corpus

    corpus = load_corpus(run.config.data)
    table = build_index(corpus)
    places = distinct_texts(
        (text, f"{pair.id}#{kind}")
        for name in SPLITS
        for pair in corpus.split(name)
        for kind, text in (("point", pair.point), ("counter", pair.counter))
    )
    rows = {text: row for row, text in enumerate(table.texts)}
    return places, hidden_of_corpus(run, table, log)[[rows[text] for text, _ in places]]


@dataclass(frozen=True)
class Found:
    """A candidate in the final list: its row, and its scores (None where the head did not score it)."""

    row: int
    distance: float
    margin: float | None
    dead: bool | None
    """Whether a ReLU has left both logits at zero: the head then says nothing."""

    @property
    def probability(self) -> float | None:
        """P(class 1), the softmax of two logits."""
        return None if self.margin is None else 1.0 / (1.0 + math.exp(-max(-700.0, self.margin)))


def rank_texts(model: BiEncoder, h_argument: torch.Tensor, h: torch.Tensor, rerank: int | str) -> list[Found]:
    """All C candidates h (C, H) in their final order for one argument (1, H), as design section 2 ranks."""
    import torch

    from biencoder_ablate.evaluation.all_pairs import all_pair_margins
    from biencoder_ablate.evaluation.distances import first_k, squared_distances
    from biencoder_ablate.evaluation.rank_all import head_arguments
    from biencoder_ablate.model.fusion import PARTS

    with torch.no_grad():
        # A single pair takes no time anywhere, and the sums in float64 are not to be had on every device.
        model, h_argument, h = model.cpu(), h_argument.cpu(), h.cpu()
        r_argument, r = model.retrieval(h_argument), model.retrieval(h)
        if not bool(r_argument.isfinite().all() and r.isfinite().all()):
            raise ValueError(
                "the model's embeddings are not all finite numbers, so nothing can be ranked by them; "
                "training has diverged, or the weights are damaged"
            )
        order, squares = (values[0] for values in first_k(squared_distances(r_argument, r), len(h)))
        depth = {"all": len(h), "none": 0}[rerank] if isinstance(rerank, str) else min(rerank, len(h))
        first = order[:depth]
        margins, dead = torch.empty(0), torch.empty(0)
        if depth:
            sides = {"h": (h_argument, h[first]), "r": (r_argument, r[first])}
            points, candidates = zip(*(sides[part] for part in PARTS[model.fusion]), strict=True)
            margins, dead = (values[0] for values in all_pair_margins(points, candidates, **head_arguments(model)))
    by_margin = torch.argsort(-margins, stable=True).tolist()
    final = [*by_margin, *range(depth, len(order))]
    distances, rows = squares.sqrt().tolist(), order.tolist()
    return [
        Found(rows[place], distances[place], float(margins[place]), bool(dead[place]))
        if place < depth
        else Found(rows[place], distances[place], None, None)
        for place in final
    ]


def describe(found: Mapping[str, Any]) -> str:
    """What was found, for a person."""
    how = {"all": "the head scored all of them", "none": "by distance alone"}.get(
        found["rerank"], f"the head re-ranked the nearest {found['rerank']}"
    )
    lines = [f"{found['num_candidates']} candidates; {how}"]
    if found["num_tokens"] > found["num_tokens_read"]:
        lines.append(
            f"note: the argument has {found['num_tokens']} tokens; the model reads the first {found['num_tokens_read']}"
        )
    for result in found["results"]:
        sure = "" if result["margin"] is None else f"P(counter) {result['probability']:.3f}, "
        if result["dead"]:
            sure = "the head's ReLU says nothing of it, "
        places = result["places"]
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        lines += [
            "",
            f"{result['rank']}. {sure}distance {result['distance']:.3f}, {places[0]}{more}",
            textwrap.fill(" ".join(result["text"].split()), width=100, initial_indent="   ", subsequent_indent="   "),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
