"""(E13) and (E14) against closed forms, and what must hold of them whatever the rewards are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.joining import Normalisation, join, normalise, shortfall
from trainer.learning import batch_advantages

UNIT = (0.0, 1.0)
rewards_of_a_group = st.lists(st.integers(0, 100), min_size=2, max_size=8)


def column(*rewards: float | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """One boundary; None is masked, and stands there as a number that would be noticed."""
    values = np.array([[1e9 if reward is None else reward] for reward in rewards], dtype=np.float64)
    return values, np.array([[reward is not None] for reward in rewards])


def scaled(how: Normalisation, *rewards: float | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return normalise(*column(*rewards), how=how, bounds=UNIT)


def gdpo(*oracles: list[Any], weights: tuple[float, ...] = (1.0, 1.0)) -> NDArray[np.float64]:
    terms = [(weight, *scaled("group_z", *rewards)) for weight, rewards in zip(weights, oracles, strict=True)]
    return join(terms)[:, 0]


def test_each_scale_in_closed_form_without_what_is_masked() -> None:
    std = np.std([2.0, 4.0, 6.0])
    for how, expected in (
        ("none", [2, 4, 6]),
        ("unit_range", [1.5, 3.5, 5.5]),
        ("group_std", np.array([-2, 0, 2]) / (std + 1e-4)),
        ("group_z", np.array([-2, 0, 2]) / std),
    ):
        values, known = scaled(how, 2.0, None, 4.0, 6.0)  # type: ignore[arg-type]
        np.testing.assert_allclose(values[[0, 2, 3], 0], expected, rtol=1e-12)
        assert known[:, 0].tolist() == [True, False, True, True]


def test_a_reward_alone_in_its_group_has_no_scale_of_the_group() -> None:
    for how in ("group_std", "group_z"):
        assert not scaled(how, None, 3.0, None)[1].any()  # type: ignore[arg-type]
    assert scaled("unit_range", None, 3.0, None)[1].sum() == 1


def test_equal_rewards_are_nothing_under_gdpo_though_their_mean_rounds() -> None:
    values, known = scaled("group_z", *[0.1] * 7)
    assert values.tolist() == [[0.0]] * 7
    assert known.all()


def test_the_joined_reward_is_the_weighted_mean_of_what_is_known() -> None:
    joined = join([(1.0, *column(1.0, 2.0, None)), (3.0, *column(5.0, None, 7.0))])
    assert joined[:, 0].tolist() == [(1 + 15) / 4, 2.0, 7.0]


def test_a_shortfall_is_what_lacks_of_the_highest_and_never_negative() -> None:
    joined = np.array([-0.5, 0.0, 0.5, 0.75], np.float32)
    np.testing.assert_array_equal(shortfall(joined), np.array([1, 0.5, 0, 0], np.float32))


def test_gdpo_tells_apart_what_one_normalisation_of_the_sum_does_not() -> None:
    """The publication's example: two rewards of 0 and 1, two samples."""
    np.testing.assert_allclose(gdpo([0, 1], [0, 0]), [-0.5, 0.5])
    np.testing.assert_allclose(gdpo([0, 1], [0, 1]), [-1.0, 1.0])


def test_the_batch_has_mean_0_and_deviation_1_and_a_tied_group_nothing() -> None:
    joined = torch.tensor([-1.0, 1.0, -0.5, 0.5, 0.0, 0.0])
    index = torch.tensor([0, 0, 1, 1, 2, 2])
    found = batch_advantages(joined, index, clip=5.0)
    std = float(np.std([-1, 1, -0.5, 0.5, 0, 0]))
    torch.testing.assert_close(found, joined / (std + 1e-4))
    assert found[4:].tolist() == [0.0, 0.0]
    assert batch_advantages(joined, index, clip=0.5).abs().max() == 0.5
    with pytest.raises(ValueError, match="finite"):
        batch_advantages(torch.tensor([1.0, float("nan")]), torch.tensor([0, 0]), clip=5.0)


@st.composite
def masked(draw: st.DrawFn) -> tuple[list[int], list[int], list[bool]]:
    """Rewards of two oracles, and which samples go without the second."""
    first = draw(rewards_of_a_group)
    second = draw(st.lists(st.integers(0, 100), min_size=len(first), max_size=len(first)))
    return first, second, draw(st.lists(st.booleans(), min_size=len(first), max_size=len(first)))


@given(masked())
def test_masking_leaves_a_reward_on_a_fixed_scale_as_it_was_for_those_that_have_it(case: Any) -> None:
    first, second, gone = case
    some = [None if is_gone else reward for reward, is_gone in zip(second, gone, strict=True)]

    def summed(rewards: list[Any]) -> NDArray[np.float64]:
        return join([(1.0, *scaled("unit_range", *first)), (2.0, *scaled("unit_range", *rewards))])[:, 0]

    have = ~np.array(gone)
    assert summed(some)[have].tolist() == summed(second)[have].tolist()
    alone = join([(1.0, *scaled("unit_range", *first))])[:, 0]
    np.testing.assert_allclose(summed(some)[~have], alone[~have], rtol=1e-12)


@given(masked(), st.sampled_from(["none", "unit_range", "group_std", "group_z"]))
def test_masking_never_changes_the_order_of_the_samples_that_have_the_reward(case: Any, how: Any) -> None:
    """Where what else is known of two of them is equal."""
    _, second, gone = case
    some = [None if is_gone else reward for reward, is_gone in zip(second, gone, strict=True)]
    equal = [50] * len(second)
    joined = join([(1.0, *scaled(how, *equal)), (2.0, *scaled(how, *some))])[:, 0]
    have = [index for index, is_gone in enumerate(gone) if not is_gone]
    if len(have) >= 2:
        for one in have:
            for other in have:
                assert np.sign(joined[one] - joined[other]) == np.sign(second[one] - second[other])


@given(masked(), st.floats(1e-3, 1e3), st.integers(-50, 50))
def test_the_scale_of_one_oracle_changes_no_gdpo_advantage(case: Any, factor: float, shift: int) -> None:
    first, second, gone = case
    some = [None if is_gone else float(reward) for reward, is_gone in zip(second, gone, strict=True)]
    other = [None if reward is None else factor * (reward + shift) for reward in some]
    index = torch.zeros(len(first), dtype=torch.int64)
    one, two = (gdpo(first, rewards) for rewards in (some, other))
    np.testing.assert_allclose(one, two, atol=1e-9)
    if len({round(value, 6) for value in one}) > 1:
        found = [batch_advantages(torch.from_numpy(values).float(), index, clip=5.0) for values in (one, two)]
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@given(masked())
def test_the_value_that_stands_where_a_reward_is_masked_is_never_read(case: Any) -> None:
    first, second, gone = case
    known = np.array([[not is_gone] for is_gone in gone])
    for how in ("none", "unit_range", "group_std", "group_z"):
        results = []
        for filler in (0.0, 1e12):
            values = np.where(known, np.array(second, dtype=np.float64)[:, None], filler)
            term = normalise(values, known, how=how, bounds=UNIT)  # type: ignore[arg-type]
            results.append(join([(1.0, *scaled(how, *first)), (1.0, *term)])[:, 0].tolist())  # type: ignore[arg-type]
        assert results[0] == results[1]
