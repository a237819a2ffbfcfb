"""Which trials a tuned sweep makes of its variants, and which of them each variant keeps. Loads no torch.

All variants are tried with the same settings, on seeds that the sweep has not, and the best is chosen by val: a
difference between variants that only comes of one rate for all goes away, and no test figure has chosen anything.

V variants, K trials of each, T seeds of a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException

from biencoder_ablate.config.schema import Config, ConfigError, TuningConfig, schema_keys
from biencoder_ablate.runs.status import RunStatus, objective
from biencoder_ablate.runs.tuning import Trial, Tuning, Variant, choose, edges

FIRST_SEED = 1_000_000
"""The seeds of trials begin here, where no sweep's are."""
DIGITS = 3
"""Of the numbers that are drawn from an interval."""
Point = Mapping[str, float | str]
Job = list[str]


@dataclass(frozen=True)
class Trials:
    """What is tried of every one of the V variants, each given by its overrides: K points, each with T seeds."""

    variants: tuple[tuple[str, ...], ...]
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    space: Mapping[str, str]

    def jobs(self) -> list[Job]:
        """The overrides of all V · K · T runs, those of one variant together."""
        return [
            self._job(variant, point, seed) for variant in self.variants for point in self.points for seed in self.seeds
        ]

    def _job(self, variant: Sequence[str], point: Point, seed: int) -> Job:
        return [*without_keys(variant, self.space), *_as_overrides(point), f"seed={seed}"]


def plan_trials(config: Config, jobs: Sequence[Job]) -> Trials | None:
    """The trials of a sweep with these jobs; None without tuning.

    Raises ConfigError for a space that cannot be drawn from, for a key that is both swept and tuned, for seeds that the
    sweep has itself, and for a cross-validation, in which a fold's val is another fold's test.
    """
    tuning = config.tuning
    if tuning.name == "none":
        return None
    if config.data.folds is not None:
        raise ConfigError(
            f"tuning={tuning.name}: settings would be chosen on a fold's val that another fold has as its test; "
            "leave data.folds out"
        )
    space = {key: str(value) for key, value in tuning.space.items() if value is not None}
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + tuning.num_seeds))
    variants = tuple(dict.fromkeys(variant_of(job) for job in jobs))
    _check_jobs(tuning, space, seeds, variants, jobs)
    return Trials(variants, draw_points(space, tuning.trials), seeds, space)


def check_earlier(trials: Trials, metric: str, earlier: Tuning | None) -> None:
    """Raises ConfigError where variants that the sweep keeps from earlier commands, and that these trials do not try
    again, had other trials: variants of one comparison have the same budget."""
    if earlier is None:
        return
    is_same = (earlier.points, earlier.seeds, earlier.metric) == (trials.points, trials.seeds, metric)
    others = [variant.overrides for variant in earlier.variants if variant.overrides not in trials.variants]
    if others and not is_same:
        words = " ".join(item for item in others[0] if item not in trials.variants[0])
        raise ConfigError(
            f"tuning: the sweep has variants with other trials ({words}: {len(earlier.points)} settings, seeds "
            f"{', '.join(map(str, earlier.seeds))}); give them again with the others, or another sweep_name"
        )


def with_earlier(tuning: Tuning, earlier: Tuning | None) -> tuple[Tuning, list[str]]:
    """The tuning with what earlier commands have brought to the sweep: other variants, and other seeds of the same
    ones. Also a line for each variant that has chosen anew, so that runs at its earlier settings no longer count."""
    if earlier is None:
        return tuning, []
    joined = {variant.overrides: variant for variant in earlier.variants}
    lines = []
    for variant in tuning.variants:
        before = joined.get(variant.overrides)
        joined[variant.overrides] = variant
        if before is None:
            continue
        runs = tuple(dict.fromkeys((*before.runs, *variant.runs)))
        if earlier.points[before.chosen] == tuning.points[variant.chosen]:
            joined[variant.overrides] = replace(variant, runs=runs)
        elif len(before.runs) > len(variant.runs):
            lines.append(
                f"note: {' '.join(variant.overrides)}: {len(before.runs)} runs at settings that it had chosen earlier "
                "no longer count; give all seeds again"
            )
    return replace(tuning, variants=tuple(joined.values())), lines


