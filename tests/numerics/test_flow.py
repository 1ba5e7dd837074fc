from __future__ import annotations

import pytest
import torch

from tests.numerics.toy import Mixture, coefficients, filled
from trainer.diffusion.flow import (
    add_noise,
    boundary_velocity_target,
    clean_prediction,
    draw_noise,
    euler_step,
    flow_velocity,
    guided_velocity,
    renoise_boundary,
    renoise_coefficients,
)

SHAPE = (5, 2, 3, 3)
LEVELS = torch.tensor([0.05, 0.3, 0.5, 0.9, 1.0])


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_noising_and_its_velocity_are_consistent() -> None:
    x0, noise = drawn(0), drawn(1)
    x = add_noise(x0, noise, LEVELS)
    velocity = flow_velocity(x0, noise)
    assert torch.equal(add_noise(x0, noise, torch.ones(5)), noise)
    assert torch.equal(add_noise(x0, noise, torch.zeros(5)), x0)
    torch.testing.assert_close(clean_prediction(x, velocity, LEVELS), x0)
    # The velocity is the derivative of x_sigma in sigma (finite difference, exact for a straight line).
    step = 1e-2
    torch.testing.assert_close((x - add_noise(x0, noise, LEVELS - step)) / step, velocity, atol=1e-4, rtol=1e-3)


def test_a_step_along_the_true_velocity_stays_on_the_path() -> None:
    x0, noise = drawn(0), drawn(1)
    x = add_noise(x0, noise, LEVELS)
    lower = LEVELS * 0.5
    torch.testing.assert_close(euler_step(x, flow_velocity(x0, noise), LEVELS, lower), add_noise(x0, noise, lower))


def test_a_step_to_zero_is_the_clean_prediction() -> None:
    x, velocity = drawn(0), drawn(1)
    torch.testing.assert_close(euler_step(x, velocity, LEVELS, torch.zeros(5)), clean_prediction(x, velocity, LEVELS))


def test_guidance() -> None:
    uncond, cond = drawn(0), drawn(1)
    torch.testing.assert_close(guided_velocity(uncond, cond, scale=1.0), cond)
    torch.testing.assert_close(guided_velocity(uncond, cond, scale=0.0), uncond)
    torch.testing.assert_close(guided_velocity(uncond, cond, scale=3.0), 3 * cond - 2 * uncond)


def test_renoising_is_what_two_noisings_compose_to() -> None:
    """A state at sigma, noised on to tau, has the law of x0 noised to tau at once: same mean, same variance."""
    sigma, tau = torch.tensor([0.0, 0.1, 0.5, 0.75, 0.9]), torch.tensor([0.4, 0.5, 0.6, 0.8, 0.95])
    a, b = renoise_coefficients(sigma, tau)
    torch.testing.assert_close(a * (1 - sigma), 1 - tau)  # weight of x0
    torch.testing.assert_close((a * sigma) ** 2 + b**2, tau**2)  # variance of all noise
    count = 200_000
    rng = torch.Generator().manual_seed(0)
    for s, t in zip(sigma.tolist(), tau.tolist(), strict=True):
        x0 = 0.7 * torch.ones(count, 1)
        noises = [torch.randn(count, 1, generator=rng) for _ in range(2)]
        z = add_noise(x0, noises[0], filled(s, count))
        x_tau = renoise_boundary(z, noises[1], filled(s, count), filled(t, count)).x_tau
        assert float(x_tau.mean()) == pytest.approx(0.7 * (1 - t), abs=0.01)
        assert float(x_tau.std()) == pytest.approx(t, rel=0.01)


def test_renoising_to_the_boundarys_own_level_changes_nothing() -> None:
    z, noise, sigma = drawn(0), drawn(1), torch.tensor([0.0, 0.2, 0.5, 0.75, 0.9])
    renoised = renoise_boundary(z, noise, sigma, sigma)
    assert torch.equal(renoised.x_tau, z)
    assert torch.equal(renoised.b, torch.zeros(5))


def test_the_boundary_target_is_the_plain_velocity_at_a_clean_boundary() -> None:
    z, noise = drawn(0), drawn(1)
    target = boundary_velocity_target(z, noise, torch.zeros(5), LEVELS)
    torch.testing.assert_close(target, flow_velocity(z, noise), atol=1e-6, rtol=1e-6)


def test_how_large_the_boundary_target_gets_near_its_bound() -> None:
    noise = torch.ones(1, 1)
    target = boundary_velocity_target(torch.zeros(1, 1), noise, torch.tensor([0.9]), torch.tensor([0.9094]))
    assert float(target) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(("sigma", "tau"), [(0.0, 0.3), (0.5, 0.6), (0.5, 0.9), (0.75, 0.8)])
def test_the_boundary_target_averages_to_the_velocity_of_the_boundarys_own_law(sigma: float, tau: float) -> None:
    mixture = Mixture(sigma=sigma)
    a, b = coefficients(sigma, tau)
    for x in (-1.0, 0.1, 0.8):
        z, weights, _ = mixture.posterior(x, tau)
        noise = (x - a * z) / b
        count = z.shape[0]
        target = boundary_velocity_target(z[:, None], noise[:, None], filled(sigma, count), filled(tau, count))
        mean = float((weights * target[:, 0].double()).sum())
        assert mean == pytest.approx(float(mixture.velocity(torch.tensor([x]), tau)), abs=2e-4)


def test_everything_is_float32_and_checks_its_shapes() -> None:
    half, level = drawn(0).bfloat16(), torch.full((5,), 0.5)
    assert add_noise(half, half, level).dtype == torch.float32
    assert euler_step(half, half, level, level).dtype == torch.float32
    assert boundary_velocity_target(half, half, level * 0, level).dtype == torch.float32
    with pytest.raises(ValueError, match="one value per sample"):
        add_noise(half, half, torch.tensor(0.5))
    with pytest.raises(ValueError, match="one value per sample"):
        clean_prediction(half, half, level[:, None])
    with pytest.raises(ValueError, match="only be noised further"):
        renoise_boundary(half, half, level, level - 0.1)
    with pytest.raises(ValueError, match="one shape"):
        renoise_coefficients(level, level[:3])


def test_a_group_shares_its_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = draw_noise(torch.zeros(4, 2, 3, 3), rng=rng, group_index=torch.tensor([0, 0, 1, 1]))
    assert torch.equal(noise[0], noise[1]) and torch.equal(noise[2], noise[3])
    assert not torch.equal(noise[0], noise[2])
    assert draw_noise(noise, rng=rng).shape == noise.shape
