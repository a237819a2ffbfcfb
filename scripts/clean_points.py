"""Write, or check, the clean points of the published ArguAna corpus by the corpus's own ids.

python scripts/clean_points.py arguana-counterargs-corpus.zip          # writes src/…/data/arguana_clean.json
python scripts/clean_points.py arguana-counterargs-corpus.zip --check
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from biencoder_ablate.benchmark import CLEAN_POINTS, clean_points
from biencoder_ablate.config import DataConfig
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_table import build_table

FILE = Path(__file__).resolve().parents[1] / "src" / "biencoder_ablate" / "data" / CLEAN_POINTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="the corpus as published, a directory or the zip")
    parser.add_argument("--check", action="store_true", help="compare with the file, write nothing")
    arguments = parser.parse_args()
    corpus = load_corpus(DataConfig(name="arguana", path=arguments.corpus))
    splits = build_table(corpus).splits
    published = {
        "version": 1,
        "corpus": "ArguAna Counterargs",
        "fingerprint": corpus.fingerprint,
        "splits": {name: clean_points(corpus, splits[name]) for name in ("val", "test")},
    }
    text = json.dumps(published, indent=1, ensure_ascii=False) + "\n"
    if arguments.check:
        is_same = FILE.read_text("utf-8") == text
        print(f"{FILE.name}: {'the same' if is_same else 'differs'}")
        return 0 if is_same else 1
    FILE.write_text(text, "utf-8")
    for name, points in published["splits"].items():  # type: ignore[attr-defined]
        print(f"{name}: {points['num_pairs']} clean pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
