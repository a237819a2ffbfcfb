"""Prints how long an answer over many candidates takes once their index is kept beside the model, imports apart.

python benchmarks/kept_index.py [NUM]: NUM (100,000) made-up texts of 8 to 20 of the sample's words, encoded once by
model=tiny. Each measurement is a process of its own, so that nothing is warm but the disk's cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.readers import read_sample
from biencoder_ablate.utils.seeding import generator

MEASURE = """
import time, sys, transformers, biencoder_ablate.api, biencoder_ablate.retrieve as command
from transformers import AutoTokenizer, BertModel
import biencoder_ablate.api
started = time.perf_counter()
search = command.open_search("latest", sys.argv[1])
opened = time.perf_counter()
for point in ("Zoos protect animals.", "Cars give people freedom."):
    search([point], 5)
    print(f"{time.perf_counter() - opened:.2f} s to answer", end=", ")
    opened = time.perf_counter()
print(f"{opened - started:.2f} s for all with opening the model and the index")
"""


def main() -> None:
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    words = sorted({word for pair in read_sample(DataConfig()).train for word in pair.point.split()})
    draws = generator(0, "benchmark")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "candidates.txt"
        texts = (" ".join(draws.choice(words, draws.integers(8, 21))) for _ in range(num))
        file.write_text("".join(f"{text} {number}.\n" for number, text in enumerate(texts)), "utf-8")
        train = ["-m", "biencoder_ablate", "model=tiny", "training.epochs=1"]
        encode = ["-m", "biencoder_ablate", "retrieve", "latest", "x", "--candidates", str(file)]
        for arguments in (train, encode):
            subprocess.run([sys.executable, *arguments], cwd=place, check=True, stdout=subprocess.DEVNULL)
        for _ in range(3):
            subprocess.run([sys.executable, "-c", MEASURE, str(file)], cwd=place, check=True)


if __name__ == "__main__":
    main()
