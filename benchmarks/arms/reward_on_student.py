"""TDM with the reward's loss on the few-step student itself, and TDM alone. Never to train with: here to be compared.

A denoising loss on the student fights the matching term, and pictures blur (`trainer.losses.student`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from trainer.algorithms.draws import Draws
from trainer.algorithms.student_steps import Pull, Start, StudentStep
from trainer.algorithms.surrogates import Surrogate
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.algorithms.velocity_surrogate import VelocitySurrogate

__all__ = ["MatchingAlone", "RewardOnStudent"]


class MatchingAlone(TdmR1):
    """The student learns what `Tdm` teaches, matching and guidance (E10), whatever the surrogate says."""

    def _pulls(self, start: Start, steps: Sequence[StudentStep], pieces: Sequence[slice], draws: Draws) -> list[Pull]:
        return super(TdmR1, self)._pulls(start, steps, pieces, draws)

    def _student_loss(self, step: StudentStep, pull: Pull) -> Tensor:
        return super(TdmR1, self)._student_loss(step, pull)

    def _pull_figures(self, pulls: Sequence[Pull]) -> dict[str, float]:
        return super(TdmR1, self)._pull_figures(pulls)


class RewardOnStudent(MatchingAlone):
    """What would be the surrogate's update by group Bradley-Terry (E9) is the student's own.

    Its reference, and what holds it back, is the student that the run began with. Updates by reward and by matching
    take turns, each with an optimiser of its own.
    """

    def _new_surrogate(self, weights: Path | None) -> Surrogate:
        del weights
        return VelocitySurrogate(self.recipe, self.family, roles=self.roles, workers=self.workers, network=self.student)

    def _networks(self) -> dict[str, nn.Module]:
        networks = super()._networks()
        del networks["surrogate"]  # the student, which has a name already
        return networks
