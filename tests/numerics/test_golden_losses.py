"""Golden losses: fixed seeds, stored values. A change that is not numerical leaves every one of them as it is.

Where a change *is* numerical, print the new values with `python -m tests.numerics.test_golden_losses`, and say why in
the commit.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.diffusion.flow import boundary_velocity_target, clean_prediction, renoise_boundary
from trainer.diffusion.schedule import draw_tau
from trainer.losses.advantages import group_advantages
from trainer.losses.fake_score import fake_score_loss, fake_score_target
from trainer.losses.flow_matching import flow_matching_loss
from trainer.losses.group_bradley_terry import boundary_weight, group_bradley_terry_loss
from trainer.losses.student import (
    RunningRms,
    direction_term,
    guidance_direction,
    matching_direction,
    student_loss,
    value_direction,
    velocity_reward_direction,
)
from trainer.losses.tilt import tilt_loss
from trainer.losses.value import value_contrast_loss, value_regression_loss

GROUPS = torch.arange(8) // 4


class Batch:
    """One fixed batch of two groups of four, at mixed boundaries."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(20_000)

        def drawn() -> Tensor:
            return torch.randn(8, 4, 3, 3, generator=rng)

        self.z, self.noise, self.velocity = drawn(), drawn(), drawn()
        self.teacher, self.uncond, self.fake, self.lagged = drawn(), drawn(), drawn(), drawn()
        self.gradient, self.values, self.rewards = drawn(), torch.randn(8, generator=rng), torch.rand(8, generator=rng)
        self.steps = torch.tensor([1, 1, 1, 1, 3, 3, 3, 3])
        self.sigma = torch.tensor([0.75] * 4 + [0.0] * 4)
        self.tau = draw_tau(self.sigma, shift=3.0, rng=rng, upper_u=0.95, group_index=GROUPS)
        self.x_tau = renoise_boundary(self.z, self.noise, self.sigma, self.tau).x_tau
        self.target = boundary_velocity_target(self.z, self.noise, self.sigma, self.tau)
        self.advantages = group_advantages(self.rewards, GROUPS).values
        self.x0_s = clean_prediction(self.z, self.velocity, self.sigma)


def flow_matching(b: Batch) -> Tensor:
    return flow_matching_loss(b.velocity, x0=b.z, noise=b.noise)


def _fake(b: Batch, name: str) -> Tensor:
    parts = {"x_tau": b.x_tau, "x0_s": b.x0_s, "z_next": b.z, "noise": b.noise, "sigma_next": b.sigma, "tau": b.tau}
    target = fake_score_target(name, **parts)  # type: ignore[arg-type]
    return fake_score_loss(b.velocity, target=target, teacher_velocity=b.teacher)


def fake_score_clean_prediction(b: Batch) -> Tensor:
    return _fake(b, "clean_prediction")


def fake_score_boundary_score(b: Batch) -> Tensor:
    return _fake(b, "boundary_score")


def group_bradley_terry(b: Batch) -> Tensor:
    return group_bradley_terry_loss(
        b.velocity,
        target=b.target,
        reference_velocity=b.teacher,
        lagged_velocity=b.lagged,
        teacher_velocity=b.teacher,
        advantages=b.advantages,
        group_index=GROUPS,
        beta=1.0,
        weight=boundary_weight(b.steps, 4),
    ).loss


def tilt(b: Batch) -> Tensor:
    return tilt_loss(
        b.velocity, reference_velocity=b.teacher, fake_velocity=b.fake, target=b.target, advantages=b.advantages
    )


def value_contrast(b: Batch) -> Tensor:
    return value_contrast_loss(b.values, rewards=b.rewards, group_index=GROUPS)


def value_regression(b: Batch) -> Tensor:
    return value_regression_loss(b.values, rewards=b.rewards)


def _student(b: Batch, reward: Tensor) -> Tensor:
    target = clean_prediction(b.x_tau, b.teacher, b.tau)
    matching = matching_direction(teacher_velocity=b.teacher, fake_velocity=b.fake, tau=b.tau)
    guidance = guidance_direction(cond_velocity=b.teacher, uncond_velocity=b.uncond, tau=b.tau)
    terms = [direction_term(b.x0_s, direction=d, x0_target=target) for d in (matching, guidance, reward)]
    return student_loss(matching=terms[0], guidance=terms[1], reward=terms[2], rewarded=b.steps > 1)


def student_velocity_reward(b: Batch) -> Tensor:
    return _student(
        b, velocity_reward_direction(surrogate_velocity=b.velocity, reference_velocity=b.teacher, tau=b.tau)
    )


def student_value_reward(b: Batch) -> Tensor:
    return _student(b, value_direction(b.gradient, rms=RunningRms().update(b.gradient), scale=0.33))


GOLDEN: dict[Callable[[Batch], Tensor], float] = {
    flow_matching: 2.987369,
    fake_score_clean_prediction: 2.17752,
    fake_score_boundary_score: 12.30088,
    group_bradley_terry: -0.1556368,
    tilt: 13.91071,
    value_contrast: 0.3741868,
    value_regression: 0.9047309,
    student_velocity_reward: 6.032336,
    student_value_reward: 5.526399,
}


@pytest.mark.parametrize("loss", GOLDEN, ids=lambda loss: loss.__name__)
def test_the_loss_is_what_it_was(loss: Callable[[Batch], Tensor]) -> None:
    assert float(loss(Batch())) == pytest.approx(GOLDEN[loss], rel=1e-5)


if __name__ == "__main__":
    for function in GOLDEN:
        print(f"    {function.__name__}: {float(function(Batch())):.7g},")
