"""`biencoder-ablate audit data=…`: duplicates, leakage, lengths and candidates of a corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from biencoder_ablate.command import add_json_option, answer, print_json

if TYPE_CHECKING:
    import numpy as np

    from biencoder_ablate.config import Config
    from biencoder_ablate.data.index import TextIndex


def main(argv: Sequence[str] | None = None) -> int:
    """Print the audit as tables, or as JSON; returns the exit code (1 with one message for what is wrong)."""
    return answer(_parser(), argv, _show)


def _show(arguments: argparse.Namespace) -> None:
    report = audit(arguments.overrides)
    if arguments.json:
        print_json(report)
        return
    from biencoder_ablate.data.audit import describe

    print(describe(report))
    print(f"\ntokens: {report['tokenizer']['note']}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biencoder-ablate audit",
        description="What to know of a corpus before training on it: pairs, duplicates inside a split, texts shared "
        "between splits, lengths, and how many candidates of each kind a point has.",
        epilog="Example: biencoder-ablate audit data=arguana data.path=arguana-counterargs-corpus.zip model=minilm",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="as for training: data=…, data.path=…, data.disjoint=true; model=… for lengths in tokens",
    )
    add_json_option(parser)
    return parser


def audit(overrides: Sequence[str]) -> dict[str, Any]:
    """The audit of the corpus that the overrides name, as `data.audit.audit_corpus` gives it, and its tokenizer.

    Raises ValueErrors that name the key or file.
    """
    from biencoder_ablate.compose import load_config
    from biencoder_ablate.data.audit import audit_corpus
    from biencoder_ablate.data.index import build_index
    from biencoder_ablate.data.readers import load_corpus
    from biencoder_ablate.evaluation.candidates import candidate_totals

    config = load_config(overrides)
    corpus = load_corpus(config.data)
    index = build_index(corpus)
    totals = {name: candidate_totals(split) for name, split in index.splits.items()}
    lengths, note = token_lengths(config, index)
    report = audit_corpus(corpus, index, totals, lengths, config.model.max_tokens)
    report["tokenizer"] = {
        "model": config.model.name_or_path or config.model.name,
        "max_tokens": config.model.max_tokens,
        "note": note,
    }
    return report


def token_lengths(config: Config, index: TextIndex) -> tuple[np.ndarray | None, str]:
    """Length in tokens of each string of the index (T,), [CLS] and [SEP] included, and how they were had.

    None, with the reason, where the model has no files here: an audit is of the data, and goes on without.
    """
    from biencoder_ablate.config import ConfigError, cache_directory
    from biencoder_ablate.data.tokens import cached_tokens
    from biencoder_ablate.model.encoder import find_model, load_tokenizer

    limit, cache = config.model.max_tokens, cache_directory(config)
    try:
        source = find_model(config.model, cache)
        tokenizer = load_tokenizer(source.directory, limit)
    except ConfigError as error:
        return None, f"none, for lack of a tokenizer ({error})"
    tokens = cached_tokens(tokenizer, source.fingerprint, index.texts, limit, cache)
    return tokens.full_lengths, f"of {source.name}, cut at {limit}"


if __name__ == "__main__":
    sys.exit(main())
