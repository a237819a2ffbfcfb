"""`python -m biencoder_ablate.retrieve RUN_DIR "an argument"`: the best counters that a trained model finds."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.command import add_json_option, answer, print_json

if TYPE_CHECKING:
    import torch

    from biencoder_ablate.evaluation.ranking import Lists
    from biencoder_ablate.model.biencoder import BiEncoder


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
    the argument itself (texts are equal when they are so after folding case, space and punctuation). They are ranked
    as in evaluation, to the depth of evaluation.rerank. A result has its text, where it is, its distance in
    retrieval space and, where stage 2 scored it, the score (`margin`), P(class 1) (where
    evaluation.score=head), and whether a ReLU has left the pair `dead`.
    """
    argument = argument.strip()
    if not argument:
        raise ValueError("the argument is empty; give a text, or - to read it from standard input")
    if k < 1:
        raise ValueError(f"-k {k}: must be an integer of 1 or more")
    lines = None if candidates is None else read_lines(Path(candidates))
    from biencoder_ablate.data.corpus import SPLITS, text_key
    from biencoder_ablate.data.index import build_index
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.runs.records import RunLog
    from biencoder_ablate.trained_run import open_run

    run = open_run(run_dir, overrides)
    encoder = run.encoder()
    if lines is None:
        corpus = load_corpus(run.config.data)
        strings: Sequence[str] = build_index(corpus).texts  # as training had them: their features are in the cache
        documents = ((document.text, document.id) for document in corpus.documents)
        named = ((text, name) for split in SPLITS for name, text in corpus.named_texts(split))
        places = distinct_texts(documents if corpus.documents else named)
    else:
        places = distinct_texts((line, f"line {number}") for number, line in lines)
        strings = list(places)
    number_of = {text: number for number, text in enumerate(strings)}
    texts = [text for text in places if text_key(text) != text_key(argument)]
    if not texts:
        raise ValueError(f"{candidates or run_dir}: no candidate but the argument itself")
    h = run.features(strings, RunLog(None, quiet=True))[[number_of[text] for text in texts]]
    rerank, fast = run.config.evaluation.rerank, run.config.training.fast
    model = run.biencoder()
    ranked = rank_texts(model, encoder([argument]), h, rerank, fast)
    is_head_alone = model.architecture.score == "head"  # a score with the similarity in it is no log-odds of the head
    results = []
    for rank, row in enumerate(ranked.order[0, :k].tolist()):
        score = float(ranked.score[0, rank])
        scored = score > -math.inf
        results.append(
            {
                "rank": rank + 1,
                "text": texts[row],
                "places": places[texts[row]],
                "distance": math.sqrt(ranked.distance[0, rank]),
                "margin": score if scored else None,
                "probability": 1.0 / (1.0 + math.exp(-max(-700.0, score))) if scored and is_head_alone else None,
                "dead": bool(ranked.dead[0, rank]) if scored else None,
            }
        )
    num_tokens = encoder.num_tokens(argument)
    return {
        "run": run.path.resolve().name,
        "argument": argument,
        "num_tokens": num_tokens,
        "num_tokens_read": min(num_tokens, encoder.reading.max_tokens),
        "num_candidates": len(texts),
        "rerank": rerank,
        "results": results,
    }


def rank_texts(
    model: BiEncoder, h_argument: torch.Tensor, h: torch.Tensor, rerank: int | str, fast: bool = True
) -> Lists:
    """All C candidates h (C, H) in their final order for one argument h (1, H), ranked as evaluation does: (1, C).

    Raises ValueError when distances or scores are not finite.
    """
    import numpy as np
    import torch

    from biencoder_ablate.evaluation.candidates import CandidateSet, as_candidates
    from biencoder_ablate.evaluation.pair_scores import pair_scorer
    from biencoder_ablate.evaluation.ranking import rerank as rerank_lists
    from biencoder_ablate.evaluation.ranking import stage1

    with torch.no_grad():
        embeddings = model.embed(torch.cat([h_argument, h]))
    nothing, argument = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    candidates = as_candidates(np.arange(1, len(h) + 1))
    (found,) = stage1(embeddings, argument, candidates, [CandidateSet(argument, (nothing, nothing))], len(h))
    depth = {"all": len(h), "none": 0}[rerank] if isinstance(rerank, str) else rerank
    return rerank_lists(found, depth, argument, candidates, pair_scorer(model, embeddings, fast))


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


def distinct_texts(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """From (text, place): the places of each distinct text as first spelled, in order of first appearance."""
    from biencoder_ablate.data.corpus import text_key

    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for text, place in texts:
        found.setdefault(spelled.setdefault(text_key(text), text), []).append(place)
    return found


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
        sure = "" if result["margin"] is None else f"score {result['margin']:.2f}, "
        if result["probability"] is not None:
            sure = f"P(counter) {result['probability']:.3f}, "
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
