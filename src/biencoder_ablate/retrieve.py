"""`biencoder-ablate retrieve RUN_DIR "an argument"`: the best counters that a trained model finds.

C candidates, H pooled width, R retrieval width.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.data.corpus import SPLITS, text_key
from biencoder_ablate.data.tabular import SUFFIXES, cell_text, decode_text, list_columns, read_table
from biencoder_ablate.utils.cache import load_entry, seal
from biencoder_ablate.utils.command import add_json_option, print_json, run_command
from biencoder_ablate.utils.console import RunLog, fold, printable, progress_bar, show, terminal_width
from biencoder_ablate.utils.files import expand_user, read_given, refuse_link, whole_directory

if TYPE_CHECKING:
    from biencoder_ablate.api import SearchIndex, TrainedModel, TrainedRun

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)*=")
_COLUMNS = {"answers": ("counter", "text"), "all": ("counter", "point", "text")}
"""Where a table's candidates are looked for, by evaluation.candidates: in all of these."""
_POINT_COLUMNS = ("point", "text", "query")
"""Where points are looked for: in the first that is there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the best counters as text or JSON; returns the exit code (1 with one message for what is wrong)."""
    return run_command(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    overrides, argument = list(arguments.rest), None
    if overrides and arguments.points is None and not _OVERRIDE.match(overrides[0]):
        argument = overrides.pop(0)
    if arguments.k < 1:
        raise ValueError(f"-k {arguments.k}: must be an integer of 1 or more")

    # What is wrong with the points is said before a model is opened.
    is_dialogue = argument is None and arguments.points is None and sys.stdin.isatty()
    points = [] if is_dialogue else _points(argument, arguments.points)
    search = open_search(arguments.run_dir, arguments.candidates, arguments.columns, overrides, quiet=arguments.json)
    if search.note and not arguments.json:
        show(f"note: {search.note}", sys.stderr)
    if is_dialogue:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # what is typed can then be edited, and brought back with the arrows
        print(f"{len(search.index)} candidates; an empty line ends")
        with contextlib.suppress(EOFError):
            while line := input(f"{search.asks}> ").strip():
                _print(search([line], arguments.k), arguments.json, many=True)
    else:
        _print(search(points, arguments.k), arguments.json, many=argument is None)


def _points(argument: str | None, file: str | None) -> list[str]:
    """The arguments to counter: one, or those of a file or of standard input, a line each."""
    if argument is not None:
        if len(argument) < 256 and Path(argument).is_file():
            raise ValueError(
                f"{argument}: is a file; give --points {argument} for an argument a line, or - < {argument} to take "
                "all its text as one"
            )
        argument = (_standard_input() if argument == "-" else argument).strip().removeprefix("\ufeff")
        if any("\udc80" <= letter <= "\udcff" for letter in argument):
            raise ValueError("the argument is not UTF-8; must be UTF-8 text")
        if not argument:
            raise ValueError("the argument is empty; give a text, or - to read it from standard input")
        return [argument]
    if file not in (None, "-"):
        path = Path(str(file))
        return [text for _, text in read_texts("--points", path, _read("--points", path), _POINT_COLUMNS)]
    points = [line.strip() for line in _standard_input().split("\n") if line.strip()]
    if not points:
        raise ValueError("standard input is empty; must hold one argument a line")
    return points


def _standard_input() -> str:
    """All that standard input holds. Raises DataError where it is not UTF-8."""
    binary = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if binary is None else decode_text("standard input", binary.read())


def _print(answers: Sequence[Mapping[str, Any]], as_json: bool, many: bool) -> None:
    for number, answer in enumerate(answers):
        if as_json and many:
            print(json.dumps(answer, ensure_ascii=False, allow_nan=False), flush=True)  # a line an argument
        elif as_json:
            print_json(answer)
        else:
            if number:
                print()
            if many and len(answers) > 1:
                print(f"> {printable(textwrap.shorten(answer['argument'], (terminal_width() or 102) - 2))}")
            print(describe(answer, terminal_width()), flush=True)


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
        help="rank these instead of the run's corpus: the lines of a text file, or the columns counter, text and, "
        "where the run ranks points too, point of a csv, tsv or jsonl. Their embeddings are kept in RUN_DIR/index",
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
    asks: str = "query"
    """What a text that asks is called where one is asked for."""
    note: str = ""
    """What is wrong with the model, if anything."""

    def __call__(self, points: Sequence[str], k: int = 5) -> list[dict[str, Any]]:
        """For each point the k best candidates, without the point itself. Raises ValueErrors that say what is wrong.

        A result has its text, where it is, its distance in retrieval space and, where stage 2 scored it, the score
        (`margin`), P(class 1) (where evaluation.score=head), and whether a ReLU has left the pair `dead`.
        """
        settings = self.model.encoder.settings
        answers = self.model.retrieve(points, self.index, k)
        listed = []
        for row, point in enumerate(points):
            # Where there are fewer than k candidates, the numbers that are missing are -1.
            candidates = [number for number in answers.candidate[row].tolist() if number >= 0]
            if not candidates:
                raise ValueError(f"{self.named}: no candidate but the argument itself")
            results = []
            for place, candidate in enumerate(candidates):
                result = {
                    "rank": place + 1,
                    "text": self.index.texts[candidate],
                    "places": self.places[candidate],
                    "distance": float(answers.distance[row, place]),
                }
                results.append(result | self._score(float(answers.score[row, place]), bool(answers.dead[row, place])))
            num_tokens = self.model.encoder.num_tokens(*settings.as_points([point]))
            listed.append(
                {
                    "run": self.model.name,
                    "argument": point,
                    "num_tokens": num_tokens,
                    "num_tokens_read": min(num_tokens, settings.max_tokens),
                    "num_candidates": len(self.index) - int(self.index.equal_to(point).sum()),
                    "rerank": self.model.rerank,
                    "results": results,
                }
            )
        return listed

    def _score(self, margin: float, dead: bool) -> dict[str, Any]:
        """What stage 2 says of a candidate; None of one that it did not score, whose margin is NaN."""
        if math.isnan(margin):
            return {"margin": None, "probability": None, "dead": None}
        probability = None
        if self.model.biencoder.architecture.score == "head":
            # A score with the similarity in it is no log-odds. Below -700 exp(-margin) is no float.
            probability = 1 / (1 + math.exp(-max(-700.0, margin)))
        return {"margin": margin, "probability": probability, "dead": dead}


def open_search(
    run_dir: str | Path,
    candidates: str | Path | None = None,
    columns: str | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = True,
) -> Search:
    """A run's model over the distinct texts of all splits of its corpus, or of a file. Raises ValueErrors.

    Of its corpus only what the run ranks (evaluation.candidates): answers, or answers and points.
    Texts are equal when they are so after folding case, space and punctuation; the first spelling stands for all.
    """
    if candidates is None:
        return _search_corpus(run_dir, overrides)
    path = Path(candidates)
    content = _read("--candidates", path)
    from biencoder_ablate.api import open_run

    run = open_run(run_dir, overrides)
    model = run.load_model()

    # Named by all that determines it: how the file is read, what it holds, and the model.
    among = run.config.evaluation.candidates or run.trained.evaluation.candidates
    wanted = [name.strip() for name in columns.split(",")] if columns else _COLUMNS[str(among)]
    source = f"{path.suffix} {wanted} {hashlib.sha256(content).hexdigest()}"
    name = hashlib.sha256(f"index-2 {source} {model.fingerprint()}".encode()).hexdigest()[:16]
    kept = load_index(run.path / "index" / name, model.encoder.settings.device)
    if kept is not None:
        return Search(model, *kept, str(candidates), _asks(run), run.warning)
    places = distinct_texts(read_texts("--candidates", path, content, wanted, must_have_all=columns is not None))
    with progress_bar("encoding", len(places), "text", quiet) as bar:
        index = model.index(list(places), bar.update)
    save_index(run.path / "index" / name, index, list(places.values()))
    return Search(model, index, list(places.values()), str(candidates), _asks(run), run.warning)


def _asks(run: TrainedRun) -> str:
    return "argument" if run.config.data.name in ("arguana", "sample") else "query"


def _search_corpus(run_dir: str | Path, overrides: Sequence[str]) -> Search:
    """A run's model over its own corpus, whose texts have their features in the cache."""
    from biencoder_ablate.api import open_run
    from biencoder_ablate.data.candidate_choice import resolve_candidates
    from biencoder_ablate.data.text_table import build_table

    run = open_run(run_dir, overrides)
    model = run.load_model()
    corpus, notes = run.corpus()
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    among = resolve_candidates(run.config, corpus).evaluation.candidates
    if corpus.documents:
        places = distinct_texts((document.id, document.text) for document in corpus.documents)
    else:
        named = itertools.chain.from_iterable(corpus.named_texts(split) for split in SPLITS)
        wanted = ("#counter",) if among == "answers" else ("#counter", "#point")
        places = distinct_texts((place, text) for place, text in named if place.endswith(wanted))

    # The table is that of training, so that its features are found again; of its texts the distinct ones count.
    table = build_table(corpus)
    number_of = {text: number for number, text in enumerate(table.texts)}
    h = run.pooled(table, RunLog(None, quiet=True))[0][[number_of[text] for text in places]]  # (C, H)
    index = model.index_of(list(places), h)
    return Search(model, index, list(places.values()), str(run_dir), _asks(run), run.warning)


def read_texts(
    option: str,
    path: Path,
    content: bytes,
    columns: Sequence[str],
    must_have_all: bool = False,
) -> list[tuple[str, str]]:
    """(place, text) of a file's texts: its lines that are not blank, or cells of these columns of a csv, tsv or jsonl.

    Raises ValueError naming the file where no column is there, or not all that must be.
    """
    where, suffix = f"{option} {path}", path.suffix.lower()
    texts = []
    if suffix in SUFFIXES:
        table = read_table(where, suffix, content)
        chosen = [name.casefold() for name in columns if name.casefold() in table.columns]
        if not chosen or (must_have_all and len(chosen) < len(columns)):
            header = "" if suffix == ".jsonl" else "its first line must name the columns; "
            hint = "name them with --columns A,B; " if option == "--candidates" else ""
            raise ValueError(
                f"{where}: no column {' or '.join(columns)}; {header}found {list_columns([*table.columns.values()])}; "
                f"{hint}texts without names go into a .txt file, one a line"
            )
        if option == "--points":
            del chosen[1:]
        for line, row in table.rows:
            for column in chosen:
                name = table.columns[column]
                texts.append((f"line {line}, {name}", cell_text(f"{where}, line {line}", name, row.get(column))))
        for note in table.notes:
            print(f"note: {note}", file=sys.stderr)
    else:
        lines = decode_text(where, content).split("\n")
        texts = [(f"line {number}", line.strip()) for number, line in enumerate(lines, start=1)]
    texts = [(place, text) for place, text in texts if text]
    if not texts:
        raise ValueError(f"{where}: no texts; must hold one argument a line, or columns of them")
    return texts


def _read(option: str, path: Path) -> bytes:
    try:
        return read_given(expand_user(path))
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot be read ({error.strerror})") from error


def save_index(path: Path, index: SearchIndex, places: Sequence[Sequence[str]]) -> None:
    """Keep an index, whole or not at all: index.json and index.safetensors. A directory that takes none gets none."""
    import torch
    from safetensors.torch import save_file

    arrays = {"h": index.h, "centre": index.targets.centre, "extended": index.targets.extended}
    arrays = {name: value.cpu().contiguous() for name, value in arrays.items()}
    arrays["keys"] = torch.from_numpy(index.keys)
    refuse_link(path.parent)
    listed = json.dumps({"texts": list(index.texts), "places": list(places)}, ensure_ascii=False)
    with contextlib.suppress(OSError):
        with whole_directory(path) as partial:
            save_file(arrays, partial / "index.safetensors")
            (partial / "index.json").write_text(listed, "utf-8", errors="surrogatepass")
        seal(path)


def load_index(path: Path, device: Any) -> tuple[SearchIndex, list[list[str]]] | None:
    """An index kept earlier and the places of its texts; None where there is none that is as it was written."""
    import numpy as np
    from safetensors.torch import load_file

    from biencoder_ablate.api import SearchIndex
    from biencoder_ablate.evaluation.distances import Targets

    def read(entry: Path) -> tuple[SearchIndex, list[list[str]]]:
        listed = json.loads((entry / "index.json").read_text("utf-8", errors="surrogatepass"))
        arrays = load_file(entry / "index.safetensors", device=str(device))
        targets = Targets(arrays["centre"], arrays["extended"])
        texts, keys = listed["texts"], arrays["keys"].cpu().numpy()
        return SearchIndex(texts, np.arange(len(texts)), keys, arrays["h"], targets), listed["places"]

    return load_entry(path, read)


def distinct_texts(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """From (place, text): the places of each distinct text as first spelled, in order of first appearance."""
    places: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}  # of each text key, the first
    for place, text in texts:
        first = spelling.setdefault(text_key(text), text)
        places.setdefault(first, []).append(place)
    return places


def describe(answer: Mapping[str, Any], width: int | None = None) -> str:
    """An answer of `Search` for a person, without the control characters that a text may hold; no wider than `width`,
    or than 100 columns."""
    wide = min(width or 100, 100)
    rerank = answer["rerank"]
    stages = {"all": "the head scored all of them", "none": "by distance alone"}
    lines = [f"{answer['num_candidates']} candidates; {stages.get(rerank, f'the head re-ranked the nearest {rerank}')}"]
    num_tokens, num_read = answer["num_tokens"], answer["num_tokens_read"]
    if num_tokens > num_read:
        note = f"note: the argument has {num_tokens} tokens; the model reads the first {num_read}"
        lines.append(fold(note, width))
    scored = [result["dead"] for result in answer["results"] if result["dead"] is not None]
    if scored and all(scored):
        lines.append(fold("note: the head says nothing of any of these; by distance alone", width))
    for result in answer["results"]:
        score = ""
        if result["dead"]:
            score = "no score (the head's ReLU is at zero for this pair), "
        elif result["probability"] is not None:
            score = f"P(counter) {result['probability']:.3f}, "
        elif result["margin"] is not None:
            score = f"score {result['margin']:.2f}, "
        first, *others = result["places"]
        more = f" and {len(others)} more" if others else ""
        text = printable(" ".join(result["text"].split()))
        lines += [
            "",
            fold(f"{result['rank']}. {score}distance {result['distance']:.3f}, {printable(first)}{more}", width),
            textwrap.fill(text, width=wide, initial_indent="   ", subsequent_indent="   "),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
