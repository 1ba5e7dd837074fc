from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.numerics.toy import coefficients, filled
from trainer.diffusion.flow import clean_prediction, euler_step, flow_velocity, renoise_boundary
from trainer.losses.fake_score import fake_score_loss, fake_score_target
from trainer.losses.flow_matching import flow_matching_loss

STD = 1.0
"""Of the data that the toy student was made for; its velocity is the exact one."""


def student_slope(sigma: float) -> float:
    """Exact velocity of N(0, STD^2) at sigma is slope * x."""
    return (sigma - (1 - sigma) * STD**2) / (((1 - sigma) * STD) ** 2 + sigma**2)


def regression_slope(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum() / (x * x).sum())


def slopes(sigma: float, sigma_next: float, tau: float) -> tuple[float, float, float, float]:
    """Slope in x_tau of each target's regression (by samples), and of each one's closed form."""
    count, rng = 400_000, torch.Generator().manual_seed(0)
    slope = student_slope(sigma)
    deviation = ((1 - sigma) ** 2 * STD**2 + sigma**2) ** 0.5
    z = deviation * torch.randn(count, 1, generator=rng)
    x0_s = clean_prediction(z, slope * z, filled(sigma, count))
    z_next = euler_step(z, slope * z, filled(sigma, count), filled(sigma_next, count))
    noise = torch.randn(count, 1, generator=rng)
    levels = filled(sigma_next, count), filled(tau, count)
    x_tau = renoise_boundary(z_next, noise, *levels).x_tau
    parts = {"x_tau": x_tau, "x0_s": x0_s, "z_next": z_next, "noise": noise}
    by_samples = [
        regression_slope(x_tau, fake_score_target(name, **parts, sigma_next=levels[0], tau=levels[1]))
        for name in ("clean_prediction", "boundary_score")
    ]
    a, b = coefficients(sigma_next, tau)
    per_z, per_z_next = 1 - sigma * slope, 1 - (sigma - sigma_next) * slope
    variance_next = (per_z_next * deviation) ** 2
    variance = a**2 * variance_next + b**2
    clean = (1 - a * per_z / per_z_next * variance_next / variance) / tau
    boundary = (tau / variance - 1) / (1 - tau)
    return by_samples[0], by_samples[1], clean, boundary


@pytest.mark.parametrize(("sigma", "sigma_next", "tau"), [(0.75, 0.5, 0.55), (0.75, 0.5, 0.6), (0.75, 0.5, 0.7)])
def test_the_two_targets_have_their_own_slopes_before_the_last_boundary(
    sigma: float, sigma_next: float, tau: float
) -> None:
    clean_samples, boundary_samples, clean, boundary = slopes(sigma, sigma_next, tau)
    assert clean_samples == pytest.approx(clean, abs=0.02)
    assert boundary_samples == pytest.approx(boundary, abs=0.02)
    assert clean - boundary > 0.15  # the published target is not the boundary law's own velocity


def test_the_two_targets_agree_at_the_last_boundary() -> None:
    clean_samples, boundary_samples, clean, boundary = slopes(0.5, 0.0, 0.6)
    assert clean == pytest.approx(boundary, abs=1e-5)
    assert clean_samples == pytest.approx(boundary_samples, abs=1e-5)


def test_flow_matching_and_the_fake_score_agree_on_clean_data() -> None:
    rng = torch.Generator().manual_seed(0)
    x0, noise, velocity, teacher = (torch.randn(6, 2, 3, 3, generator=rng) for _ in range(4))
    pretraining = flow_matching_loss(velocity, x0=x0, noise=noise)
    assert float(pretraining) == pytest.approx(float((noise - x0 - velocity).square().mean()))
    assert float(flow_matching_loss(flow_velocity(x0, noise), x0=x0, noise=noise)) == 0
    held = fake_score_loss(velocity, target=flow_velocity(x0, noise), teacher_velocity=teacher)
    assert float(held - pretraining) == pytest.approx(0.02 * float((teacher - velocity).square().mean()), rel=1e-3)


def test_the_minimum_lies_between_the_target_and_the_teacher() -> None:
    target, teacher = torch.full((4, 1), 1.0), torch.full((4, 1), 3.0)
    velocity = torch.full((4, 1), (1.0 + 0.02 * 3.0) / 1.02, requires_grad=True)
    fake_score_loss(velocity, target=target, teacher_velocity=teacher).backward()
    assert velocity.grad is not None
    torch.testing.assert_close(velocity.grad, torch.zeros(4, 1), atol=1e-6, rtol=0)


def test_an_unknown_target_is_refused() -> None:
    x = torch.zeros(1, 1)
    level = torch.full((1,), 0.5)
    with pytest.raises(ValueError, match="no fake score target 'other'"):
        fake_score_target("other", x_tau=x, x0_s=x, z_next=x, noise=x, sigma_next=level, tau=level)  # type: ignore[arg-type]
