"""The preference queue without its service: groups become comparisons, choices become rewards, all in this process.

`WithRaters` is a trainer's feedback: oracles of this process answer at once, and raters work whenever the policy
version grows. What waits is kept, so that a run that was ended goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.raters import Choice, Comparison, Raters, replace_json
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.strict_json import load_json
from trainer.feedback import GroupFeedback, PictureGroup
from trainer.in_process_feedback import InProcessFeedback, InProcessOracle

__all__ = ["ChoicesInProcess", "WithRaters", "bradley_terry"]

_PRIOR = 0.3
"""Weight of the squared strengths: a picture that always won is not infinitely good."""


def bradley_terry(outcomes: Sequence[tuple[int, int, float]], size: int) -> NDArray[np.float64]:
    """Rewards of a group's pictures: the chance of being preferred to another of the group, by strengths that explain
    the choices best.

    Equation: maximise sum log p - 0.15 * sum s_i^2 with p = sigmoid(s_i - s_j); reward_i = mean_j sigmoid(s_i - s_j)
    `outcomes`: (i, j, 1 if i was preferred, 0 if j was, 0.5 for a tie). Shapes: returns [size] in (0, 1)
    """
    strength = np.zeros(size)
    for _ in range(30):  # Newton's steps; the function is concave
        gradient, curvature = -_PRIOR * strength, _PRIOR * np.eye(size)
        for i, j, won in outcomes:
            p = 1 / (1 + np.exp(strength[j] - strength[i]))
            gradient[[i, j]] += (won - p) * np.array([1, -1])
            curvature[np.ix_([i, j], [i, j])] += p * (1 - p) * np.array([[1, -1], [-1, 1]])
        strength = strength + np.linalg.solve(curvature, gradient)
    chances = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    rewards: NDArray[np.float64] = (chances.sum(axis=1) - 0.5) / (size - 1)
    return rewards


class ChoicesInProcess:
    """A queue of comparisons; a group has rewards when all of its comparisons have been chosen from.

    `file` keeps the groups, and none of their pictures: what nobody has leased is to be accepted again.
    """

    def __init__(self, file: Path, *, comparisons_per_group: int) -> None:
        self._file = file
        self._per_group = comparisons_per_group
        self._groups: dict[str, dict[str, Any]] = load_json(file.read_bytes()) if file.exists() else {}
        self._offered: list[Comparison] = []

    def accept(self, group: PictureGroup) -> None:
        """Takes a group over; one that is known is left as it is."""
        if group.group_id in self._groups:
            return
        size = len(group.samples)
        pairs = _pairs(group.group_id, size, self._per_group)
        self._groups[group.group_id] = {
            "samples": [sample.sample_id for sample in group.samples],
            "pairs": [list(pair) for pair in pairs],
            "chosen": {},
        }
        self._offered += [
            Comparison(
                comparison_id=f"{group.group_id}/{number}",
                prompt=group.prompt,
                left=group.samples[i].picture,
                right=group.samples[j].picture,
            )
            for number, (i, j) in enumerate(pairs)
        ]

    def lease(self) -> Comparison | None:
        return self._offered.pop(0) if self._offered else None

    def choose(self, comparison_id: str, choice: Choice) -> None:
        group_id, _, number = comparison_id.rpartition("/")
        if group_id in self._groups:  # else: forgotten meanwhile
            self._groups[group_id]["chosen"][number] = {"left": 1.0, "right": 0.0, "tie": 0.5}[choice]

    def rewards(self, group_id: str) -> dict[str, float] | None:
        """By sample id; None while choices are outstanding, or if the group is not known."""
        group = self._groups.get(group_id)
        if group is None or len(group["chosen"]) < len(group["pairs"]):
            return None
        outcomes = [(i, j, group["chosen"][str(number)]) for number, (i, j) in enumerate(group["pairs"])]
        strengths = bradley_terry(outcomes, len(group["samples"]))
        return dict(zip(group["samples"], map(float, strengths), strict=True))

    def known(self) -> list[str]:
        return list(self._groups)

    def forget(self, group_id: str) -> None:
        self._groups.pop(group_id, None)

    def save(self) -> None:
        """Called once raters have leased all that is offered."""
        replace_json(self._file, self._groups)


def _pairs(group_id: str, size: int, count: int) -> list[tuple[int, int]]:
    """Rings through all pictures in random order, so that each is compared about equally often."""
    rng = np.random.default_rng([zlib.crc32(group_id.encode()), 0])
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        order = [int(i) for i in rng.permutation(size)]
        pairs += zip(order, [*order[1:], order[0]], strict=True)
    return pairs[:count]


class WithRaters(InProcessFeedback):
    """Feedback of oracles of this process and of raters, whose oracle is called `preference`."""

    ORACLE = "preference"

    def __init__(self, oracles: Mapping[str, InProcessOracle], choices: ChoicesInProcess, raters: Raters) -> None:
        super().__init__(oracles)
        self._choices = choices
        self._raters = raters
        self._outstanding: set[str] = set()

    def publish(self, groups: Sequence[PictureGroup]) -> None:
        for group in groups:
            if self.ORACLE in group.late:
                self._choices.accept(group)
                self._outstanding.add(group.group_id)
        super().publish([_without(group, self.ORACLE) for group in groups])

    def knows(self, oracle: str) -> bool:
        return oracle == self.ORACLE or super().knows(oracle)

    def set_policy_version(self, version: int) -> None:
        self._raters.work(version)  # saved before the choices: a group that only raters know is accepted again
        self._choices.save()

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        found = super().collect(wait_s=wait_s)
        for group_id in sorted(self._outstanding):
            rewards = self._choices.rewards(group_id)
            if rewards is not None:
                self._outstanding.discard(group_id)
                results = {name: Scored(sample_id=name, reward=reward) for name, reward in rewards.items()}
                found.append(
                    GroupFeedback(group_id=group_id, oracle=self.ORACLE, results=results, oracle_version="in process")
                )
        return found

    def forget(self, group_ids: Sequence[str]) -> None:
        super().forget(group_ids)
        for group_id in group_ids:
            self._outstanding.discard(group_id)
            self._choices.forget(group_id)

    def resume(self, pairs: Sequence[tuple[str, str]], *, done: Sequence[str] = ()) -> None:
        known = set(self._choices.known())
        self._outstanding |= {group for group, oracle in pairs if oracle == self.ORACLE and group in known}
        super().resume([pair for pair in pairs if pair[0] not in self._outstanding], done=done)


def _without(group: PictureGroup, oracle: str) -> PictureGroup:
    return replace(group, late=tuple(name for name in group.late if name != oracle))
