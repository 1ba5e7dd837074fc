"""Which oracle is asked what, and how answers become one reward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rewardmesh.wire.errors import ChecksMissing
from rewardmesh.wire.oracle_use import OnMissing, OracleUse
from trainer.recipe_sections import FeedbackSettings
from trainer.rewards import RewardRule, scored_boundaries
from trainer.rollouts import clean_predictions
from trainer.trajectory_store import GroupHeader, OracleRewards

OBJECTS = {"tag": "colors", "include": [{"class": "circle"}]}
TEXT = {"tag": "spelling", "include": [], "text": "CAT"}


def header(checks: dict[str, Any]) -> GroupHeader:
    return GroupHeader(
        group_id="g",
        rollout_index=0,
        policy_version=0,
        prompt="p",
        kind="k",
        checks=checks,
        sigmas=(1.0, 0.5, 0.0),
        group_size=3,
    )


def said(oracle: str, *rows: tuple[float | None, ...], boundaries: tuple[int, ...] = (4,)) -> dict[str, OracleRewards]:
    answer = OracleRewards(
        oracle=oracle, oracle_version="1", policy_version=0, boundary_indices=boundaries, rewards=rows
    )
    return {oracle: answer}


def rule(
    *oracles: OracleUse, pictures: Any = "endpoint", permute_seed: int | None = None, join: Any = "sum"
) -> RewardRule:
    feedback = FeedbackSettings(oracles=oracles, pictures=pictures, join=join)
    return RewardRule(feedback, num_steps=4, permute_seed=permute_seed)


COUNT = OracleUse(name="object_count", applies="objects")
SPELL = OracleUse(name="ocr_spelling", applies="text")
PEOPLE = OracleUse(name="people", on_missing=OnMissing(wait_s=0, then="mask"), weight=3.0)


def test_prompts_go_to_the_oracles_that_can_verify_them() -> None:
    both = rule(COUNT, SPELL, PEOPLE)
    assert both.awaited(OBJECTS, 0) == ("object_count",)
    assert both.awaited(TEXT, 0) == ("ocr_spelling",)
    assert both.late(TEXT, 0) == ("people",)
    assert both.awaited({**OBJECTS, "text": "CAT"}, 0) == ("object_count", "ocr_spelling")
    with pytest.raises(ChecksMissing, match="'draw'"):
        both.check_prompts([("a circle", OBJECTS), ("draw", {"tag": "none"})])


def test_unit_range_is_about_zero_and_a_failed_sample_is_left_out() -> None:
    combined = rule(COUNT).combine(header(OBJECTS), said("object_count", (0.0, None, 1.0)))
    assert combined is not None
    assert combined.kept.tolist() == [0, 2]
    assert combined.rewards.tolist() == [-0.5, 0.5]
    assert combined.boundary_rewards is None
    assert not combined.tied


def test_without_a_needed_answer_or_two_samples_there_is_no_reward() -> None:
    assert rule(COUNT).combine(header(OBJECTS), {}) is None
    assert rule(COUNT).combine(header(OBJECTS), said("object_count", (0.5, None, None))) is None
    assert rule(COUNT, SPELL, PEOPLE).combine(header(OBJECTS), said("people", (1.0, 1.0, 1.0))) is None


def test_a_masked_reward_is_left_out_of_that_samples_mean_and_counted() -> None:
    both = rule(COUNT, SPELL, PEOPLE)
    first = said("object_count", (0.5, 0.5, 1.0))
    alone = both.combine(header(OBJECTS), first)
    partly = both.combine(header(OBJECTS), first | said("people", (1.0, None, 0.5)))
    joined = both.combine(header(OBJECTS), first | said("people", (1.0, 0.0, 0.5)))
    assert alone is not None
    assert partly is not None
    assert joined is not None
    assert alone.rewards.tolist() == [0.0, 0.0, 0.5]
    np.testing.assert_allclose(joined.rewards, [(0 + 3 * 0.5) / 4, (0 - 3 * 0.5) / 4, (0.5 + 0) / 4])
    assert partly.rewards.tolist() == [joined.rewards[0], 0.0, joined.rewards[2]]
    assert [one.masked for one in (alone, partly, joined)] == [
        {"object_count": 0, "people": 3},
        {"object_count": 0, "people": 1},
        {"object_count": 0, "people": 0},
    ]


def test_an_oracle_that_was_added_holds_from_its_rollout_on() -> None:
    amended = rule(COUNT)
    amended.amend([(2, OracleUse(name="late_comer", weight=3.0, on_missing=OnMissing(wait_s=7, then="mask")))])
    assert amended.awaited(OBJECTS, 1) == ("object_count",)
    assert amended.awaited(OBJECTS, 2) == ("object_count", "late_comer")
    assert amended.bounds_s(2) == {"object_count": 120.0, "late_comer": 7.0}
    answers = said("object_count", (0.5, 0.5, 1.0)) | said("late_comer", (1.0, 0.0, 0.5))
    before = amended.combine(header(OBJECTS), answers)
    after = amended.combine(replace(header(OBJECTS), rollout_index=2), answers)
    assert before is not None
    assert after is not None
    assert before.rewards.tolist() == [0.0, 0.0, 0.5]
    np.testing.assert_allclose(after.rewards, [0.375, -0.375, 0.125])


def test_gdpo_keeps_apart_what_the_sum_of_rewards_makes_equal() -> None:
    """Two rewards of different spread: what each says is worth the same."""
    uses = (OracleUse(name="a"), OracleUse(name="b", normalisation="none"))
    answers = said("a", (0.0, 0.1, 0.2)) | said("b", (200.0, 100.0, 0.0))
    joined = rule(*uses, join="gdpo").combine(header(OBJECTS), answers)
    summed = rule(*uses).combine(header(OBJECTS), answers)
    assert joined is not None
    assert summed is not None
    np.testing.assert_allclose(joined.rewards, [0, 0, 0], atol=1e-6)
    assert summed.rewards.tolist() == sorted(summed.rewards, reverse=True)


def test_other_normalisations() -> None:
    plain = rule(OracleUse(name="a", normalisation="none"))
    std = rule(OracleUse(name="a", normalisation="group_std"))
    wide = rule(OracleUse(name="a", reward_min=-10, reward_max=10))
    answers = said("a", (2.0, 4.0, 6.0))
    assert plain.combine(header(OBJECTS), answers).rewards.tolist() == [2.0, 4.0, 6.0]  # type: ignore[union-attr]
    np.testing.assert_allclose(
        std.combine(header(OBJECTS), answers).rewards,  # type: ignore[union-attr]
        np.array([-2, 0, 2]) / (np.std([2, 4, 6]) + 1e-4),
        rtol=1e-6,
    )
    np.testing.assert_allclose(wide.combine(header(OBJECTS), answers).rewards, [0.1, 0.2, 0.3])  # type: ignore[union-attr]


def test_each_boundary_has_the_reward_of_the_next_that_was_scored() -> None:
    assert scored_boundaries("endpoint", 4) == (4,)
    assert scored_boundaries("every_boundary", 4) == (1, 2, 4)
    assert scored_boundaries("every_boundary", 1) == (1,)
    answers = said("object_count", (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 0.0, 0.5), boundaries=(1, 2, 4))
    combined = rule(COUNT, pictures="every_boundary").combine(header(OBJECTS), answers)
    assert combined is not None
    assert combined.boundary_rewards is not None
    assert combined.boundary_rewards[0].tolist() == [-0.5, -0.5, 0.0, 0.5, 0.5]
    assert combined.rewards.tolist() == [0.5, -0.5, 0.0]
    assert not combined.tied


def test_with_both_a_boundary_has_the_mean_of_its_own_reward_and_the_ends() -> None:
    assert scored_boundaries("both", 4) == (1, 2, 4)
    answers = said("object_count", (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 0.0, 0.5), boundaries=(1, 2, 4))
    combined = rule(COUNT, pictures="both").combine(header(OBJECTS), answers)
    assert combined is not None
    assert combined.boundary_rewards is not None
    assert combined.boundary_rewards.tolist() == [
        [0.0, 0.0, 0.25, 0.5, 0.5],
        [-0.5, -0.5, -0.25, -0.5, -0.5],
        [-0.25, -0.25, 0.0, 0.0, 0.0],
    ]
    assert combined.rewards.tolist() == [0.5, -0.5, 0.0]
    end_alone = rule(COUNT, pictures="both").combine(header(OBJECTS), said("object_count", (1.0, 0.0, 0.5)))
    assert end_alone is not None
    assert end_alone.boundary_rewards is not None
    assert end_alone.boundary_rewards.tolist() == [[0.5] * 5, [-0.5] * 5, [0.0] * 5]


def test_the_spread_is_that_of_the_boundary_where_it_is_widest() -> None:
    answers = said("object_count", (0.0, 0.75, 0.5), (0.5, 0.5, 0.5), (0.5, 0.5, 0.75), boundaries=(1, 2, 4))
    wide = rule(COUNT, pictures="every_boundary").combine(header(OBJECTS), answers)
    narrow = rule(COUNT).combine(header(OBJECTS), said("object_count", (0.5, 0.5, 0.75)))
    tied = rule(COUNT).combine(header(OBJECTS), said("object_count", (0.5, 0.5, 0.5)))
    assert [one.spread for one in (wide, narrow, tied) if one is not None] == [0.75, 0.25, 0.0]
    assert [one.tied for one in (wide, narrow, tied) if one is not None] == [False, False, True]


def test_the_control_permutes_whole_samples_and_always_the_same_way() -> None:
    answers = said("object_count", (0.1, 0.2, 0.3), boundaries=(4,))
    control = rule(COUNT, permute_seed=3)
    first = control.combine(header(OBJECTS), answers)
    again = control.combine(header(OBJECTS), answers)
    assert first is not None
    assert again is not None
    assert first.rewards.tolist() == again.rewards.tolist()
    np.testing.assert_allclose(sorted(first.rewards), [-0.4, -0.3, -0.2], rtol=1e-6)


def test_clean_predictions_are_those_of_the_networks_velocity() -> None:
    """Read off the path they equal x0_pred = z_k - sigma_k * velocity_k, and at K-1 the finished latent itself."""
    sigmas = [1.0, 0.9, 0.75, 0.5, 0.0]
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(2, 1, 3, 3, generator=rng)
    velocities, states = [], [z]
    for k in range(4):
        velocity = torch.tanh(states[-1]) + 0.1 * k
        velocities.append(velocity)
        states.append(states[-1] - (sigmas[k] - sigmas[k + 1]) * velocity)
    boundaries = torch.stack(states, dim=1)
    found = clean_predictions(boundaries, sigmas, (1, 2, 3, 4))
    for row, k in enumerate((1, 2, 3)):
        torch.testing.assert_close(found[:, row], states[k] - sigmas[k] * velocities[k])
    torch.testing.assert_close(found[:, 2], states[4])
    assert torch.equal(found[:, 3], states[4])
