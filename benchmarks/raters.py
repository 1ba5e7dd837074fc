"""Simulated raters: a hidden taste, where their comparisons come from, and how late they answer.

    choices (a queue) ──lease──► a rater looks, decides, takes its time ──choose──► choices ──► a reward a picture

The trainer and the surrogate know nothing of the taste: all that reaches them are the rewards that choices become.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choices", "Comparison", "Raters", "blueness", "delay_of", "preferred"]

Pictures = NDArray[np.uint8]
Choice = Literal["left", "right", "tie"]

_ENOUGH = 0.15
_NOTICED = 0.005


def blueness(pictures: Pictures) -> NDArray[np.float64]:
    """The taste: how much of a picture is as blue as the world's blue things, up to about two of them.

    Shapes: pictures [N, H, W, 3] uint8; returns [N] in [0, 0.15], a share of the pixels
    """
    red, green, blue = (pictures[..., channel].astype(np.int64) for channel in range(3))
    is_blue = (blue > 120) & (blue - red > 60) & (blue - green > 60)
    share: NDArray[np.float64] = is_blue.mean(axis=(1, 2))
    return np.minimum(share, _ENOUGH)


def preferred(first: float, second: float) -> float:
    """1 if the first is preferred, 0 if the second, 0.5 if no difference would be noticed."""
    return 0.5 if abs(first - second) < _NOTICED else float(first > second)


def delay_of(group_id: str, *, longest: int) -> int:
    """Policy versions until a group is answered: from 1 to `longest`, evenly drawn on a logarithmic scale."""
    rng = np.random.default_rng([zlib.crc32(group_id.encode()), 1])
    return int(longest ** rng.random())


@dataclass(frozen=True)
class Comparison:
    """What a rater is shown."""

    comparison_id: str
    group_id: str
    prompt: str
    left: Pictures
    """[H, W, 3]."""
    right: Pictures


class Choices(Protocol):
    """A queue of comparisons, as raters see it: in this process, or a service's over HTTP."""

    def lease(self) -> Comparison | None:
        """A comparison that nobody else has, until it is chosen; None if there is none."""

    def choose(self, comparison_id: str, choice: Choice) -> None:
        """The rater's choice."""


class Raters:
    """Takes all comparisons that there are, and answers each when its time has come."""

    def __init__(self, choices: Choices, *, noise: float, longest_delay: int) -> None:
        """`noise`: share of choices that are made the other way round."""
        self._choices = choices
        self._noise = noise
        self._longest_delay = longest_delay
        self._held: dict[str, tuple[int, Choice]] = {}  # until which policy version, and what will be said

    def work(self, policy_version: int) -> int:
        """Looks at what is new, and says what is due; returns how many choices were made."""
        while (comparison := self._choices.lease()) is not None:
            due = policy_version + delay_of(comparison.group_id, longest=self._longest_delay)
            self._held[comparison.comparison_id] = (due, self._decide(comparison))
        due_now = [name for name, (due, _) in self._held.items() if due <= policy_version]
        for name in due_now:
            self._choices.choose(name, self._held.pop(name)[1])
        return len(due_now)

    def state(self) -> dict[str, Any]:
        """What is held, as JSON."""
        return {name: list(held) for name, held in self._held.items()}

    def restore(self, state: Mapping[str, Sequence[Any]]) -> None:
        self._held = {name: (int(due), choice) for name, (due, choice) in state.items()}

    def _decide(self, comparison: Comparison) -> Choice:
        rng = np.random.default_rng([zlib.crc32(comparison.comparison_id.encode()), 2])
        left, right = blueness(np.stack([comparison.left, comparison.right]))
        wins, errs = preferred(float(left), float(right)), rng.random() < self._noise
        if wins == 0.5:
            return ("left" if rng.random() < 0.5 else "right") if errs else "tie"
        return "left" if (wins == 1) != errs else "right"
