"""The arms of `benchmarks.ablations`: each a name, a sentence, and overrides of the demo's recipe; and what is asked.

What the recipe cannot say has a class in this folder. The sources of the findings are the publications that
docs/equations.md names; those marked as this project's are decisions 0004 and 0017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import nn

from benchmarks.arms.elsewhere import Elsewhere, waited_for
from benchmarks.arms.reward_on_student import MatchingAlone, RewardOnStudent
from benchmarks.arms.stochastic import StochasticTdmR1, stochastic_sampler
from benchmarks.arms.tuned_teacher import TunedTeacher
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.evaluate import Sampler
from trainer.feedback import Feedback
from trainer.in_process_feedback import InProcessFeedback, InProcessOracle
from trainer.models.sd3 import Sd3Family
from trainer.samplers import student_sampler

__all__ = ["ARMS", "BASE", "FINDINGS", "FORMS", "PANELS", "PAPER", "START", "Arm", "Finding", "Stage"]

MakeFeedback = Callable[[Mapping[str, InProcessOracle]], Feedback]
MakeSampler = Callable[..., tuple[Sampler, int]]

START: Final = "start"
"""The shared student, before any arm."""
BASE: Final = ("feedback.max_inflight=1", "feedback.max_free_updates=0", "run.checkpoints_kept=1")
"""Of every arm, on the demo's recipe: oracles are called in this process, and nothing overlaps."""


@dataclass(frozen=True)
class Stage:
    """One run of the loop."""

    name: str = "run"
    share: float = 1.0
    """Of the arm's time."""
    overrides: tuple[str, ...] = ()
    algorithm: type[TdmR1] = TdmR1
    feedback: MakeFeedback = InProcessFeedback
    kept: str = "ema_student"
    """The network that is left behind, by its name in a checkpoint."""
    teaches_next: bool = False
    """It is the next stage's teacher."""


@dataclass(frozen=True)
class Arm:
    """One line of the table."""

    name: str
    says: str
    stages: tuple[Stage, ...]
    sampler: MakeSampler = field(default=student_sampler)
    """(family, network, num_steps=) -> how its student is sampled, and the NFE."""

    def sample_with(self, family: Sd3Family, network: nn.Module, *, num_steps: int) -> tuple[Sampler, int]:
        return self.sampler(family, network, num_steps=num_steps)


@dataclass(frozen=True)
class Finding:
    """Something to be seen or not: the held-out accuracy of `higher` less that of `lower`."""

    says: str
    source: str
    higher: str
    lower: str
    directed: bool = True
    """False: nobody says which is higher."""


def _arm(name: str, says: str, *overrides: str, feedback: MakeFeedback = InProcessFeedback) -> Arm:
    return Arm(name, says, (Stage(overrides=overrides, feedback=feedback),))


_VELOCITY: Final = (
    "algorithm.surrogate.fresh_share=1",
    "algorithm.surrogate.initial_weights=teacher",
    "algorithm.surrogate.tau={lower: 0.02, upper: 1.0}",
    "algorithm.surrogate.optimizer={learning_rate: 1.0e-4, betas: [0.0, 0.999]}",
    "algorithm.student.reward_tau={lower: 0.25, upper: 1.0}",
)
"""What the forms that are velocities learn with; they have no bank and no warm start."""
_E9: Final = ("algorithm.surrogate.form=group_bradley_terry", *_VELOCITY)
_COLD: Final = "algorithm.surrogate.initial_weights=teacher"
_NO_BANK: Final = ("algorithm.surrogate.fresh_share=1", "store.bank_groups=0")
_UNREWARDED: Final = "algorithm.surrogate.updates_per_iteration=0"
_STILL: Final = ("algorithm.fake_score.updates_per_iteration=0", "algorithm.student.updates_per_iteration=0")

