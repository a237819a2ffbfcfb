"""How many negatives are hard, and how the learning rates warm up: plain functions of epoch and step."""

from __future__ import annotations


def hard_share(schedule: str, epoch: int, ratio: float, start: float | None) -> float:
    """Probability that a negative of `epoch` (from 0) is hard: `ratio` (constant), or min(1, start + epoch·ratio)."""
    if schedule == "constant":
        return ratio
    assert schedule == "curriculum" and start is not None
    return min(1.0, start + epoch * ratio)


def describe_hard_share(schedule: str, ratio: float, start: float | None) -> str:
    """The schedule in words, for the first lines of a run."""
    if schedule == "constant":
        return f"{ratio:.3g} of each epoch's" if ratio == 0 else f"{100 * ratio:.3g}% of each epoch's"
    assert start is not None
    return f"{100 * start:.3g}% of the first epoch's, {100 * ratio:.3g} points more each epoch, at most all"


def warmup_factor(step: int, num_warmup_steps: int) -> float:
    """What the learning rates are multiplied by at optimizer step `step` (from 0): linear from 1/n to 1, then 1."""
    return min(1.0, (step + 1) / num_warmup_steps) if num_warmup_steps > 0 else 1.0
