from __future__ import annotations

import pytest
import torch

from trainer.diffusion.schedule import (
    draw_boundary_steps,
    draw_tau,
    pipeline_sigmas,
    shift_sigma,
    sigma_from_timestep,
    step_sigmas,
    timestep_from_sigma,
    unshift_sigma,
)


@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0, 6.0])
def test_the_shift_and_its_inverse(shift: float) -> None:
    u = torch.linspace(0, 1, 101)
    sigma = shift_sigma(u, shift=shift)
    assert sigma[0] == 0 and sigma[-1] == 1
    torch.testing.assert_close(unshift_sigma(sigma, shift=shift), u, atol=1e-6, rtol=0)
    # The shift is the noise-to-signal ratio times s: sigma / (1 - sigma) = s * u / (1 - u).
    torch.testing.assert_close(sigma[1:-1] / (1 - sigma[1:-1]), shift * u[1:-1] / (1 - u[1:-1]), rtol=1e-4, atol=1e-5)


def test_four_steps_at_shift_three() -> None:
    sigmas = step_sigmas(4, shift=3.0)
    torch.testing.assert_close(sigmas, torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))
    assert sigmas[0] == 1 and sigmas[-1] == 0
    assert pipeline_sigmas([1.0, 0.9, 0.75, 0.5, 0.0], shift=3.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert pipeline_sigmas(sigmas, shift=1.0) == pytest.approx([1.0, 0.9, 0.75, 0.5])


def test_a_diffusers_scheduler_then_samples_at_our_levels() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    sigmas = step_sigmas(4, shift=3.0)
    for scheduler_shift in (1.0, 3.0):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=scheduler_shift)
        scheduler.set_timesteps(sigmas=pipeline_sigmas(sigmas, shift=scheduler_shift))
        torch.testing.assert_close(scheduler.sigmas, sigmas)
        torch.testing.assert_close(scheduler.timesteps, timestep_from_sigma(sigmas[:-1]))


def test_timesteps() -> None:
    sigma = torch.tensor([0.0, 0.25, 1.0])
    assert timestep_from_sigma(sigma).tolist() == [0.0, 250.0, 1000.0]
    torch.testing.assert_close(sigma_from_timestep(timestep_from_sigma(sigma)), sigma)
    assert timestep_from_sigma(sigma.bfloat16()).dtype == torch.float32


def test_tau_is_uniform_in_the_unshifted_coordinate_above_the_boundary() -> None:
    rng = torch.Generator().manual_seed(0)
    for sigma in (0.0, 0.5, 0.9):
        boundary = torch.full((20000,), sigma)
        u = unshift_sigma(draw_tau(boundary, shift=3.0, rng=rng), shift=3.0)
        lower = float(unshift_sigma(boundary[:1], shift=3.0)) + 0.02
        assert u.min() >= lower - 1e-6 and u.max() <= 1
        assert float(u.mean()) == pytest.approx((lower + 1) / 2, abs=0.01)
        assert float(u.var()) == pytest.approx((1 - lower) ** 2 / 12, rel=0.03)


def test_the_low_favoured_draw() -> None:
    rng = torch.Generator().manual_seed(0)

    def draw(sigma: float) -> torch.Tensor:
        tau = draw_tau(torch.full((20000,), sigma), shift=3.0, rng=rng, lower_u=0.3, upper_u=0.9, power=2.0)
        return unshift_sigma(tau, shift=3.0)

    u = draw(0.0)
    assert float(u.mean()) == pytest.approx(0.3 + 0.6 / 3, abs=0.01)  # E[rand^2] = 1/3
    assert u.min() >= 0.3 - 1e-6 and u.max() <= 0.9 + 1e-6
    high = draw(0.9)  # u = .75: its own bound is the higher one
    assert high.min() >= 0.77 - 1e-6 and high.max() <= 0.9 + 1e-6
    above = draw(0.97)  # u = .915: beyond the range asked for
    assert above.min() >= 0.935 - 1e-3 and above.max() <= 0.955 + 1e-3


def test_a_group_shares_its_draw() -> None:
    rng = torch.Generator().manual_seed(0)
    group_index = torch.tensor([0, 0, 1, 1, 2, 2])
    tau = draw_tau(torch.zeros(6), shift=3.0, rng=rng, group_index=group_index)
    assert torch.equal(tau[0::2], tau[1::2])
    assert len(set(tau.tolist())) == 3


def test_later_boundaries_are_drawn_more_often() -> None:
    rng = torch.Generator().manual_seed(0)
    share = torch.bincount(draw_boundary_steps(40000, 4, rng=rng), minlength=4) / 40000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.01, rtol=0)


def test_what_is_no_schedule_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="shift"):
        shift_sigma(torch.zeros(1), shift=0.0)
    with pytest.raises(ValueError, match="at least 1 step"):
        step_sigmas(0, shift=3.0)
    with pytest.raises(ValueError, match="lower_u"):
        draw_tau(torch.zeros(2), shift=3.0, rng=rng, lower_u=0.9, upper_u=0.3)
    with pytest.raises(ValueError, match="one a sample"):
        draw_tau(torch.zeros(2), shift=3.0, rng=rng, group_index=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\[B\]"):
        draw_tau(torch.zeros(2, 1), shift=3.0, rng=rng)
