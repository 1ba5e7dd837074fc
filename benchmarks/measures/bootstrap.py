"""Intervals of measures by drawing prompts anew, with those of a kind among themselves.

A measure is a function of how often each prompt counts. Two networks that drew the same prompts are measured under the
same draws, so that the interval of their difference is a paired one.

Axis legend: P prompts, R draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Drawn", "Mean", "Statistic", "draw_weights", "drawn"]

Statistic = Callable[[NDArray[np.float64]], float]
"""Weights [P] of the prompts -> value."""


@dataclass(frozen=True)
class Drawn:
    """A measure's value, and its values under the draws [R]."""

    value: float
    values: NDArray[np.float64]

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Percentiles of the draws."""
        low, high = np.quantile(self.values, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def __sub__(self, other: Drawn) -> Drawn:
        """The paired difference; both must come from the same draws."""
        return Drawn(self.value - other.value, self.values - other.values)


class Mean:
    """Mean over pictures of a measure of single pictures; those that have nothing to measure (None) are left out."""

    def __init__(self, values: Sequence[float | None], prompts: Sequence[int], num_prompts: int) -> None:
        """Raises: ValueError if no picture has a value."""
        there = [(prompt, value) for prompt, value in zip(prompts, values, strict=True) if value is not None]
        if not there:
            raise ValueError("no picture has anything to measure")
        at = np.array([prompt for prompt, _ in there])
        self.num_pictures = len(there)
        self._counts = np.bincount(at, minlength=num_prompts)
        self._sums = np.bincount(at, weights=[value for _, value in there], minlength=num_prompts)

    def __call__(self, weights: NDArray[np.float64]) -> float:
        return float((weights @ self._sums) / (weights @ self._counts))


def draw_weights(kinds: Sequence[str], *, num_draws: int, seed: int = 0) -> NDArray[np.float64]:
    """[R, P]: how often each prompt comes up when the prompts of each kind are drawn anew with replacement."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((num_draws, len(kinds)))
    for kind in dict.fromkeys(kinds):
        at = np.flatnonzero(np.array(kinds) == kind)
        weights[:, at] = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=num_draws)
    return weights


def drawn(statistic: Statistic, weights: NDArray[np.float64]) -> Drawn:
    """A measure with every prompt once, and under every draw."""
    whole = np.ones(weights.shape[1])
    return Drawn(statistic(whole), np.array([statistic(row) for row in weights]))
