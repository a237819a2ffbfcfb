"""Studies and comparisons as data frames, for notebooks: `biencoder_ablate.study` and `biencoder_ablate.compare`."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.runs.directory import find_run

if TYPE_CHECKING:
    import pandas

    from biencoder_ablate.report.decision import Judged
    from biencoder_ablate.report.ledger import Ledger
    from biencoder_ablate.report.read import Collection

NEEDED = {"pandas": "pandas", "scipy": "report", "matplotlib": "report", "jinja2": "report"}
"""Package → the extra that brings it."""


@dataclass(frozen=True, eq=False)
class Results:
    """What a report says of runs, as data frames. A notebook shows the verdicts and the differences with intervals."""

    collection: Collection
    judged: Sequence[Judged]
    ledger: Ledger

    @cached_property
    def table(self) -> pandas.DataFrame:
        """A row a configuration: its levels, seeds, mean, standard deviation and interval, as in table.csv."""
        from biencoder_ablate.report.write import groups_csv

        return _frame(groups_csv([each.analysis for each in self.judged]))

    @cached_property
    def comparisons(self) -> pandas.DataFrame:
        """A row a comparison, of all families, as in comparisons.csv."""
        from biencoder_ablate.report.write import comparisons_csv

        return _frame(comparisons_csv([each.analysis for each in self.judged]))

    @cached_property
    def points(self) -> pandas.DataFrame:
        """A row a configuration, seed and query: what compare() reads. One below another where there are several
        corpora."""
        import pandas

        from biencoder_ablate.report.write import points_csv

        frames = [_frame(points_csv(each.analysis)) for each in self.judged]
        return pandas.concat(frames, ignore_index=True)

    @cached_property
    def verdicts(self) -> pandas.DataFrame:
        """A row a comparison, those that decide first, with its verdict and what would decide it where it is open."""
        import pandas

        rows = []
        for study in self.to_dict()["studies"]:
            for comparison in study["comparisons"]:
                needed = comparison.pop("would_decide") or {}
                low, high = comparison.pop("interval")
                family_low, family_high = comparison.pop("family_interval")
                row = comparison | {"low": low, "high": high, "family_low": family_low, "family_high": family_high}
                row |= {f"{key}_needed": needed.get(key) for key in ("seeds", "groups")}
                rows.append(row | {"next_command": needed.get("command")})
        frame = pandas.DataFrame(rows)
        return frame.sort_values("decides", ascending=False, kind="stable", ignore_index=True)

    @property
    def decided(self) -> bool:
        """Whether every comparison that the question is about has an outcome."""
        from biencoder_ablate.report.decision import is_decided

        return is_decided(self.collection, self.judged)

    @property
    def headline(self) -> str:
        """The answer in a sentence or two, of each corpus."""
        return " ".join(each.headline for each in self.judged)

    def to_dict(self) -> dict[str, Any]:
        """The same as `biencoder-ablate decide --json` prints (docs/automation.md)."""
        from biencoder_ablate.report.decision import verdict_json

        return verdict_json(self.collection, self.judged, self.ledger)

    def __str__(self) -> str:
        from biencoder_ablate.report.decision import lines

        return "\n".join(lines(self.collection, self.judged, self.ledger))

    def _repr_html_(self) -> str:
        """The verdicts, and a plot of the differences that decide, for a notebook."""
        said = "".join(f"<li>{html.escape(line)}</li>" for line in str(self).splitlines())
        pictures = []
        for svg in self._forests():
            data = base64.b64encode(svg).decode()
            pictures.append(f'<img alt="Differences with intervals" src="data:image/svg+xml;base64,{data}">')
        return f"<ul>{said}</ul>{''.join(pictures)}"

    def _forests(self) -> Iterator[bytes]:
        """The plot of each study's first family, as svg."""
        from biencoder_ablate.report import plot_style
        from biencoder_ablate.report.plots import forest_page

        for each in self.judged:
            analysis = each.analysis
            page = partial(
                forest_page,
                analysis.families[:1],
                analysis.primary,
                measure=analysis.measure,
                queries=analysis.words.plural,
            )
            with plot_style.applied():
                (plot,) = plot_style.save_plots([page], "forest", "Differences", "", plot_style.HALF)
            yield plot.svg


