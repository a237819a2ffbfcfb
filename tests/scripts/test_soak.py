"""scripts/soak.py: a run in a process that has made others holds no more than the one before it."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import soak


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Three runs, and what the process held after each."""
    monkeypatch.setattr(sys, "argv", ["soak"])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert soak.soak(3, 1, tmp_path) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    return soak.Watch.measured


def test_a_sweep_keeps_nothing_of_the_runs_it_has_made(measured):
    """Each run's composed settings are some 1,000 objects, which Hydra's launcher would keep to the end."""
    assert [held.runs for held in measured] == [1, 2, 3]
    second, last = measured[1:]
    assert last.objects - second.objects < 500
    assert (last.files, last.threads) == (second.files, second.threads)


def test_memory_that_grows_is_told_from_the_first_half_that_warms_up():
    def held(runs: int, resident: int) -> soak.Held:
        return soak.Held(runs, resident, objects=0, files=0, threads=1, seconds=0.0)

    assert soak.growth([held(1, 100), held(2, 900), held(3, 950), held(4, 1000)]) == 50
    assert soak.growth([held(50, 700)]) == 0
