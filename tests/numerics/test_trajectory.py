from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainer.diffusion.schedule import step_sigmas
from trainer.diffusion.trajectory import sample_guided, sample_stochastic, sample_trajectory


def gaussian_velocity(mean: float, std: float):
    """Exact velocity of a Gaussian law."""

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, 1, 1, 1)
        variance = ((1 - level) * std) ** 2 + level**2
        x0 = mean + (1 - level) * std**2 / variance * (x - (1 - level) * mean)
        noise = level / variance * (x - (1 - level) * mean)
        return noise - x0

    return velocity


def test_a_trajectory_keeps_every_boundary() -> None:
    noise = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[float, ...]] = []

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(tuple(sigma.tolist()))
        return x * 0.5

    trajectory = sample_trajectory(velocity, noise, step_sigmas(4, shift=3.0))
    assert trajectory.boundaries.shape == (3, 5, 2, 4, 4)
    assert trajectory.num_steps == len(seen) == 4
    assert [levels[0] for levels in seen] == pytest.approx([1.0, 0.9, 0.75, 0.5])
    assert torch.equal(trajectory.boundaries[:, 0], noise)
    factors = [1 - 0.5 * step for step in (0.1, 0.15, 0.25, 0.5)]
    torch.testing.assert_close(trajectory.latents, noise * torch.tensor(factors).prod())


def test_one_straight_path_is_exact_in_any_number_of_steps() -> None:
    noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    x0 = torch.full_like(noise, 0.3)
    for num_steps in (1, 4):
        latents = sample_trajectory(lambda x, sigma: noise - x0, noise, step_sigmas(num_steps, shift=3.0)).latents
        torch.testing.assert_close(latents, x0, atol=1e-6, rtol=0)


def test_many_steps_sample_a_gaussian() -> None:
    noise = torch.randn(20000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    latents = sample_trajectory(gaussian_velocity(0.8, 0.3), noise, step_sigmas(100, shift=3.0)).latents
    assert float(latents.mean()) == pytest.approx(0.8, abs=0.01)
    assert float(latents.std()) == pytest.approx(0.3, rel=0.05)  # 100 Euler steps fall 4 % short


def test_a_stochastic_step_noises_the_clean_prediction_anew() -> None:
    rng = torch.Generator().manual_seed(0)
    noise, fresh = torch.randn(2, 1, 2, 2, generator=rng), torch.randn(2, 4, 1, 2, 2, generator=rng)
    x0 = torch.full_like(noise, 0.3)
    sigmas = step_sigmas(4, shift=3.0)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return (x - x0) / sigma.reshape(-1, 1, 1, 1)  # predicts x0 from anywhere

    trajectory = sample_stochastic(velocity, noise, sigmas, fresh=fresh)
    assert torch.equal(trajectory.boundaries[:, 0], noise)
    for k, sigma in enumerate(sigmas[1:].tolist()):
        expected = (1 - sigma) * x0 + sigma * fresh[:, k]
        torch.testing.assert_close(trajectory.boundaries[:, k + 1], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(trajectory.latents, x0, atol=1e-6, rtol=0)


def test_many_stochastic_steps_sample_a_gaussian() -> None:
    rng = torch.Generator().manual_seed(0)
    noise, fresh = torch.randn(20000, 1, 1, 1, generator=rng), torch.randn(20000, 4, 1, 1, 1, generator=rng)
    sharp = sample_stochastic(gaussian_velocity(0.8, 0.0), noise, step_sigmas(4, shift=3.0), fresh=fresh).latents
    torch.testing.assert_close(sharp, torch.full_like(sharp, 0.8), atol=1e-5, rtol=0)
    wide = sample_stochastic(gaussian_velocity(0.8, 0.3), noise, step_sigmas(4, shift=3.0), fresh=fresh)
    assert float(wide.latents.mean()) == pytest.approx(0.8, abs=0.01)
    first = wide.boundaries[:, 0].flatten()
    assert abs(float(torch.corrcoef(torch.stack([first, wide.latents.flatten()]))[0, 1])) < 0.1  # its start says little


def test_guidance_of_one_is_the_conditional_model_and_costs_two_forwards() -> None:
    noise = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    forwards = []

    def uncond(x: Tensor, sigma: Tensor) -> Tensor:
        forwards.append(1)
        return x

    cond = gaussian_velocity(0.8, 0.3)
    guided = sample_guided(cond, uncond, noise, num_steps=40, guidance_scale=1.0, shift=3.0)
    plain = sample_trajectory(cond, noise, step_sigmas(40, shift=3.0)).latents
    torch.testing.assert_close(guided, plain)
    assert len(forwards) == 40


def test_sampling_carries_no_gradient() -> None:
    noise = torch.randn(2, 1, 2, 2, requires_grad=True)
    assert not sample_trajectory(lambda x, sigma: x, noise, step_sigmas(2, shift=3.0)).boundaries.requires_grad


@pytest.mark.parametrize("sigmas", [[1.0], [0.9, 0.0], [1.0, 0.5], [1.0, 0.5, 0.5, 0.0], [1.0, 0.2, 0.4, 0.0]])
def test_levels_must_fall_from_one_to_zero(sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match="fall strictly"):
        sample_trajectory(lambda x, sigma: x, torch.zeros(1, 1, 1, 1), torch.tensor(sigmas))
