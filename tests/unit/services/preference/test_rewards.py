"""Choices to rewards: properties of Bradley–Terry and of the agreement, and both against the libraries directly."""

from __future__ import annotations

import math

import choix
import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preference.model import Answer
from services.preference.rewards import PRIOR_VARIANCE, agreement, judge, strengths
from tests.unit.services.preference.answering import answer

NUM_PICTURES = 5
SAID = ("first", "second", "tie", "both_bad", "skip")
pairs = st.tuples(st.integers(0, NUM_PICTURES - 1), st.integers(0, NUM_PICTURES - 1)).filter(
    lambda two: two[0] != two[1]
)
spoken = st.tuples(pairs, st.sampled_from(SAID), st.sampled_from(("ada", "bo", "cy")))
choices = st.lists(spoken.map(lambda one: answer(*one[0], one[1], rater=one[2])), max_size=24)
close = pytest.approx


def rewards(answers: list[Answer]) -> list[float | None]:
    return [None if one is None else one.reward for one in judge(NUM_PICTURES, answers).pictures]


def mirrored(one: Answer) -> Answer:
    """The same choice, about the same pair named in the other order."""
    other = {"first": "second", "second": "first"}.get(one.preferred, one.preferred)
    changes = {"first": one.second, "second": one.first, "preferred": other, "swapped": not one.swapped}
    return one.model_copy(update=changes)


@given(choices, st.randoms(use_true_random=False))
def test_the_order_of_answers_and_of_sides_changes_nothing(answers: list[Answer], random: object) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    turned = [mirrored(one) if index % 2 else one for index, one in enumerate(shuffled)]
    assert judge(NUM_PICTURES, shuffled) == judge(NUM_PICTURES, answers)
    assert rewards(turned) == close(rewards(answers))
    alphas = agreement(answers), agreement([mirrored(one) for one in answers])
    assert alphas[0] == (None if alphas[1] is None else close(alphas[1]))


@given(choices, pairs)
def test_one_more_win_never_lowers_the_winner_nor_lifts_the_loser(answers: list[Answer], pair: tuple[int, int]) -> None:
    winner, loser = pair
    both_known = [*answers, answer(winner, loser, "tie")]
    before, after = rewards(both_known), rewards([*both_known, answer(winner, loser, "first")])
    assert after[winner] > before[winner] - 1e-9  # type: ignore[operator]
    assert after[loser] < before[loser] + 1e-9  # type: ignore[operator]


@given(choices)
def test_rewards_are_inside_the_range_and_missing_where_nothing_was_said(answers: list[Answer]) -> None:
    spoken_of = {p for one in answers if one.preferred != "skip" for p in (one.first, one.second)}
    judged = judge(NUM_PICTURES, answers)
    for picture, reward in enumerate(judged.pictures):
        assert (reward is not None) == (picture in spoken_of)
        if reward is not None:
            assert 0 < reward.reward < 1
            about = [one for one in answers if picture in (one.first, one.second) and one.preferred != "skip"]
            assert reward.num_answers == len(about)
            assert reward.num_raters == len({one.rater_id for one in about})
    assert judged.num_answers == sum(one.preferred != "skip" for one in answers)


@given(choices.filter(lambda answers: any(one.preferred in {"first", "second"} for one in answers)))
def test_strengths_are_those_of_choix(answers: list[Answer]) -> None:
    decided = [one for one in answers if one.preferred in {"first", "second"}]
    wins = [(one.first, one.second) if one.preferred == "first" else (one.second, one.first) for one in decided]
    # choix: variance 1 / (2 alpha), the other method than ours
    theirs = choix.opt_pairwise(NUM_PICTURES, wins, alpha=0.5 / PRIOR_VARIANCE, method="BFGS", tol=1e-8)
    assert strengths(NUM_PICTURES, decided) == close(theirs, abs=1e-4)


@given(choices)
def test_exchanging_winners_and_losers_negates_the_strengths(answers: list[Answer]) -> None:
    said = [one for one in answers if one.preferred != "skip"]
    other = {"first": "second", "second": "first"}
    exchanged = [one.model_copy(update={"preferred": other.get(one.preferred, one.preferred)}) for one in said]
    assert strengths(NUM_PICTURES, exchanged) == close(-strengths(NUM_PICTURES, said))


def test_choix_s_other_methods_do_not() -> None:
    wins = [(0, 1), (0, 2)]
    for method in (choix.ilsr_pairwise, choix.mm_pairwise):
        found = method(3, wins, alpha=0.1, max_iter=10_000)
        exchanged = method(3, [(lost, won) for won, lost in wins], alpha=0.1, max_iter=10_000)
        assert np.abs(found - found.mean() + exchanged - exchanged.mean()).max() > 0.05


