"""What a student's update computes on the way: where a step begins, where it leads, and where that is drawn to.

Axis legend: B samples, K steps, C/H/W latent.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainer.models.sd3 import Conditioning

__all__ = ["Pull", "Start", "StudentStep"]


@dataclass(frozen=True)
class Start:
    """Where a step k -> k+1 of the student begins, for every sample."""

    k: Tensor
    """[B] int64."""
    z: Tensor
    """[B, C, H, W] float32: boundary k."""
    sigma: Tensor
    sigma_next: Tensor
    """[B] float32."""
    cond: Conditioning
    shortfall: Tensor
    """[B] float32 in [0, 1]: what each sample's reward lacks; 1 where that is not asked for."""

    def __getitem__(self, rows: slice) -> Start:
        return Start(
            self.k[rows],
            self.z[rows],
            self.sigma[rows],
            self.sigma_next[rows],
            self.cond[rows],
            self.shortfall[rows],
        )


@dataclass(frozen=True)
class StudentStep:
    """One step of the student for every sample, each at a step of its own."""

    k: Tensor
    """[B] int64: the step is k -> k+1."""
    z_next: Tensor
    """[B, C, H, W] float32, detached (E4)."""
    x0_s: Tensor
    """[B, C, H, W] float32, with the student's gradient where it was asked for (E3)."""
    sigma_next: Tensor
    """[B] float32."""
    cond: Conditioning


@dataclass(frozen=True)
class Pull:
    """Where samples are drawn to, in clean-prediction space [B, C, H, W], and what that is measured against (E10)."""

    matching: Tensor
    guidance: Tensor
    x0_target: Tensor
    """The guided teacher's clean prediction."""
    reward: Tensor | None = None
    reward_target: Tensor | None = None
    """What the reward is measured against, if that is not the guided teacher."""