def study(
    places: str | Path | Sequence[str | Path],
    *,
    metric: str | None = None,
    protocol: str | None = None,
    margin: float | None = None,
    looks: Sequence[int] = (),
    baseline: Sequence[str] = (),
) -> Results:
    """The runs of a sweep (its directory, its name, or latest), of several, or of single runs, as data frames.

    `metric` (top1, mrr, ndcg@10 or recall@10; unless given, what the sweep declared, or top1) decides, under `protocol`
    (clean, where there are clean points, or official). `margin`, `looks` and `baseline` are those of
    `biencoder-ablate report`. The look is remembered in the sweep's directory, as those of the commands are.

    Raises ValueError as they do, and ImportError where pandas or the `report` extra is not installed.
    """
    _check_installed()
    from biencoder_ablate.report.decision import remember
    from biencoder_ablate.report.ledger import open_ledger
    from biencoder_ablate.report.read import Metric, collect, declared_metric
    from biencoder_ablate.report.tuning import with_tuned

    metrics = [str(each) for each in Metric]
    if metric is not None and metric not in metrics:
        raise ValueError(f"metric={metric}: must be {', '.join(metrics[:-1])} or {metrics[-1]}")
    if isinstance(places, str | Path):
        places = [places]
    which = Metric(metric) if metric else None
    collection = collect([find_run(place, sweeps=True) for place in places], which)
    collection = with_tuned(collection, declared_metric(collection.sweeps, which))
    ledger = open_ledger(collection, margin, sorted(set(looks)))
    results = _judged(collection, ledger, protocol, baseline)
    remember(results.ledger, results.judged)
    return results


def compare(
    frame: pandas.DataFrame | Mapping[str, Sequence[Any]],
    *,
    metric: str = "value",
    system: str | None = None,
    seed: str = "seed",
    query: str = "query",
    group: str | None = None,
    factors: Sequence[str] = (),
    baseline: str | None = None,
    margin: float | None = None,
    looks: Sequence[int] = (),
) -> Results:
    """Anyone's scores by system, seed and query compared as the report compares runs; more is better.

    `frame` is a pandas data frame or a mapping of columns, a row a system, seed and query. The column `metric` holds
    what the query scores; `system`, `seed`, `query` and `group` name theirs, "system" and "group" unless given.
    Queries of one group are not independent. A system without seeds has an empty seed. `factors` are columns of a
    design, and may stand in place of the system; `baseline` is the system that the others are compared with. Columns
    that are not named are not read, and the results say so.

    Raises ValueError for a column that is not there and for a cell that is not valid, with its row from 0; ImportError
    where pandas or the `report` extra is not installed.
    """
    _check_installed()
    from biencoder_ablate.report.external import COLUMNS, read_rows
    from biencoder_ablate.report.ledger import open_ledger

    present = [str(name) for name in frame]
    named = {"seed": seed, "query": query, "value": metric}
    if system is not None or not factors:
        named["system"] = system or "system"
    if group is not None or "group" in present:
        named["group"] = group or "group"
    for name in factors:
        if name in COLUMNS:
            raise ValueError(f"factors={name}: is no factor; {', '.join(COLUMNS)} have a meaning of their own")
        named[name] = name
    for role, name in named.items():
        if name not in present:
            raise ValueError(f"{role}={name}: no such column; the frame has {', '.join(present)}")

    columns = {role: [_text(value) for value in frame[name]] for role, name in named.items()}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"the columns have different lengths: {', '.join(map(str, sorted(lengths)))}")
    if baseline is not None:
        systems = columns.get("system", [])
        if baseline not in systems:
            known = ", ".join(dict.fromkeys(systems)) or "none"
            raise ValueError(f"baseline={baseline}: no such system; there are {known}")
        columns["baseline"] = ["yes" if each == baseline else "" for each in systems]

    cells = enumerate(zip(*columns.values(), strict=True))
    rows = [(f"row {k}", dict(zip(columns, row, strict=True))) for k, row in cells]
    collection = read_rows(Path("frame"), [({name: name for name in columns}, rows)], metric)
    unread = [name for name in present if name not in named.values()]
    if unread:
        note = f"Columns that were not read: {', '.join(unread)}."
        collection = replace(collection, notes=(*collection.notes, note))
    return _judged(collection, open_ledger(collection, margin, sorted(set(looks))), None)


def _judged(
    collection: Collection,
    ledger: Ledger,
    protocol: str | None,
    baseline: Sequence[str] = (),
) -> Results:
    from biencoder_ablate.report.decision import judge
    from biencoder_ablate.report.folds import note_folds
    from biencoder_ablate.report.read import Protocol

    if protocol not in (None, *Protocol):
        raise ValueError(f"protocol={protocol}: must be clean or official")
    which = Protocol(protocol) if protocol else None
    collection = note_folds(collection)
    judged = judge(collection, ledger, which, baseline)
    return Results(collection, judged, ledger)


def _check_installed() -> None:
    """Raise ImportError with one line where a package is missing."""
    for package, extra in NEEDED.items():
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"data frames of runs need {package}; install the `{extra}` extra: pip install "
                f"'biencoder-ablate[{extra}]'"
            )


def _text(value: Any) -> str:
    """A cell as a table has it: nothing where it is None or not a number."""
    return "" if value is None or value != value else str(value)


def _frame(text: str) -> pandas.DataFrame:
    """A table of ours as a data frame; only empty cells are missing, not a configuration that is called None."""
    import pandas

    return pandas.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