def test_each_part_that_nobody_compared_with_another_has_its_own_mean() -> None:
    found = strengths(NUM_PICTURES, [answer(0, 1, "first"), answer(2, 3, "first"), answer(3, 4, "first")])
    assert found[:2].sum() == close(0)
    assert found[2:].sum() == close(0)


def test_two_pictures_and_one_win_have_a_closed_form() -> None:
    """strength = variance · sigmoid(-2 · strength), where prior and likelihood balance."""
    won, lost = strengths(2, [answer(0, 1, "first")])
    assert won == close(-lost)
    assert won == close(PRIOR_VARIANCE / (1 + math.exp(2 * won)))
    assert judge(2, [answer(1, 0, "second")]).pictures[0].reward == close(1 / (1 + math.exp(-won)))  # type: ignore[union-attr]


@pytest.mark.parametrize("said", ["tie", "both_bad"])
def test_a_tie_and_both_bad_say_that_neither_is_better(said: str) -> None:
    assert rewards([answer(0, 1, said)])[:3] == [close(0.5), close(0.5), None]
    drawn = [answer(0, 1, "first"), answer(0, 1, said)]
    assert rewards(drawn)[0] == close(1 - rewards(drawn)[1])  # type: ignore[operator]
    assert 0.5 < rewards(drawn)[0] < rewards([answer(0, 1, "first")])[0]  # type: ignore[operator]


def test_a_taste_is_found_again() -> None:
    truth = np.array([2.0, 1.0, 0.0, -1.0, -2.0])
    rng = np.random.default_rng(0)
    answers = []
    for number in range(300):
        first, second = rng.choice(NUM_PICTURES, 2, replace=False)
        wins = rng.random() < 1 / (1 + np.exp(truth[second] - truth[first]))
        answers.append(answer(int(first), int(second), "first" if wins else "second", rater=f"r{number % 7}"))
    found = strengths(NUM_PICTURES, answers)
    assert list(np.argsort(-found)) == [0, 1, 2, 3, 4]
    assert found == close(truth, abs=0.5)


def test_gold_repeats_and_paused_raters_stay_out() -> None:
    counted = [answer(0, 1, "first")]
    apart = [
        answer(0, 1, "second", kind="gold"),
        answer(0, 1, "second", kind="repeat"),
        answer(2, 3, "second", counts=False, rater="paused"),
    ]
    assert judge(NUM_PICTURES, counted + apart) == judge(NUM_PICTURES, counted)
    assert judge(NUM_PICTURES, apart).pictures == (None,) * NUM_PICTURES
    assert judge(NUM_PICTURES, apart).num_answers == 0


def test_single_pictures_get_their_share_of_likes() -> None:
    liked = [answer(0, None, "like", rater=f"r{number}") for number in range(8)]
    said = [*liked, answer(1, None, "dislike"), answer(1, None, "like", rater="bo"), answer(2, None, "skip")]
    assert rewards(said) == [close(0.9), close(0.5), None, None, None]
    assert judge(NUM_PICTURES, said).num_raters == 10


def test_agreement_is_that_of_the_library_with_each_pair_in_both_orders() -> None:
    table = {"a": ("first", "first", "tie"), "b": ("second", "second"), "c": ("first", "both_bad"), "alone": ("tie",)}
    answers = [
        answer(0, 1, said, rater=f"r{number}", comparison_id=name)
        for name, all_said in table.items()
        for number, said in enumerate(all_said)
    ]
    value = {"first": 1.0, "second": 2.0, "tie": 3.0, "both_bad": 4.0}
    units = [[value[said] for said in all_said] for name, all_said in table.items() if name != "alone"]
    units += [[{1.0: 2.0, 2.0: 1.0}.get(said, said) for said in unit] for unit in units]
    by_rater = [[unit[rater] if rater < len(unit) else np.nan for unit in units] for rater in range(3)]
    assert agreement(answers) == close(krippendorff.alpha(by_rater, level_of_measurement="nominal"))


def test_agreement_at_its_ends() -> None:
    def two_say(a: str, b: str, comparison: str) -> list[Answer]:
        return [answer(0, 1, said, rater=who, comparison_id=comparison) for who, said in (("ada", a), ("bo", b))]

    assert agreement([]) is None
    assert agreement([answer(0, 1, "first")]) is None
    assert agreement(two_say("first", "first", "a") + two_say("first", "first", "b")) == 1.0
    assert agreement(two_say("first", "second", "a") + two_say("second", "first", "b")) < 0  # type: ignore[operator]
    assert agreement(two_say("tie", "tie", "a")) is None  # chance would agree as well
    assert agreement(two_say("first", "skip", "a")) is None
