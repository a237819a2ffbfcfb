"""Tables of another program's scores with differences of one's choosing."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def scores(
    means: Mapping[str, float],
    num_seeds: int = 10,
    num_groups: int = 40,
    per_group: int = 5,
    noise: float = 0.01,
) -> dict[str, list]:
    """Columns system, seed, query, value, group: the system's mean, the ease of the query, and a little noise."""
    rng = np.random.default_rng(3)
    ease = rng.normal(0, 0.1, num_groups * per_group)
    columns: dict[str, list] = {name: [] for name in ("system", "seed", "query", "value", "group")}
    for system, mean in means.items():
        for seed in range(num_seeds):
            luck = rng.normal(0, noise)
            for query, easy in enumerate(ease):
                columns["system"].append(system)
                columns["seed"].append(seed)
                columns["query"].append(f"q{query}")
                columns["value"].append(float(0.4 + mean + 0.1 * easy + luck + rng.normal(0, noise)))
                columns["group"].append(f"g{query // per_group}")
    return columns


def write_columns(path: Path, columns: Mapping[str, Sequence]) -> Path:
    """Columns as a csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
