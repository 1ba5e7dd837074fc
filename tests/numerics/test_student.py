from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.numerics.toy import filled
from trainer.diffusion.flow import clean_prediction, guided_velocity, renoise_boundary
from trainer.losses.student import (
    RunningRms,
    direction_term,
    distillation_loss,
    guidance_direction,
    matching_direction,
    student_loss,
    tilt_factor,
    value_direction,
    velocity_reward_direction,
)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 2, 3, 3)), generator=torch.Generator().manual_seed(seed))


def gaussian_velocity(x: Tensor, tau: float, *, mean: float, std: float) -> Tensor:
    """Exact velocity of clean data N(mean, std^2) at tau."""
    variance = ((1 - tau) * std) ** 2 + tau**2
    centred = x - (1 - tau) * mean
    return (tau - (1 - tau) * std**2) / variance * centred - mean


def test_directions_are_differences_of_clean_predictions() -> None:
    x_tau, one, other, tau = drawn(0), drawn(1), drawn(2), torch.tensor([0.1, 0.4, 0.7, 1.0])
    difference = clean_prediction(x_tau, one, tau) - clean_prediction(x_tau, other, tau)
    torch.testing.assert_close(matching_direction(teacher_velocity=one, fake_velocity=other, tau=tau), difference)
    torch.testing.assert_close(
        guidance_direction(cond_velocity=one, uncond_velocity=other, tau=tau), 3.5 * difference, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        velocity_reward_direction(surrogate_velocity=one, reference_velocity=other, tau=tau), difference
    )


def test_guided_teacher_is_the_conditional_one_plus_guidance() -> None:
    """x0_guided(w) - x0_uncond = w (x0_cond - x0_uncond), so matching a guided teacher is matching plus guidance."""
    cond, uncond, tau = drawn(1), drawn(2), torch.full((4,), 0.6)
    guided = guided_velocity(uncond, cond, scale=4.5)
    extra = velocity_reward_direction(surrogate_velocity=guided, reference_velocity=cond, tau=tau)
    torch.testing.assert_close(
        extra, guidance_direction(cond_velocity=cond, uncond_velocity=uncond, tau=tau, scale=3.5), atol=1e-5, rtol=1e-5
    )


def test_a_terms_value_and_gradient_are_the_direction_over_the_normaliser() -> None:
    x0_s, direction, x0_target = drawn(0).requires_grad_(True), drawn(1), drawn(2)
    term = direction_term(x0_s, direction=direction, x0_target=x0_target)
    normaliser = (x0_s - x0_target).detach().abs().flatten(1).mean(dim=1)
    torch.testing.assert_close(term, direction.square().flatten(1).mean(dim=1) / normaliser, atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(term.sum(), x0_s)
    expected = -2 * direction / (18 * normaliser.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_a_student_on_its_target_stays_finite() -> None:
    x0_s = drawn(0).requires_grad_(True)
    term = direction_term(x0_s, direction=torch.zeros(4, 2, 3, 3), x0_target=x0_s.detach())
    (gradient,) = torch.autograd.grad(term.sum(), x0_s)
    assert torch.equal(term.detach(), torch.zeros(4)) and torch.equal(gradient, torch.zeros_like(gradient))


def test_how_terms_are_joined() -> None:
    matching, guidance, reward = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]), torch.tensor([100.0, 200.0])
    terms = {"matching": matching, "guidance": guidance}
    assert float(distillation_loss(**terms)) == pytest.approx(16.5)
    full = [1 + 0.3 * 10 + 0.7 * 100, 2 + 0.3 * 20 + 0.7 * 200]
    beyond = [0.3 * 11, 0.3 * 22]
    assert float(student_loss(**terms, reward=reward)) == pytest.approx(sum(full) / 2)
    assert float(student_loss(**terms, reward=None)) == pytest.approx(sum(beyond) / 2)
    mixed = student_loss(**terms, reward=reward, rewarded=torch.tensor([True, False]))
    assert float(mixed) == pytest.approx((full[0] + beyond[1]) / 2)
    with pytest.raises(ValueError, match="no reward term"):
        student_loss(**terms, reward=None, rewarded=torch.tensor([True, False]))


