"""`biencoder-ablate retrieve RUN_DIR "an argument"`: the best counters that a trained model finds.

C candidates, H pooled width, R retrieval width.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.utils.command import add_json_option, print_json, run_command

if TYPE_CHECKING:
    from biencoder_ablate.api import SearchIndex, TrainedModel

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)*=")
_COLUMNS = {"--candidates": ("counter", "point", "text"), "--points": ("point", "text", "query")}
"""Where a table's texts are looked for: candidates in all of these, points in the first that is there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the best counters as text or JSON; returns the exit code (1 with one message for what is wrong)."""
    return run_command(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    rest, argument = list(arguments.rest), None
    if rest and arguments.points is None and not _OVERRIDE.match(rest[0]):
        argument = rest.pop(0)
    if arguments.k < 1:
        raise ValueError(f"-k {arguments.k}: must be an integer of 1 or more")
    asked_in_turn = argument is None and arguments.points is None and sys.stdin.isatty()
    points = [] if asked_in_turn else _points(argument, arguments.points)
    search = open_search(arguments.run_dir, arguments.candidates, arguments.columns, rest, quiet=arguments.json)
    if asked_in_turn:
        print(f"{len(search.index)} candidates; an empty line ends")
        while line := input("argument> ").strip():
            _print(search([line], arguments.k), arguments.json, many=True)
    else:
        _print(search(points, arguments.k), arguments.json, many=argument is None)


def _points(argument: str | None, file: str | None) -> list[str]:
    """The arguments that are asked: one, or those of a file or of standard input, a line each."""
    if argument is not None:
        if len(argument) < 256 and Path(argument).is_file():
            raise ValueError(
                f"{argument}: is a file; give --points {argument} for an argument a line, or - < {argument} to take "
                "all its text as one"
            )
        argument = (sys.stdin.read() if argument == "-" else argument).strip()
        if not argument:
            raise ValueError("the argument is empty; give a text, or - to read it from standard input")
        return [argument]
    if file not in (None, "-"):
        return [text for _, text in read_texts("--points", Path(str(file)))]
    points = [line.strip() for line in sys.stdin if line.strip()]
    if not points:
        raise ValueError("standard input is empty; must hold one argument a line")
    return points


def _print(found: Sequence[Mapping[str, Any]], as_json: bool, many: bool) -> None:
    for number, one in enumerate(found):
        if as_json and many:
            print(json.dumps(one, ensure_ascii=False, allow_nan=False), flush=True)  # a line an argument
        elif as_json:
            print_json(one)
        else:
            title = f"> {textwrap.shorten(one['argument'], 100)}\n" if many and len(found) > 1 else ""
            print(f"{chr(10) if number else ''}{title}{describe(one)}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate retrieve",
        description="The best counters to an argument, found by a trained model among the texts of its corpus, or "
        "among your own. Without an ARGUMENT: asks for one after another, or takes one from each line of standard "
        "input.",
        epilog='Example: biencoder-ablate retrieve latest "Zoos protect endangered species." -k 3',
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished run: logs/runs/NAME, its name, or latest")
    parser.add_argument(
        "rest",
        nargs="*",
        default=[],
        metavar="[ARGUMENT] KEY=VALUE",
        help="the argument to counter, - reads it from standard input; then where things are, or how to rank: "
        "data.path=…, evaluation.rerank=all, cache_dir=…",
    )
    parser.add_argument("-k", type=int, default=5, metavar="N", help="how many counters to print (default 5)")
    parser.add_argument(
        "--points",
        metavar="FILE",
        help="many arguments at once: the lines of a text file (- for standard input), or the column point of a csv, "
        "tsv or jsonl",
    )
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help="rank these instead of the run's corpus: the lines of a text file, or the columns counter, point and "
        "text of a csv, tsv or jsonl. Their embeddings are kept in RUN_DIR/index",
    )
    parser.add_argument("--columns", metavar="A,B", help="the columns of --candidates, where they are called otherwise")
    add_json_option(parser)
    return parser


@dataclass(frozen=True)
class Search:
    """A model with candidates to search: distinct texts (C,), and where each is."""

    model: TrainedModel
    index: SearchIndex
    places: Sequence[Sequence[str]]
    named: str
    """What the candidates are called in messages."""

    def __call__(self, points: Sequence[str], k: int = 5) -> list[dict[str, Any]]:
        """For each point the k best candidates, without the point itself. Raises ValueErrors that say what is wrong.

        A result has its text, where it is, its distance in retrieval space and, where stage 2 scored it, the score
        (`margin`), P(class 1) (where evaluation.score=head), and whether a ReLU has left the pair `dead`.
        """
        import math

        import numpy as np

        model, index = self.model, self.index
        answers = model.retrieve(points, index, k)
        # A score with the similarity in it is no log-odds of the head.
        is_head_alone = model.biencoder.architecture.score == "head"
        found = []
        for row, point in enumerate(points):
            results = []
            for rank, candidate in enumerate(answers.candidate[row].tolist()):
                if candidate < 0:
                    break
                score = float(answers.score[row, rank])
                scored = not math.isnan(score)
                results.append(
                    {
                        "rank": rank + 1,
                        "text": index.texts[candidate],
                        "places": self.places[candidate],
                        "distance": float(answers.distance[row, rank]),
                        "margin": score if scored else None,
                        "probability": 1 / (1 + math.exp(-max(-700.0, score))) if scored and is_head_alone else None,
                        "dead": bool(answers.dead[row, rank]) if scored else None,
                    }
                )
            if not results:
                raise ValueError(f"{self.named}: no candidate but the argument itself")
            num_tokens = model.encoder.num_tokens(*model.encoder.settings.as_points([point]))
            found.append(
                {
                    "run": model.name,
                    "argument": point,
                    "num_tokens": num_tokens,
                    "num_tokens_read": min(num_tokens, model.encoder.settings.max_tokens),
                    "num_candidates": len(index) - int(np.sum(index.equal_to(point))),
                    "rerank": model.rerank,
                    "results": results,
                }
            )
        return found


def open_search(
    run_dir: str | Path,
    candidates: str | Path | None = None,
    columns: str | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = True,
) -> Search:
    """A run's model over the distinct texts of all splits of its corpus, or of a file. Raises ValueErrors.

    Texts are equal when they are so after folding case, space and punctuation; the first spelling stands for all.
    """
    content = None if candidates is None else _read("--candidates", Path(candidates))
    from biencoder_ablate.api import open_run, use
    from biencoder_ablate.data.corpus import SPLITS
    from biencoder_ablate.utils.console import RunLog, progress_bar

    run = open_run(run_dir, overrides)
    model = use(run)
    if candidates is None or content is None:
        from biencoder_ablate.data.index import build_table
        from biencoder_ablate.data.readers import load_corpus

        corpus = load_corpus(run.config.data)
        texts = build_table(corpus)  # as training had them: their features are in the cache
        documents = ((document.id, document.text) for document in corpus.documents)
        named = (one for split in SPLITS for one in corpus.named_texts(split))
        places = distinct_texts(documents if corpus.documents else named)
        number_of = {text: number for number, text in enumerate(texts.texts)}
        h = run.pooled(texts, RunLog(None, quiet=True))[0][[number_of[text] for text in places]]
        return Search(model, model.index_of(list(places), h), list(places.values()), str(run_dir))
    read_as = f"{Path(candidates).suffix} {columns} {hashlib.sha256(content).hexdigest()}"
    kept_as = hashlib.sha256(f"index-1 {read_as} {model.fingerprint()}".encode()).hexdigest()
    path = run.path / "index" / kept_as[:16]
    kept = load_index(path, model.encoder.settings.device)
    if kept is not None:
        return Search(model, *kept, str(candidates))
    places = distinct_texts(read_texts("--candidates", Path(candidates), content, columns))
    with progress_bar("encoding", len(places), "text", quiet) as bar:
        index = model.index(list(places), bar.update)
    save_index(path, index, list(places.values()))
    return Search(model, index, list(places.values()), str(candidates))


def read_texts(
    option: str, path: Path, content: bytes | None = None, columns: str | None = None
) -> list[tuple[str, str]]:
    """(place, text) of a file's texts: its lines that are not blank, or cells of a csv, tsv or jsonl.

    Raises ValueError naming the file.
    """
    kind = path.suffix.lower()
    try:
        text = (_read(option, path) if content is None else content).decode("utf-8-sig")
        lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if kind in (".csv", ".tsv"):
            table = csv.DictReader(
                io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ",", strict=True
            )
            rows = [(table.line_num, row) for row in table]
            found = _cells(option, path, rows, table.fieldnames or (), columns)
        elif kind == ".jsonl":
            rows = [(number, json.loads(line)) for number, line in lines]
            found = _cells(option, path, rows, [name for _, row in rows for name in row.keys()], columns)  # noqa: SIM118
        else:
            found = [(f"line {number}", line) for number, line in lines]
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (csv.Error, json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{option} {path}: cannot be read as {kind[1:]} ({error})") from error
    if not found:
        raise ValueError(f"{option} {path}: no texts; must hold one argument a line, or columns of them")
    return found


def _cells(
    option: str, path: Path, rows: Sequence[tuple[int, Mapping[str, Any]]], header: Iterable[str], columns: str | None
) -> list[tuple[str, str]]:
    names = {str(name).strip().casefold(): name for name in header}
    wanted = [name.strip() for name in columns.split(",")] if columns else list(_COLUMNS[option])
    chosen = [names[name.casefold()] for name in wanted if name.casefold() in names]
    if not chosen or (columns and len(chosen) < len(wanted)):
        first = "" if path.suffix.lower() == ".jsonl" else "its first line must name the columns; "
        has = ", ".join(name if len(name) <= 40 else f"{name[:39]}…" for name in map(str, names.values())) or "none"
        hint = "name them with --columns A,B; " if option == "--candidates" else ""
        raise ValueError(
            f"{option} {path}: no column {' or '.join(wanted)}; {first}found {has}; {hint}texts without names go into "
            "a .txt file, one a line"
        )
    chosen = chosen[:1] if option == "--points" else chosen
    cells = [(f"line {line}, {name}", row.get(name)) for line, row in rows for name in chosen]
    return [(place, text.strip()) for place, text in cells if isinstance(text, str) and text.strip()]


def _read(option: str, path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot be read ({error.strerror})") from error


def save_index(path: Path, index: SearchIndex, places: Sequence[Sequence[str]]) -> None:
    """Keep an index, whole or not at all: index.json and index.safetensors. A directory that takes none gets none."""
    import contextlib

    import torch
    from safetensors.torch import save_file

    from biencoder_ablate.utils.files import whole_directory

    arrays = {"h": index.h, "centre": index.targets.centre, "extended": index.targets.extended}
    arrays = {name: value.cpu().contiguous() for name, value in arrays.items()}
    with contextlib.suppress(OSError), whole_directory(path) as partial:
        save_file(arrays | {"keys": torch.from_numpy(index.keys)}, partial / "index.safetensors")
        listed = json.dumps({"texts": list(index.texts), "places": list(places)}, ensure_ascii=False)
        (partial / "index.json").write_text(listed, "utf-8", errors="surrogatepass")


def load_index(path: Path, device: Any) -> tuple[SearchIndex, list[list[str]]] | None:
    """An index kept earlier and the places of its texts, or None where there is none that can be read."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from biencoder_ablate.api import SearchIndex
    from biencoder_ablate.evaluation.distances import Targets

    try:
        listed = json.loads((path / "index.json").read_text("utf-8", errors="surrogatepass"))
        arrays = load_file(path / "index.safetensors", device=str(device))
        targets = Targets(arrays["centre"], arrays["extended"])
        texts, places = listed["texts"], listed["places"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return SearchIndex(texts, np.arange(len(texts)), arrays["keys"].cpu().numpy(), arrays["h"], targets), places


def distinct_texts(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """From (place, text): the places of each distinct text as first spelled, in order of first appearance."""
    from biencoder_ablate.data.corpus import text_key

    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for place, text in texts:
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
            sure = "no score (the head's ReLU is at zero for this pair), "
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
