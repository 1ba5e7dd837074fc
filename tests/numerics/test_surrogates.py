"""Each form of the surrogate, against its own formula and by finite differences; `test_forms_agree` compares them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.algorithms.surrogates import ranking
from trainer.losses.group_bradley_terry import boundary_weight, group_bradley_terry_loss, lagged_decay
from trainer.losses.tilt import tilt_loss
from trainer.losses.value import scale_rewards, value_contrast_loss, value_gradient, value_regression_loss

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (6, 2, 2, 2)), generator=torch.Generator().manual_seed(seed))


def preference(velocity: Tensor, **changes: Any):
    arguments: dict[str, Any] = {
        "target": drawn(1),
        "reference_velocity": drawn(2),
        "lagged_velocity": velocity.detach(),
        "teacher_velocity": drawn(2),
        "advantages": drawn(3, 6),
        "group_index": GROUPS,
        "beta": 2.0,
        "drift_limit": math.inf,
    }
    return group_bradley_terry_loss(velocity, **(arguments | changes))


def errors(velocity: Tensor, target: Tensor) -> Tensor:
    return (velocity - target).square().flatten(1).mean(1)


def test_group_bradley_terry_written_out() -> None:
    velocity, advantages = drawn(0), drawn(3, 6)
    result = preference(velocity, weight=boundary_weight(torch.tensor([0, 0, 0, 3, 3, 3]), 4))
    d, d_ref = errors(velocity, drawn(1)), errors(drawn(2), drawn(1))
    expected = 0.0
    for group, c in ((slice(0, 3), 0.25), (slice(3, 6), 1.0)):
        weight = torch.sigmoid((advantages[group] * 2.0 * (d - d_ref)[group]).sum() / 3)
        drift = errors(velocity, drawn(2))[group]
        expected += float((c * (weight * advantages[group] * d[group] + 1e-3 * drift)).sum()) / 6
    assert float(result.loss) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(result.implicit_reward, d_ref - d)
    assert not result.trust_stopped.any() and not result.drift_stopped.any()


def test_its_gradient_by_finite_differences_with_the_weight_held() -> None:
    velocity = drawn(0).requires_grad_(True)
    result = preference(velocity, drift_weight=0.0)
    result.loss.backward()
    advantages = drawn(3, 6)
    bump = torch.zeros(6, 2, 2, 2)
    bump[4, 1, 0, 1] = 1e-2
    held = (result.group_weight[GROUPS] * advantages)[4] / 6
    with torch.no_grad():
        change = errors(velocity + bump, drawn(1))[4] - errors(velocity - bump, drawn(1))[4]
    assert velocity.grad is not None
    assert float(velocity.grad[4, 1, 0, 1]) == pytest.approx(float(held * change) / 2e-2, rel=1e-3)


def test_a_step_denoises_good_samples_better_and_bad_ones_worse() -> None:
    reference = drawn(2)
    velocity = reference.clone().requires_grad_(True)
    advantages = torch.tensor([1.0, 0.0, -1.0, -1.0, 1.0, 0.0])
    result = preference(velocity, advantages=advantages)
    assert torch.equal(result.group_weight, torch.full((2,), 0.5))  # at the reference the group is undecided
    (gradient,) = torch.autograd.grad(result.loss, velocity)
    moved = preference((reference - 0.1 * gradient).detach(), advantages=advantages)
    assert torch.equal(moved.implicit_reward.sign(), advantages)


def test_a_well_ordered_group_weighs_less() -> None:
    reference, target = drawn(2), drawn(1)
    better, worse = reference + 0.5 * (target - reference), reference - 0.5 * (target - reference)
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0, -1.0])
    signs = advantages.clone()
    signs[3:] *= -1  # the second group is ordered the wrong way round
    velocity = torch.where(signs.reshape(-1, 1, 1, 1) > 0, better, worse)
    weight = preference(velocity, advantages=advantages).group_weight
    assert weight[0] < 0.5 < weight[1]


def test_the_trust_region_stops_what_left_it_in_the_wanted_direction_only() -> None:
    target = torch.zeros(6, 1)
    velocity = torch.full((6, 1), 1.0, requires_grad=True)
    lagged = torch.tensor([[1.1], [0.9], [1.0], [1.1], [0.9], [1.0]])  # ratio exp(.21), exp(-.19), 1
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    still = torch.full((6, 1), 1.0)
    result = preference(
        velocity,
        target=target,
        lagged_velocity=lagged,
        reference_velocity=still,
        teacher_velocity=still,
        advantages=advantages,
    )
    assert result.trust_stopped.tolist() == [True, False, False, False, True, False]
    result.loss.backward()
    assert velocity.grad is not None
    assert (velocity.grad[:, 0] != 0).tolist() == [False, True, True, True, False, True]


def test_the_drift_brake_stops_samples_that_moved_far_enough() -> None:
    target = torch.zeros(6, 1)
    velocity = torch.tensor([[0.5], [1.5], [1.0], [0.5], [1.5], [1.0]], requires_grad=True)
    arguments = {
        "target": target,
        "lagged_velocity": velocity.detach(),
        "reference_velocity": torch.ones(6, 1),
        "teacher_velocity": torch.ones(6, 1),
        "advantages": torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]),
        "drift_weight": 0.0,
    }
    far = preference(velocity, **arguments, drift_limit=0.05)  # mean squared distance 1/6
    assert float(far.drift) == pytest.approx(1 / 6)
    assert far.drift_stopped.tolist() == [True, False, False, False, True, False]
    near = preference(velocity, **arguments, drift_limit=0.2)
    assert not near.drift_stopped.any()
    (gradient,) = torch.autograd.grad(far.loss, velocity)
    assert (gradient[:, 0] != 0).tolist() == [False, True, True, True, False, True]


def test_the_pull_to_the_teacher_goes_on_when_the_brakes_hold() -> None:
    velocity = torch.full((6, 1), 0.5, requires_grad=True)
    ones = torch.ones(6, 1)
    result = preference(
        velocity,
        target=torch.zeros(6, 1),
        reference_velocity=ones,
        teacher_velocity=ones,
        lagged_velocity=ones,
        advantages=torch.ones(6),
    )
    assert result.trust_stopped.all()
    (gradient,) = torch.autograd.grad(result.loss, velocity)
    torch.testing.assert_close(gradient, torch.full((6, 1), 1e-3 * 2 * (0.5 - 1.0) / 6))


def test_boundary_weights_and_the_lagged_copys_decay() -> None:
    assert boundary_weight(torch.arange(4), 4).tolist() == [0.25, 0.5, 0.75, 1.0]
    assert lagged_decay(0) == pytest.approx(1e-3)
    assert lagged_decay(99) == pytest.approx(0.1)
    assert lagged_decay(10_000) == 0.3


def test_tilt_written_out_and_its_minimum() -> None:
    advantages = drawn(3, 6)
    reference, fake, target = drawn(2), drawn(4), drawn(1)
    push = advantages.reshape(-1, 1, 1, 1) * (target - fake)
    arguments = {"reference_velocity": reference, "fake_velocity": fake, "target": target, "advantages": advantages}
    assert float(tilt_loss(reference + push, **arguments)) == pytest.approx(0, abs=1e-10)
    assert float(tilt_loss(reference, **arguments)) == pytest.approx(float(push.square().mean()), rel=1e-5)


def test_contrast_written_out() -> None:
    values, rewards = drawn(0, 6), torch.tensor([0.0, 0.5, 1.0, 0.3, 0.3, 0.9])
    numerator = denominator = 0.0
    for i in range(6):
        for j in range(6):
            better = max(float(rewards[i] - rewards[j]), 0.0) if GROUPS[i] == GROUPS[j] else 0.0
            numerator += better * math.log1p(math.exp(float(values[j] - values[i])))
            denominator += better
    expected = numerator / denominator + 1e-3 * float(values.square().mean())
    assert float(value_contrast_loss(values, rewards=rewards, group_index=GROUPS)) == pytest.approx(expected, rel=1e-5)


def test_contrast_of_several_prompts_pools_the_pairs_of_each() -> None:
    values, rewards = drawn(0, 6, 2), drawn(5, 6, 2)
    one, other = (value_contrast_loss(values[:, m], rewards=rewards[:, m], group_index=GROUPS) for m in (0, 1))
    pairs = [
        sum(max(float(a - b), 0.0) for i, a in enumerate(r) for j, b in enumerate(r) if GROUPS[i] == GROUPS[j])
        for r in rewards.T
    ]
    squares = [1e-3 * float(v.square().mean()) for v in values.T]
    pooled = sum(p * (float(loss) - s) for p, loss, s in zip(pairs, (one, other), squares, strict=True)) / sum(pairs)
    both = value_contrast_loss(values, rewards=rewards, group_index=GROUPS)
    assert float(both) == pytest.approx(pooled + sum(squares) / 2, rel=1e-5)


def test_ranking_counts_unequal_pairs_of_a_group_alone() -> None:
    opinions = torch.tensor([1.0, 2.0, 3.0, 9.0, 8.0, 7.0])
    rewards = torch.tensor([0.0, 0.5, 0.5, 1.0, 1.0, 2.0])  # pairs: 1>0, 2>0 right; 5>3, 5>4 wrong
    assert ranking(opinions, rewards, GROUPS) == 0.5
    assert ranking(opinions[:, None].repeat(1, 2), torch.stack([rewards, -rewards], 1), GROUPS) == 0.5
    assert math.isnan(ranking(opinions, torch.zeros(6), GROUPS))


def test_contrast_does_not_see_a_constant_added_to_a_groups_rewards() -> None:
    values, rewards = drawn(0, 6), drawn(5, 6)
    shifted = rewards + torch.tensor([3.0, 3.0, 3.0, -1.0, -1.0, -1.0])
    one, other = (value_contrast_loss(values, rewards=r, group_index=GROUPS) for r in (rewards, shifted))
    assert float(one) == pytest.approx(float(other), rel=1e-5)


def test_contrast_of_tied_groups_is_the_square_alone() -> None:
    values = drawn(0, 6).requires_grad_(True)
    loss = value_contrast_loss(values, rewards=torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), group_index=GROUPS)
    assert float(loss.detach()) == pytest.approx(1e-3 * float(values.detach().square().mean()))
    loss.backward()
    assert values.grad is not None and torch.isfinite(values.grad).all()


def test_regression_and_scaled_rewards() -> None:
    scaled = scale_rewards(torch.tensor([-2.0, 0.0, 2.0]), reward_min=-2.0, reward_max=2.0)
    assert scaled.tolist() == [-0.5, 0.0, 0.5]
    assert float(value_regression_loss(torch.tensor([0.0, 0.0, 0.0]), rewards=scaled)) == pytest.approx(0.5 / 3)
    with pytest.raises(ValueError, match="empty"):
        scale_rewards(scaled, reward_min=1.0, reward_max=1.0)


def test_value_gradient_by_finite_differences() -> None:
    x = drawn(0, 3, 1, 2, 2).double().requires_grad_(True)

    def value(x: Tensor) -> Tensor:
        return torch.sin(x).flatten(1).prod(dim=1)

    gradient = value_gradient(value(x), x)
    bump = torch.zeros_like(x)
    bump[1, 0, 1, 0] = 1e-5
    with torch.no_grad():
        change = (value(x + bump) - value(x - bump)) / 2e-5
    assert float(gradient[1, 0, 1, 0]) == pytest.approx(float(change[1]), rel=1e-4)
    assert not gradient.requires_grad


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\[B\]"):
        value_contrast_loss(torch.zeros(6, 1), rewards=torch.zeros(6), group_index=GROUPS)
    with pytest.raises(ValueError, match="one shape"):
        value_regression_loss(torch.zeros(6, 1), rewards=torch.zeros(6))
    with pytest.raises(ValueError, match="one a sample"):
        preference(drawn(0), advantages=torch.zeros(5))
    with pytest.raises(ValueError, match="one shape"):
        preference(drawn(0), target=torch.zeros(6, 1))