def test_the_values_direction_has_the_size_asked_for_and_is_clipped_by_sample() -> None:
    gradient = drawn(0, 64, 2, 4, 4) * 1e-3
    rms = RunningRms().update(gradient)
    assert rms == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-5)  # unbiased from the first batch
    direction = value_direction(gradient, rms=rms, scale=0.33)
    assert float(direction.square().mean().sqrt()) == pytest.approx(0.33, rel=1e-4)
    outlier = gradient.clone()
    outlier[0] *= 100
    clipped = value_direction(outlier, rms=rms, scale=0.33)
    assert float(clipped[0].square().mean().sqrt()) == pytest.approx(0.66, rel=1e-4)
    torch.testing.assert_close(clipped[1:], direction[1:])
    assert torch.equal(clipped[0].sign(), gradient[0].sign())
    assert torch.equal(value_direction(gradient * 0, rms=0.0, scale=0.33), torch.zeros_like(gradient))


def test_the_values_factor_of_tau() -> None:
    tau = torch.tensor([0.3, 0.5, 0.8])
    torch.testing.assert_close(tilt_factor(tau), tau**2 / (1 - tau))
    gradient = torch.ones(3, 1, 1, 1)
    direction = value_direction(gradient, rms=1.0, scale=1.0, clip=100.0, tau=tau)
    torch.testing.assert_close(direction.flatten(), tilt_factor(tau))


def test_the_running_root_mean_square() -> None:
    running = RunningRms(decay=0.5)
    running.update(torch.full((4,), 1.0))
    running.update(torch.full((4,), 3.0))
    assert running.value == pytest.approx(((0.25 * 1 + 0.5 * 9) / 0.75) ** 0.5)
    before = running.value
    assert running.update(torch.tensor([float("nan")])) == before
    restored = RunningRms()
    restored.load_state_dict(running.state_dict())
    assert restored == running


def descend(reward_scale: float, *, steps: int = 300) -> float:
    """A one-step student that is a shifted Gaussian, descended with exact scores to where its loss leaves it.

    Teacher N(1, 0.5^2); value V(x) with slope 1 everywhere, as a gradient. Returns the student's mean.
    """
    rng = torch.Generator().manual_seed(0)
    mean = torch.tensor(-1.0, requires_grad=True)
    optimizer = torch.optim.SGD([mean], lr=0.05)
    count, std = 256, 0.5
    for _ in range(steps):
        x0_s = mean + std * torch.randn(count, 1, generator=rng)
        tau = 0.1 + 0.8 * float(torch.rand((), generator=rng))
        levels = filled(0.0, count), filled(tau, count)
        x_tau = renoise_boundary(x0_s.detach(), torch.randn(count, 1, generator=rng), *levels).x_tau
        teacher = gaussian_velocity(x_tau, tau, mean=1.0, std=std)
        fake = gaussian_velocity(x_tau, tau, mean=float(mean.detach()), std=std)
        matching = matching_direction(teacher_velocity=teacher, fake_velocity=fake, tau=levels[1])
        target = torch.full_like(x0_s, 3.0)  # a normaliser far away, so that it is nearly constant
        term = direction_term(x0_s, direction=matching, x0_target=target)
        reward = direction_term(x0_s, direction=torch.full_like(matching, reward_scale), x0_target=target)
        loss = student_loss(matching=term, guidance=term * 0, reward=reward, guidance_weight=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(mean.detach())


def test_matching_brings_the_student_to_its_teacher_and_a_reward_beyond() -> None:
    assert descend(0.0) == pytest.approx(1.0, abs=0.05)
    assert descend(0.1) > 1.1
    assert descend(-0.1) < 0.9


def test_the_matching_direction_is_known_for_gaussians() -> None:
    """x0_teacher - x0_fake at equal widths is the difference of means, shrunk by what x_tau already says."""
    tau, std = 0.6, 0.5
    x_tau = torch.linspace(-2, 2, 9)[:, None]
    direction = matching_direction(
        teacher_velocity=gaussian_velocity(x_tau, tau, mean=1.0, std=std),
        fake_velocity=gaussian_velocity(x_tau, tau, mean=-0.5, std=std),
        tau=filled(tau, 9),
    )
    prior_weight = tau**2 / (((1 - tau) * std) ** 2 + tau**2)
    torch.testing.assert_close(direction, torch.full((9, 1), 1.5 * prior_weight), atol=1e-5, rtol=1e-5)
