"""A benchmark that has measured nothing must fail. These run with the other tests."""

from __future__ import annotations

import math

import pytest

from tests.bench import measured
from tests.bench.conftest import Table


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, 2.0], [1.0, 2.0, math.nan], [1.0, 2.0, math.inf], [1, 2, -1], [1, 2, None], [0, 0, 0]]
)
def test_what_is_empty_too_little_or_no_number_is_no_measurement(values):
    with pytest.raises(AssertionError, match="a launch"):
        measured.samples("a launch", values, least=3)


def test_samples_are_sorted():
    assert measured.samples("a launch", iter([3.0, 1.0, 2.0, 0.0]), least=3) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("value", [0, -1, None, math.nan, math.inf, "", True, "12"])
def test_what_one_divides_by_must_be_something(value):
    with pytest.raises(AssertionError, match="a floor"):
        measured.amount("a floor", value)


def good(**changed):
    return {
        "ready": True, "caught_up": 3, "open": 4, "wrong": 0, "hung": 0, "busy": 0.4, "errors": [],
        "got": [100, 100, 100],
        "late": [[5.0, 7.0], [6.0, 8.0], [5.0, 9.0]], **changed,
    }  # fmt: skip


def test_viewers_who_saw_it_are_measured():
    assert measured.viewers(good(), viewers=4, stalled=1, least=2) == [5.0, 5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.mark.parametrize(
    "changed",
    [
        {"ready": False},  # the slow machine: nobody caught up before the run was over
        {"late": []},
        {"late": [[], [], []]},
        {"late": [[5.0, 7.0], [6.0, 8.0], []]},
        {"late": [[5.0, 7.0], [6.0, 8.0], [5.0]]},
        {"late": [[0, 0], [0, 0], [0, 0]]},
        {"late": [[5.0, math.nan], [6.0, 8.0], [5.0, 9.0]]},
        {"got": []},
        {"got": [100, 100]},
        {"got": [100, 100, 99]},
        {"hung": 1},
        {"busy": 0.97},  # it measured itself
        {"open": 3},
        {"wrong": 1},
        {"errors": ["TimeoutError()"]},
    ],
)
def test_viewers_who_saw_nothing_are_a_failure_and_not_0_ms(changed):
    with pytest.raises(AssertionError):
        measured.viewers(good(**changed), viewers=4, stalled=1, least=2)


@pytest.mark.parametrize("words", ["nan ms", "inf MB/s", "None", "", "0 ms"])
def test_a_row_of_the_table_says_a_number(words):
    with pytest.raises(AssertionError):
        Table().add("a launch", words, "1 ms", "<= 2 ms", good=True)
    with pytest.raises(AssertionError):
        Table().add("a launch", "1 ms", words if words != "0 ms" else "", "<= 2 ms", good=True)


def test_a_table_says_what_was_missed():
    table = Table()
    table.add("a launch", "5 ms", "1 ms", "<= 2 ms", good=False)
    assert "MISSED" in str(table)
