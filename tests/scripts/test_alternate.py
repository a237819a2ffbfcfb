"""Ways of the benchmarks taking turns. Their processes import this file, so it imports nothing heavy."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from alternate import Way, alternate, median_ratio


def test_ratios_are_taken_turn_by_turn():
    assert median_ratio([4.0, 30.0, 10.0], [2.0, 10.0, 1.0]) == (3.0, 2.0, 10.0)


def answer(value):
    return lambda turn: value * turn


def fail():
    raise ValueError("a way that cannot be made")


def test_every_way_gets_every_turn_and_the_first_are_left_out():
    ways = [Way("one", answer, (1.0,)), Way("two", answer, (2.0,))]
    assert alternate(ways, [5, 6, 7], num_warm=1) == {"one": [6.0, 7.0], "two": [12.0, 14.0]}


def test_a_way_that_fails_says_so():
    with pytest.raises(RuntimeError, match="a way that cannot be made"):
        alternate([Way("broken", fail, ())], [1])
