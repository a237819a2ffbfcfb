"""Prints how fast the program is beside the direct way and sentence-transformers, and how its cost grows.

    python benchmarks/run.py --data arguana-counterargs-corpus.zip         the table of docs/performance.md
    python benchmarks/run.py --data … --quick                              a rough one in a minute or two
    python benchmarks/run.py --data … --only training sweep                some of its parts

Needs the extras minilm, joblib and benchmarks. Without --data it runs on the package's sample, which only shows that
it runs. Times are of this machine; ratios are medians over turns taken one after the other in one run.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import direct_way
import growth
import numpy as np
import our_way
import sentence_transformers_way
import torch
import whole_runs
from alternate import Way, alternate, median_ratio, quiet_libraries
from setting import Setting

Row = tuple[str, str, str, str]
"""What, measured, beside what, target."""
PARTS = ("training", "contrastive", "encoding", "alone", "ranking", "sweep", "start", "growth")


def main() -> int:
    arguments = _parse()
    chosen = arguments.only or PARTS
    quiet_libraries()
    print(_machine(), flush=True)
    print("\n| what | measured | times | target |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        cache = arguments.cache_dir or f"{directory}/cache"
        setting = Setting(arguments.data, cache_dir=cache)
        for part, rows in _parts(setting, Path(directory), arguments.quick).items():
            if part in chosen:
                for row in rows():
                    print("| " + " | ".join(row) + " |", flush=True)
        if "growth" in chosen:
            print()
            for line in growth.lines(setting, 2 if arguments.quick else 6):
                print(line, flush=True)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the ArguAna Counterargs corpus, its zip or its directory")
    parser.add_argument("--cache-dir", help="where tokens and features are kept (default: nowhere)")
    parser.add_argument("--quick", action="store_true", help="few turns, no sweep")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts of the table (default: all)")
    return parser.parse_args()


def _machine() -> str:
    from importlib.metadata import version

    names = ["torch", "transformers", *(["sentence-transformers"] if sentence_transformers_way.is_installed() else [])]
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{_processor()}, {torch.get_num_threads()} threads, {versions}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _parts(setting: Setting, directory: Path, quick: bool) -> dict[str, Callable[[], Iterator[Row]]]:
    whole = replace(setting, max_tokens=256, batch_size=32)
    return {
        "training": lambda: _training(setting, 4 if quick else 13),
        "contrastive": lambda: _contrastive(setting, 3 if quick else 6),
        "alone": lambda: _parts_alone(setting, 3 if quick else 9),
        "encoding": lambda: _encoding(replace(setting, max_tokens=256), *((3, 32) if quick else (8, 192))),
        "ranking": lambda: _ranking(setting, 3 if quick else 7),
        "sweep": lambda: iter(()) if quick else whole_runs.sweep(whole, directory),
        "start": lambda: whole_runs.second_start(whole, directory),
    }


def _training(setting: Setting, num_turns: int) -> Iterator[Row]:
    """Training steps on the same triples, at 512 and at 128 tokens."""
    targets = {512: ("≥ 3.5", "≥ 2", "≥ 3.5"), 128: ("≥ 2.2", "≥ 1.4", "≥ 2")}
    for max_tokens, wanted in targets.items():
        given = replace(setting, max_tokens=max_tokens)
        half = replace(given, precision="bf16")
        library = sentence_transformers_way.training
        ways = [
            Way("ours in bf16", our_way.training, (half, num_turns)),
            Way("direct way in fp32", direct_way.training, (given, num_turns)),
            *_if_installed(
                Way("sentence-transformers in bf16", library, (half, num_turns)),
                Way("sentence-transformers in fp32", library, (given, num_turns)),
            ),
            Way("ours in fp32", our_way.training, (given, num_turns)),
        ]
        seconds = alternate(ways, range(num_turns), num_warm=1)
        yield from _beside(f"training step, {max_tokens} tokens, batch 8", seconds, (*wanted, "none"))


def _contrastive(setting: Setting, num_turns: int) -> Iterator[Row]:
    """Steps of the in-batch softmax over 128 pairs with gradient caching, in bf16, and peak memory."""
    given = replace(setting, precision="bf16", max_tokens=128, batch_size=128)
    ways = [
        Way("ours", functools.partial(our_way.training, contrastive=True, micro_batch="auto"), (given, num_turns)),
        *_if_installed(
            Way(
                "sentence-transformers, 32 at a time",
                functools.partial(sentence_transformers_way.training, cached=32),
                (given, num_turns),
            )
        ),
    ]
    seconds = alternate(ways, [*range(num_turns), None], num_warm=1)
    memory = {name: of.pop() for name, of in seconds.items()}
    yield from _beside("contrastive step, 128 tokens, batch 128, bf16, gradient caching", seconds, ("≥ 1.5",))
    yield "the same, peak memory", "; ".join(f"{name} {peak:.2f} GB" for name, peak in memory.items()), "", "ours lower"


def _parts_alone(setting: Setting, num_turns: int) -> Iterator[Row]:
    """A training step with everything, and without one thing that makes it fast."""
    for precision in ("bf16", "fp32"):
        for max_tokens in (512, 128):
            given = replace(setting, precision=precision, max_tokens=max_tokens)
            ways = [Way("whole", our_way.training, (given, num_turns))]
            for part in our_way.WITHOUT:
                ways.append(
                    Way(f"without {part}", functools.partial(our_way.training, without=part), (given, num_turns))
                )
            seconds = alternate(ways, range(num_turns), num_warm=1)
            # Packing goes without two threads, so that is what it is held against.
            alone = {name: seconds[name] for name in ("without two threads", "without packing")}
            whole = {name: of for name, of in seconds.items() if name != "without packing"}
            what = f"training step, {max_tokens} tokens, batch 8, {precision}"
            yield from _beside(what, whole, ("≥ 1.1", "≥ 1.1"))
            yield from _beside(f"{what}, packed and on one thread at a time", alone, ("none",))


def _encoding(setting: Setting, num_turns: int, num_texts: int) -> Iterator[Row]:
    """Encoding texts drawn from the corpus, tokenising included."""
    texts, random = setting.table().texts, np.random.default_rng(0)
    turns = [[texts[row] for row in random.choice(len(texts), num_texts)] for _ in range(num_turns)]
    half = replace(setting, precision="bf16")
    ways = [
        Way("ours in bf16", our_way.encoding, (half,)),
        *_if_installed(
            Way("sentence-transformers in bf16", sentence_transformers_way.encoding, (half,)),
            Way("sentence-transformers in fp32", sentence_transformers_way.encoding, (setting,)),
        ),
        Way("ours in fp32", our_way.encoding, (setting,)),
    ]
    yield from _beside(f"encoding {num_texts} texts, 256 tokens", alternate(ways, turns), ("≥ 1.4", "≥ 2.3", "none"))


def _if_installed(*ways: Way) -> tuple[Way, ...]:
    return ways if sentence_transformers_way.is_installed() else ()


def _ranking(setting: Setting, num_turns: int) -> Iterator[Row]:
    """Mining and ranking all splits from given embeddings, beside the direct way and our own plain path."""
    ways = [
        Way("ours", our_way.ranking, (setting,)),
        Way("direct way (from 2 points)", direct_way.ranking, (setting, 2)),
        Way("plain path", our_way.ranking, (setting, False)),
    ]
    yield from _beside("mining and ranking all splits", alternate(ways, range(num_turns)), ("≥ 200", "none"))


def _beside(what: str, seconds: dict[str, list[float]], targets: tuple[str, ...]) -> Iterator[Row]:
    ours, *others = seconds.items()
    for (name, theirs), target in zip(others, targets, strict=False):
        ratio, low, high = median_ratio(theirs, ours[1])
        measured = f"{statistics.median(ours[1]):.3g} s; {name} {statistics.median(theirs):.3g} s"
        yield what, measured, f"{ratio:.3g} ({low:.3g} to {high:.3g})", f"{target}"


if __name__ == "__main__":
    sys.exit(main())
