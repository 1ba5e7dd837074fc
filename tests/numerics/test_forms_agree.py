"""The surrogate's forms on a mixture of two Gaussians: all find the one direction, up to a positive factor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.numerics.toy import Mixture, RadialModel, coefficients, filled
from trainer.diffusion.flow import boundary_velocity_target, renoise_boundary
from trainer.losses.advantages import group_advantages
from trainer.losses.group_bradley_terry import group_bradley_terry_loss
from trainer.losses.student import velocity_reward_direction
from trainer.losses.tilt import tilt_loss
from trainer.losses.value import scale_rewards, value_contrast_loss, value_gradient, value_regression_loss

SIGMA, TAU, GROUPS, SIZE = 0.5, 0.75, 64, 8
MIXTURE = Mixture(sigma=SIGMA)
GRID = torch.linspace(-1.2, 1.2, 49)
LossFn = Callable[[RadialModel, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(model, x_tau, target, rewards, group_index) -> loss."""


def batch(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Groups whose members share their noise: x_tau, target (E8), rewards, group_index."""
    z, rewards = MIXTURE.sample(GROUPS * SIZE, rng)
    group_index = torch.arange(GROUPS).repeat_interleave(SIZE)
    noise = torch.randn(GROUPS, 1, generator=rng)[group_index]
    levels = filled(SIGMA, GROUPS * SIZE), filled(TAU, GROUPS * SIZE)
    x_tau = renoise_boundary(z, noise, *levels).x_tau
    return x_tau, boundary_velocity_target(z, noise, *levels), rewards, group_index


def fake_velocity(x_tau: Tensor) -> Tensor:
    return MIXTURE.velocity(x_tau[:, 0], TAU).float()[:, None]


def bradley_terry(model: RadialModel, x: Tensor, target: Tensor, rewards: Tensor, group_index: Tensor) -> Tensor:
    reference = fake_velocity(
        x
    )  # a surrogate that starts as the student's own law, so that nothing but reward moves it
    velocity = reference + model(x)[:, None]
    return group_bradley_terry_loss(
        velocity,
        target=target,
        reference_velocity=reference,
        lagged_velocity=velocity.detach(),
        teacher_velocity=reference,
        advantages=group_advantages(rewards, group_index).values,
        group_index=group_index,
        beta=1.0,
        drift_weight=0.3,  # without it there is no minimum to compare with
        drift_limit=torch.inf,
    ).loss


def tilt(model: RadialModel, x: Tensor, target: Tensor, rewards: Tensor, group_index: Tensor) -> Tensor:
    reference = fake_velocity(x)
    return tilt_loss(
        reference + model(x)[:, None],
        reference_velocity=reference,
        fake_velocity=reference,
        target=target,
        advantages=group_advantages(rewards, group_index).values,
    )


def contrast(model: RadialModel, x: Tensor, _target: Tensor, rewards: Tensor, group_index: Tensor) -> Tensor:
    return value_contrast_loss(model(x), rewards=rewards, group_index=group_index)


def regression(model: RadialModel, x: Tensor, _target: Tensor, rewards: Tensor, _group_index: Tensor) -> Tensor:
    return value_regression_loss(model(x), rewards=scale_rewards(rewards, reward_min=0.0, reward_max=1.0))


def fitted(loss_fn: LossFn) -> RadialModel:
    rng = torch.Generator().manual_seed(0)
    model = RadialModel()
    steps = 400
    optimizer = torch.optim.Adam([model.weights], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(model, *batch(rng)).backward()
        optimizer.step()
        schedule.step()
    return model


def velocity_direction(model: RadialModel, x: Tensor) -> Tensor:
    reference = fake_velocity(x[:, None])
    with torch.no_grad():
        surrogate = reference + model(x[:, None])[:, None]
    tau = filled(TAU, len(x))
    return velocity_reward_direction(surrogate_velocity=surrogate, reference_velocity=reference, tau=tau)[:, 0]


def value_form_direction(model: RadialModel, x: Tensor) -> Tensor:
    x = x[:, None].clone().requires_grad_(True)
    return TAU**2 / (1 - TAU) * value_gradient(model(x), x)[:, 0]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))


def test_the_values_gradient_is_the_covariance_of_boundary_and_reward() -> None:
    """grad V = (a / b^2) Cov(z, r | x_tau): the autograd of the closed form against quadrature."""
    a, b = coefficients(SIGMA, TAU)
    for x in (-0.8, 0.1, 0.6):
        z, weights, reward = MIXTURE.posterior(x, TAU)
        mean_z, mean_r = (weights * z).sum(), (weights * reward).sum()
        covariance = float((weights * (z - mean_z) * (reward - mean_r)).sum())
        assert float(MIXTURE.value(torch.tensor([x]), TAU)) == pytest.approx(float(mean_r), abs=1e-5)
        assert float(MIXTURE.value_slope(torch.tensor([x]), TAU)) == pytest.approx(a / b**2 * covariance, rel=1e-4)


def test_the_tilts_target_averages_to_the_same_direction() -> None:
    """E[r (v* - v_fake) | x_tau] = -tau / (1 - tau) grad V, exactly because v_fake is the mean of v* (E8)."""
    a, b = coefficients(SIGMA, TAU)
    for x in (-0.8, 0.1, 0.6):
        z, weights, reward = MIXTURE.posterior(x, TAU)
        levels = filled(SIGMA, len(z)), filled(TAU, len(z))
        target = boundary_velocity_target(z[:, None], ((x - a * z) / b)[:, None], *levels)[:, 0].double()
        point = torch.tensor([x])
        mean = float((weights * reward * (target - MIXTURE.velocity(point, TAU))).sum())
        assert mean == pytest.approx(-TAU / (1 - TAU) * float(MIXTURE.value_slope(point, TAU)), abs=2e-4)


@pytest.mark.parametrize(
    ("loss_fn", "direction", "likeness"),
    [
        (bradley_terry, velocity_direction, 0.95),
        (tilt, velocity_direction, 0.95),
        (regression, value_form_direction, 0.99),
        (contrast, value_form_direction, 0.9),  # a contrast learns a monotone curve of the value, not its size
    ],
    ids=["E9", "E11", "E12b", "E12a"],
)
def test_every_form_finds_the_known_direction(
    loss_fn: LossFn, direction: Callable[[RadialModel, Tensor], Tensor], likeness: float
) -> None:
    model = fitted(loss_fn)
    known = TAU**2 / (1 - TAU) * MIXTURE.value_slope(GRID, TAU)
    found = direction(model, GRID)
    assert (found > 0).all()  # a positive factor of the known one, which is positive everywhere
    assert cosine(found, known) > likeness
    assert known.min() > 0


@pytest.mark.parametrize("loss_fn", [regression, contrast], ids=["E12b", "E12a"])
def test_a_value_orders_samples_as_the_known_value_does(loss_fn: LossFn) -> None:
    model = fitted(loss_fn)
    with torch.no_grad():
        values = model(GRID[:, None])
    assert (values.diff() > 0).all()  # E[r | x_tau] rises with x_tau
    if loss_fn is regression:
        torch.testing.assert_close(values.double() + 0.5, MIXTURE.value(GRID, TAU), atol=0.06, rtol=0)


@pytest.mark.parametrize("loss_fn", [bradley_terry, tilt], ids=["E9", "E11"])
def test_a_velocity_form_orders_samples_by_its_implicit_reward(loss_fn: LossFn) -> None:
    model = fitted(loss_fn)
    rng = torch.Generator().manual_seed(7)
    x, target, rewards, group_index = batch(rng)
    reference = fake_velocity(x)
    with torch.no_grad():
        velocity = reference + model(x)[:, None]
    implicit = ((target - reference).square() - (target - velocity).square())[:, 0]
    same_group = group_index[:, None] == group_index[None, :]
    better = (rewards[:, None] > rewards[None, :]) & same_group
    rightly = implicit[:, None] > implicit[None, :]
    assert float(rightly[better].float().mean()) > 0.7
