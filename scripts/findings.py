"""Writes docs/findings.md, and README.md's sentences of it, from templates and finished sweeps: no number is typed.

    python scripts/findings.py                   # from what is kept of sweeps in docs/findings/
    python scripts/findings.py LOGS              # LOGS/sweeps/{heads,ratios,…}, as the page's commands make them, first
    python scripts/findings.py --check           # exit 1 if a page is not what the runs say

What is read from LOGS is kept in docs/findings/NAME.json: each run's overrides, without paths on the machine, its test
metrics, and the rows of the report's comparisons.csv. So the pages outlive the runs and can be checked without them.
LOGS/NAME.csv, a table as `report --from` reads it, is kept likewise; its runs have system=… and seed=… for overrides
and a mean `value`.

The templates are docs/findings.md.j2 and docs/findings-readme.md.j2; the latter's part of README.md stands between two
comments. In them `cell`, `mean`, `spread`, `num`, `rise`, `chosen`, `pretrained` and `size` stand for numbers: they
take a sweep's name, the overrides that its runs have in common, and the key of a metric in the test part of
result.json (`chosen`: the key of an override). `effect` is a cell of comparisons.csv. A sweep that is neither kept nor
in LOGS is an error: a page is written whole or not at all.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from biencoder_ablate.utils.files import write_text

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "findings"
PLACES = ("data.path=", "cache_dir=", "logs_dir=", "model.name_or_path=", "model.finetuned=")
PAGES = {"findings": ROOT / "docs" / "findings.md", "readme": ROOT / "README.md"}
TEMPLATES = {"findings": "findings.md.j2", "readme": "findings-readme.md.j2"}
MARKED = re.compile(r"(<!-- scripts/findings.py writes this -->\n).*?(<!-- to here -->\n)", re.DOTALL)


class Sweeps:
    """What finished sweeps said: those under `logs`, where it is given and has them, and else those that are kept."""

    def __init__(self, logs: Path | None, kept: Path = KEPT) -> None:
        self.logs, self.kept = logs, kept
        self._said = functools.cache(self._read)

    def _read(self, sweep: str) -> dict[str, Any]:
        path = self.kept / f"{sweep}.json"
        said = digest(self.logs, sweep) if self.logs else None
        if said is not None:
            write_text(path, _lines(said))
        elif not path.is_file():
            raise ValueError(f"the sweep {sweep}: neither in LOGS nor kept as {path}")
        return json.loads(path.read_text("utf-8"))

    def runs(self, sweep: str, overrides: str = "") -> list[dict[str, Any]]:
        """The runs that have all of `overrides` (as typed, blanks between them)."""
        wanted = set(overrides.split())
        found = [run for run in self._said(sweep)["runs"] if wanted <= set(run["overrides"])]
        if not found:
            raise ValueError(f"the sweep {sweep}: no run of {overrides}")
        return found

    def values(self, sweep: str, overrides: str, key: str) -> list[float]:
        """A figure of the test split, one a run."""
        return [run["test"][key] for run in self.runs(sweep, overrides)]

    def pretrained(self, sweep: str, key: str) -> str:
        """The same of the pretrained encoder's own similarity."""
        return f"{self._said(sweep)['pretrained'][key]:.3f}"

    def size(self, sweep: str, comparison: str) -> str:
        """An effect's estimate without its sign."""
        return self.effect(sweep, comparison, "estimate").lstrip("+−")

    def effect(self, sweep: str, comparison: str, column: str, figure: str = "clean") -> str:
        """A cell of the report's comparisons.csv: numbers with their sign, or what stands there."""
        rows = [
            row
            for row in self._said(sweep)["comparisons"]
            if row["comparison"] == comparison and row["figure"] == figure
        ]
        if len(rows) != 1:
            raise ValueError(f"{sweep}: {len(rows)} comparisons {comparison!r}")
        value = rows[0][column]
        return f"{float(value):.3f}" if column.startswith("p") else f"{float(value):+.3f}".replace("-", "−")


def digest(logs: Path, name: str) -> dict[str, Any] | None:
    """What a sweep or a table of that name says, in short; None where there is neither. Raises ValueError where a run
    of the sweep has not finished."""
    directory, table = logs / "sweeps" / name, logs / f"{name}.csv"
    if (directory / "runs.json").is_file():
        return {**_of_sweep(directory), "comparisons": _comparisons([str(directory)])}
    if table.is_file():
        return {**_of_table(table), "comparisons": _comparisons(["--from", str(table)])}
    return None