_ALL: Final = (
    _arm("tdm_r1", "TDM-R1: the demo's recipe, value by contrast with a warm surrogate and the bank"),
    Arm(
        "matching_alone",
        "TDM for as long, on the same groups; no reward is learnt from",
        (Stage(overrides=(_UNREWARDED,), algorithm=MatchingAlone),),
    ),
    Arm(
        "reward_on_student",
        "TDM, and the reward's loss (E9) on the student itself",
        (Stage(overrides=_E9, algorithm=RewardOnStudent),),
    ),
    Arm(
        "tuned_teacher",
        "half the time DGPO on the teacher, half the time TDM from it without rewards",
        (
            Stage(
                name="tune",
                share=0.5,
                overrides=(*_E9, *_STILL, "algorithm.student.rl_cfg=4.5"),
                algorithm=TunedTeacher,
                kept="surrogate",
                teaches_next=True,
            ),
            Stage(
                name="distil",
                share=0.5,
                overrides=(_UNREWARDED, "algorithm.surrogate.fresh_share=1"),
                algorithm=MatchingAlone,
            ),
        ),
    ),
    Arm(
        "stochastic",
        "TDM-R1, its student sampled stochastically in training and evaluation",
        (Stage(algorithm=StochasticTdmR1),),
        sampler=stochastic_sampler,
    ),
    _arm("e9", "group Bradley-Terry (E9), cold, frozen reference", *_E9),
    _arm(
        "e11",
        "tilt (E11), cold",
        "algorithm.surrogate.form=tilt",
        "algorithm.fake_score.target=boundary_score",
        *_VELOCITY,
    ),
    _arm("e12a", "value by contrast (E12a), cold, with the bank", _COLD),
    _arm(
        "e12b",
        "value by regression (E12b), cold, with the bank",
        "algorithm.surrogate.form=value_regression",
        _COLD,
    ),
    _arm("e12a_no_bank", "value by contrast (E12a), cold, present groups alone", _COLD, *_NO_BANK),
    _arm(
        "e12b_no_bank",
        "value by regression (E12b), cold, present groups alone",
        "algorithm.surrogate.form=value_regression",
        _COLD,
        *_NO_BANK,
    ),
    _arm(
        "frozen_surrogate",
        "TDM-R1, its warm surrogate never learning again",
        _UNREWARDED,
    ),
    _arm(
        "dynamic_reference",
        "group Bradley-Terry (E9), cold, its reference an average of itself, beta 2000",
        *_E9,
        "algorithm.surrogate.reference=surrogate_ema",
        "algorithm.surrogate.beta=2000",
    ),
    _arm(
        "every_boundary",
        "TDM-R1, each boundary credited with its own clean prediction's reward",
        "feedback.pictures=every_boundary",
    ),
    _arm(
        "both_credits",
        "TDM-R1, each boundary credited with the mean of its own and the end's reward",
        "feedback.pictures=both",
    ),
    _arm(
        "overlapped",
        "TDM-R1, oracles 5 s away, reward-free updates while they answer",
        "feedback.max_free_updates=2",
        feedback=Elsewhere,
    ),
    _arm("waiting", "TDM-R1, oracles 5 s away, waited for with idle hands", feedback=waited_for),
    _arm(
        "min_spread",
        "TDM-R1, groups left out whose rewards spread less than 0.3",
        "algorithm.surrogate.min_spread=0.3",
    ),
    _arm(
        "shortfall",
        "TDM-R1, each picture pulled by what its own reward lacks, as much over all",
        "algorithm.student.reward_weighting=shortfall",
    ),
)
ARMS: Final[dict[str, Arm]] = {arm.name: arm for arm in _ALL}
PAPER: Final = ("tdm_r1", "matching_alone", "reward_on_student", "tuned_teacher", "stochastic")
"""The publication's own arms and plain TDM, which get several seeds."""
FORMS: Final = ("e9", "e11", "e12a", "e12b", "e12a_no_bank", "e12b_no_bank")
"""Compared at equal wall time and at equal oracle calls."""

_TDM_R1: Final = "TDM-R1"
_OURS: Final = "this project"
FINDINGS: Final = (
    Finding("TDM-R1 raises the few-step student", _TDM_R1, "tdm_r1", START),
    Finding("that is the rewards, and not more of TDM", _OURS, "tdm_r1", "matching_alone"),
    Finding("the reward's loss on the student itself gains little, then harms", _TDM_R1, "tdm_r1", "reward_on_student"),
    Finding("a tuned teacher, distilled, meets an early ceiling", _TDM_R1, "tdm_r1", "tuned_teacher"),
    Finding("stochastic sampling converges more slowly", _TDM_R1, "tdm_r1", "stochastic"),
    Finding("a frozen surrogate is slower and ends lower", _TDM_R1, "tdm_r1", "frozen_surrogate"),
    Finding("the reference should follow the surrogate", _TDM_R1, "dynamic_reference", "e9"),
    Finding("the end's reward is each boundary's own, exactly", _TDM_R1, "tdm_r1", "every_boundary"),
    Finding("the same against the mean of both credits", _TDM_R1, "tdm_r1", "both_credits"),
    Finding("a value learns from fewer scored samples than a preference", _OURS, "e12a", "e9"),
    Finding("a value learns from fewer scored samples than a tilt", _OURS, "e12a", "e11"),
    Finding("contrast and regression of a value differ", _OURS, "e12a", "e12b", directed=False),
    Finding("a value by contrast gains by replay", _OURS, "e12a", "e12a_no_bank"),
    Finding("a value by regression gains by replay", _OURS, "e12b", "e12b_no_bank"),
    Finding("reward-free updates are worth their while while oracles answer", _TDM_R1, "overlapped", "waiting"),
    Finding("leaving out groups of little spread matters", _OURS, "min_spread", "tdm_r1", directed=False),
    Finding("weighing by what lacks learns at another pace", _OURS, "shortfall", "tdm_r1", directed=False),
)
PANELS: Final = {
    "The publication's arms": PAPER,
    "Forms of the surrogate": ("e9", "e11", "e12a", "e12b"),
    "The replay bank": ("e12a", "e12a_no_bank", "e12b", "e12b_no_bank"),
    "What keeps learning": ("tdm_r1", "frozen_surrogate", "e9", "dynamic_reference"),
    "Credit": ("tdm_r1", "every_boundary", "both_credits"),
    "Overlap": ("overlapped", "waiting"),
    "Group selection": ("tdm_r1", "min_spread"),
    "Weighting": ("tdm_r1", "shortfall"),
}
"""Of the figure: every arm is in one of them."""
