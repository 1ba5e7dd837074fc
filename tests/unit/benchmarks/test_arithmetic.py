"""Ratios and percentiles of benchmarks, on values whose results are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.isolation import UNDISTURBED, Window, figures_of, p99_ratios, percentile
from benchmarks.overhead import Case
from benchmarks.road import Constant, draw_groups, endpoint_at, inputs_of

FIRST, AGAIN = UNDISTURBED


def case(*, direct: Sequence[float], road: Sequence[float]) -> Case:
    made = Case("constant", 48, Constant(), endpoint_at("constant", "http://127.0.0.1:1"), [], [])
    made.direct += direct
    made.road += road
    return made


def test_the_ratio_is_of_values_that_were_measured_side_by_side() -> None:
    measured = case(direct=[100.0, 50.0, 10.0], road=[80.0, 50.0, 5.0])  # the machine grew slower meanwhile
    assert measured.ratio.values == [0.8, 1.0, 0.5]
    assert measured.ratio.median == 0.8
    more = next(figure for figure in measured.figures if "more on the road" in figure.what)
    assert more.values == pytest.approx([2.5, 0.0, 100.0])  # ms a picture


def test_a_value_without_its_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        _ = case(direct=[1.0, 2.0], road=[1.0]).ratio


def test_pictures_are_drawn_alike_and_have_the_side_asked_for() -> None:
    for side in (48, 64):
        groups, again = draw_groups("object_count", 16, side=side), draw_groups("object_count", 16, side=side)
        assert [len(group.samples) for group in groups] == [8, 8]
        inputs = inputs_of(groups)
        assert [one.picture.shape for one in inputs] == [(side, side, 3)] * 16
        assert all(np.array_equal(one.picture, two.picture) for one, two in zip(inputs, inputs_of(again), strict=True))


def window(*latencies_ms: float, scored: float = 1.0) -> Window:
    return Window(np.array(latencies_ms), scored)


def test_percentiles_are_of_all_latencies_together() -> None:
    assert percentile(50, window(1, 2, 3)) == 2.0
    assert percentile(50, window(1, 2), window(3, 4, 5)) == 3.0
    assert percentile(99, window(*range(101))) == 99.0


def test_a_ratio_is_against_both_undisturbed_windows_of_its_repetition() -> None:
    found = {
        FIRST: [window(10, 10), window(20, 20)],
        AGAIN: [window(10, 10), window(30, 30)],
        "hang": [window(11, 11), window(60, 60)],
        "well": [window(10, 10), window(30, 30)],
    }
    ratios = p99_ratios(found)
    assert ratios["undisturbed"] == [1.0, 1.5]
    assert ratios["hang"] == pytest.approx([1.1, 2.0])  # p99 of 20, 20, 30, 30 is 30
    assert ratios["well"] == pytest.approx([1.0, 1.0])
    figures = {figure.what: figure for figure in figures_of(found, ratios)}
    assert figures["p99, hang / undisturbed"].note == "aim: 1.1 at most"
    assert figures["p99, undisturbed / undisturbed"].note == "the band"
    assert figures["p50, hang"].values == [11.0, 60.0]
