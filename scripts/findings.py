"""Writes docs/findings.md, and README.md's sentences of it, from templates and finished sweeps: no figure is typed.

    python scripts/findings.py LOGS              # LOGS/sweeps/{heads,ratios,…}, as the page's commands make them
    python scripts/findings.py LOGS --check      # exit 1 where a page is not what the runs say
    python scripts/findings.py LOGS --only readme

The templates are docs/findings.md.j2 and docs/findings-readme.md.j2; what README.md has of it stands between two
comments. In them `cell`, `mean`, `spread`, `num`, `pretrained`, `points` and `effect` stand for figures: a sweep by
its name, its runs by the overrides they have in common, a figure of result.json's test part by its key. `effect` is a
row of the report's own comparisons.csv. A sweep that LOGS does not have is an error: a page is written whole or not.
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

ROOT = Path(__file__).parents[1]
PAGES = {"findings": ROOT / "docs" / "findings.md", "readme": ROOT / "README.md"}
TEMPLATES = {"findings": "findings.md.j2", "readme": "findings-readme.md.j2"}
MARKED = re.compile(r"(<!-- scripts/findings.py writes this -->\n).*?(<!-- to here -->\n)", re.DOTALL)


class Sweeps:
    """The figures of the sweeps under a logs directory."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs

    @functools.cached_property
    def _reports(self) -> dict[str, list[dict[str, str]]]:
        return {}

    def results(self, sweep: str, overrides: str = "") -> list[dict[str, Any]]:
        """result.json of each finished run that has all of `overrides` (as typed, blanks between them)."""
        wanted = set(overrides.split())
        directory = self.logs / "sweeps" / sweep
        found = []
        for job in json.loads((directory / "runs.json").read_text("utf-8"))["jobs"]:
            if wanted <= set(job["overrides"]):
                path = directory / job["directory"] / "result.json"
                result = json.loads(path.read_text("utf-8")) if path.is_file() else {}
                if result.get("status") == "finished":
                    found.append(result)
        if not found:
            raise ValueError(f"{directory}: no run of {overrides}")
        return found

    def values(self, sweep: str, overrides: str, key: str) -> list[float]:
        """A figure of the test split, one a run."""
        return [result["test"][key] for result in self.results(sweep, overrides)]

    def pretrained(self, sweep: str, key: str) -> str:
        """The same of the pretrained encoder's own similarity."""
        return f"{self.results(sweep)[0]['baselines']['pretrained']['test'][key]:.3f}"

    def points(self, sweep: str, comparison: str) -> str:
        """An effect's size in points of 100, without its sign."""
        return f"{abs(100 * float(self.effect(sweep, comparison, 'estimate').replace('−', '-'))):.1f}"

    def effect(self, sweep: str, comparison: str, column: str, figure: str = "clean") -> str:
        """A cell of the report's comparisons.csv: numbers with their sign, or what stands there."""
        if sweep not in self._reports:
            with tempfile.TemporaryDirectory() as output:
                command = [
                    sys.executable,
                    "-m",
                    "biencoder_ablate.report",
                    str(self.logs / "sweeps" / sweep),
                    "-o",
                    output,
                ]
                subprocess.run(command, check=True, capture_output=True)
                with (Path(output) / "comparisons.csv").open(encoding="utf-8", newline="") as file:
                    self._reports[sweep] = list(csv.DictReader(file))
        rows = [row for row in self._reports[sweep] if row["comparison"] == comparison and row["figure"] == figure]
        if len(rows) != 1:
            raise ValueError(f"{sweep}: {len(rows)} comparisons {comparison!r}")
        value = rows[0][column]
        return f"{float(value):.3f}" if column.startswith("p") else f"{float(value):+.3f}".replace("-", "−")


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
        return len(sweeps.results(sweep, overrides))

    given: dict[str, Any] = {"mean": mean, "spread": spread, "cell": cell, "num": num}
    given |= {"effect": sweeps.effect, "pretrained": sweeps.pretrained, "points": sweeps.points}
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
    parser.add_argument("logs", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", choices=PAGES)
    given = parser.parse_args()
    sweeps, stale = Sweeps(given.logs), 0
    for name in [given.only] if given.only else PAGES:
        text = page(name, sweeps)
        if not given.check:
            PAGES[name].write_text(text, encoding="utf-8")
        elif PAGES[name].read_text("utf-8") != text:
            print(f"{PAGES[name].name} is not what the runs say: run python scripts/findings.py LOGS")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