def _of_sweep(directory: Path) -> dict[str, Any]:
    runs, pretrained = [], {}
    for job in json.loads((directory / "runs.json").read_text("utf-8"))["jobs"]:
        path = directory / job["directory"] / "result.json"
        result = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        if result.get("status") != "finished":
            raise ValueError(f"{path}: that run has not finished")
        overrides = [override for override in job["overrides"] if not override.startswith(PLACES)]
        runs.append({"overrides": overrides, "epoch": result["best_epoch"], "test": _figures(result["test"])})
        pretrained = _figures(result["baselines"]["pretrained"]["test"])
    return {"runs": runs, "pretrained": pretrained}


def _of_table(table: Path) -> dict[str, Any]:
    values: dict[tuple[str, str], list[float]] = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values.setdefault((row["system"], row["seed"]), []).append(float(row["value"]))
    return {
        "runs": [
            {"overrides": [f"system={system}", f"seed={seed}"], "test": {"value": statistics.mean(of)}}
            for (system, seed), of in values.items()
        ],
        "pretrained": {},
    }


def _comparisons(given: list[str]) -> list[dict[str, str]]:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "biencoder_ablate.report", *given, "-o", output]
        subprocess.run(command, check=True, capture_output=True)
        with (Path(output) / "comparisons.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def _figures(of: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in of.items() if isinstance(value, (int, float))}


def _lines(said: dict[str, Any]) -> str:
    """JSON with a run or a comparison a line, so that a change of one is a change of one line."""
    parts = [f'"pretrained": {json.dumps(said["pretrained"])}']
    for name in ("runs", "comparisons"):
        lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in said[name])
        parts.append(f'"{name}": [\n{lines}\n ]')
    return "{" + ",\n ".join(parts) + "}\n"


def render(template: str, sweeps: Sweeps) -> str:
    """What a template comes to."""

    def mean(*arguments: str) -> str:
        return f"{statistics.mean(sweeps.values(*arguments)):.3f}"

    def spread(*arguments: str) -> str:
        values: Sequence[float] = sweeps.values(*arguments)
        return f"{statistics.stdev(values):.3f}" if len(values) > 1 else "–"

    def cell(*arguments: str) -> str:
        return f"{mean(*arguments)} ± {spread(*arguments)}"

    def num(sweep: str, overrides: str) -> int:
        return len(sweeps.runs(sweep, overrides))

    def chosen(sweep: str, overrides: str, key: str) -> str:
        """The value of a key that all of these runs were given."""
        given = {item.partition("=")[2] for run in sweeps.runs(sweep, overrides) for item in run["overrides"]
                 if item.startswith(f"{key}=")}  # fmt: skip
        (value,) = given
        return value

    def rise(before: str, after: str, key: str) -> str:
        """The least and the most by which a head's mean is higher in one sweep than in another."""
        heads = dict.fromkeys(o for run in sweeps.runs(after) for o in run["overrides"] if o.startswith("head="))
        gains = [float(mean(after, head, key)) - float(mean(before, head, key)) for head in heads]
        return " to ".join(dict.fromkeys(f"{gain:.2f}" for gain in (min(gains), max(gains))))

    given: dict[str, Any] = {"rise": rise, "mean": mean, "spread": spread, "cell": cell, "num": num, "chosen": chosen}
    given |= {"effect": sweeps.effect, "pretrained": sweeps.pretrained, "size": sweeps.size}
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    return environment.from_string((ROOT / "docs" / template).read_text("utf-8")).render(**given)


def page(name: str, sweeps: Sweeps) -> str:
    """A whole page as it should be."""
    text = render(TEMPLATES[name], sweeps)
    if name == "findings":
        return text
    whole, count = MARKED.subn(lambda found: f"{found[1]}{text}{found[2]}", PAGES[name].read_text("utf-8"))
    assert count == 1, f"{PAGES[name]}: no place for it"
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="?", metavar="LOGS")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", choices=PAGES)
    given = parser.parse_args()
    sweeps, stale = Sweeps(given.logs), 0
    for name in [given.only] if given.only else PAGES:
        text = page(name, sweeps)
        if not given.check:
            PAGES[name].write_text(text, encoding="utf-8")
        elif PAGES[name].read_text("utf-8") != text:
            print(f"{PAGES[name].name} is not what the runs say: run python scripts/findings.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