def _check_jobs(
    tuning: TuningConfig,
    space: Mapping[str, str],
    seeds: Sequence[int],
    variants: Sequence[Sequence[str]],
    jobs: Sequence[Job],
) -> None:
    for key in space:
        values = {item for variant in variants for item in variant if item.startswith(f"{key}=")}
        if len(values) > 1:
            raise ConfigError(f"tuning.space: {key} is swept as well; leave it out of one of the two")
    taken = {item for job in jobs for item in job} & {f"seed={seed}" for seed in seeds}
    if taken:
        raise ConfigError(
            f"{min(taken)}: is a seed that tuning={tuning.name} chooses settings with, and figures of the sweep must "
            f"come from others; give seeds below {FIRST_SEED}"
        )


def draw_points(space: Mapping[str, str], num_points: int) -> tuple[Point, ...]:
    """K settings that fill the space evenly: a scrambled Halton sequence (scipy.stats.qmc), always the same one.

    More trials add to fewer: the first K points of a space do not depend on how many follow. Numbers of an interval
    have three significant digits. Raises ConfigError for a key or a value that cannot be tuned, and without scipy.
    """
    try:
        from scipy.stats import qmc
    except ImportError as error:
        raise ConfigError("tuning: needs scipy; install the extra `report`") from error

    if not space:
        raise ConfigError("tuning.space={}: nothing to tune; must be keys with interval(…) or choice(…)")
    sweeps = {key: _read(key, text) for key, text in space.items()}
    shares = qmc.Halton(len(sweeps), scramble=True, seed=0).random(num_points)  # (K, keys) in [0, 1)
    points = []
    for row in shares.tolist():
        points.append({key: _at(sweep, share) for (key, sweep), share in zip(sweeps.items(), row, strict=True)})
    return tuple(points)


def _read(key: str, text: str) -> Any:
    """What Hydra reads in the value of a key of tuning.space. Raises ConfigError."""
    # Options of heads and losses of other packages are in no schema.
    is_option = key.startswith(("head.options.", "loss.options."))
    if key not in dict(schema_keys()) and not is_option:
        raise ConfigError(f"tuning.space: there is no key {key}")
    is_measuring = key.startswith(("tuning.", "parts.", "data.", "evaluation."))
    if is_measuring or key in ("seed", "sweep_name", "logs_dir"):
        raise ConfigError(f"tuning.space: {key} is not how a variant is trained, and cannot be tuned")

    would_do = "must be interval(low, high), tag(log, interval(low, high)) or choice(a, b)"
    try:
        value = OverridesParser.create().parse_override(f"{key}={text}").value()
    except HydraException as error:
        raise ConfigError(f"tuning.space: {key}={text} cannot be read; {would_do}") from error
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        is_interval = low is not None and high is not None and low < high
        has_logarithms = "log" not in value.tags or (low is not None and low > 0)
        if not (is_interval and has_logarithms):
            raise ConfigError(f"tuning.space: {key}={text} is no interval; {would_do}, with 0 < low < high for log")
        return value
    if isinstance(value, ChoiceSweep) and value.list:
        return value
    if isinstance(value, RangeSweep):
        return ChoiceSweep(list=[*value.range()])
    raise ConfigError(f"tuning.space: {key}={text} is one value; {would_do}")


def _at(sweep: Any, share: float) -> float | str:
    """The value at a share in [0, 1) of a sweep."""
    if isinstance(sweep, ChoiceSweep):
        chosen = sweep.list[int(share * len(sweep.list))]
        return chosen if isinstance(chosen, int | float) and not isinstance(chosen, bool) else str(chosen)
    low, high = sweep.start, sweep.end
    assert low is not None and high is not None
    is_log = "log" in sweep.tags
    value = low * (high / low) ** share if is_log else low + share * (high - low)

    # Few digits make names of runs that one can read; rounding must not leave the interval.
    rounded = float(f"{value:.{DIGITS}g}")
    value = min(max(rounded, low), high)
    are_integers = isinstance(low, int) and isinstance(high, int)
    return round(value) if are_integers else value


