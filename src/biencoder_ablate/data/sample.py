"""The debates that ship with the package (CC0), one TOML file each, split by debate."""

from __future__ import annotations

import tomllib
from pathlib import Path

from biencoder_ablate.data.corpus import Corpus, Pair, build_corpus
from biencoder_ablate.data.splitting import split_debates

DEBATES_DIR = Path(__file__).parent / "sample_debates"


def load_sample(split_seed: int = 0) -> Corpus:
    """Read the sample debates; whole debates go to train, val and test."""
    debates = {file.stem: tomllib.loads(file.read_text("utf-8")) for file in sorted(DEBATES_DIR.glob("*.toml"))}
    splits = split_debates([(debate["theme"], name) for name, debate in debates.items()], split_seed)
    pairs = [
        Pair(splits[debate["theme"], name], debate["theme"], name, stance, number, entry["point"], entry["counter"])
        for name, debate in debates.items()
        for stance in ("con", "pro")
        for number, entry in enumerate(debate[stance], start=1)
    ]
    return build_corpus("sample", pairs)