def pick(trials: Trials, metric: str, names: Sequence[str], statuses: Mapping[str, RunStatus]) -> Tuning:
    """What each variant keeps, from the runs of its trials: the point of the highest mean val metric over the T seeds.

    `names` are those of the runs of `trials.jobs()`. Only val is looked at. A trial with a run that failed, as one
    whose loss was no number, is never kept. Raises ConfigError where a variant has none left, and asserts that no
    run is still to do, since all variants must have had the same budget.
    """
    remaining = iter(names)
    variants = []
    for overrides in trials.variants:
        tried = []
        for _ in trials.points:
            runs = tuple(next(remaining) for _ in trials.seeds)
            results = [statuses[name] for name in runs]
            assert all(run.status in ("finished", "failed") for run in results)

            # The mean over all T seeds: one that failed leaves the trial without a value.
            finished = [objective(run.result) for run in results if run.status == "finished"]
            is_whole = len(finished) == len(runs)
            value = sum(finished) / len(finished) if is_whole else None
            tried.append(Trial(runs, value))
        chosen = choose([trial.value for trial in tried])
        if chosen is None:
            raise ConfigError(
                f"tuning: every trial of {' '.join(overrides) or 'the sweep'} failed; see their train.log"
            )
        variants.append(Variant(overrides, tuple(tried), chosen, edges(trials.points, chosen)))
    return Tuning(trials.seeds, dict(trials.space), metric, trials.points, tuple(variants))


def tuned_jobs(tuning: Tuning, jobs: Sequence[Job]) -> list[Job]:
    """The sweep's jobs with what was chosen for the variant of each."""
    chosen = {variant.overrides: tuning.points[variant.chosen] for variant in tuning.variants}
    made = []
    for job in jobs:
        variant = variant_of(job)
        seed = [item for item in job if item not in variant]
        made.append([*without_keys(variant, tuning.space), *_as_overrides(chosen[variant]), *seed])
    return made


def with_runs(tuning: Tuning, jobs: Sequence[Job], names: Sequence[str]) -> Tuning:
    """The tuning with the names of the runs that each variant has at its own settings; `jobs` are the sweep's."""
    names_of: dict[tuple[str, ...], list[str]] = {variant.overrides: [] for variant in tuning.variants}
    for job, name in zip(jobs, names, strict=True):
        names_of[variant_of(job)].append(name)
    variants = [replace(variant, runs=tuple(names_of[variant.overrides])) for variant in tuning.variants]
    return replace(tuning, variants=tuple(variants))


def variant_of(job: Sequence[str]) -> tuple[str, ...]:
    """A job's overrides without its seed."""
    return tuple(item for item in job if not item.startswith("seed="))


def without_keys(overrides: Sequence[str], keys: Mapping[str, Any]) -> list[str]:
    """Overrides without those of some keys."""
    return [item for item in overrides if item.partition("=")[0] not in keys]


def _as_overrides(point: Point) -> list[str]:
    return [f"{key}={value:.12g}" if isinstance(value, float) else f"{key}={value}" for key, value in point.items()]


def describe_choice(tuning: Tuning) -> list[str]:
    """A line for each variant: what was chosen by which val figure, and what lies at the edge of what was tried."""
    common = set.intersection(*(set(variant.overrides) for variant in tuning.variants))
    lines = []
    for variant in tuning.variants:
        words = " ".join(item for item in variant.overrides if item not in common) or "all"
        value = variant.trials[variant.chosen].value
        settings = " ".join(_as_overrides(tuning.points[variant.chosen]))
        line = f"{words}: {settings} (val {value:.4f}, best of {len(variant.trials)} trials)"
        num_failed = sum(trial.value is None for trial in variant.trials)
        if num_failed:
            line += f"; {num_failed} trial{'s' * (num_failed != 1)} failed"
        if variant.at_edge:
            line += f"; at the edge of what was tried: {', '.join(variant.at_edge)}"
        lines.append(line)
    return lines
