"""Arithmetic of several oracles' rewards: each brought to a scale, then joined, with what is masked left out of it all.

Knows no recipe and no oracle (`trainer.rewards` does), and takes no advantages (`trainer.learning` does). A masked
reward is in no sum, mean or standard deviation: its value in the table is never read.
Axis legend: n samples of a group, C columns (boundaries).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Normalisation", "Term", "join", "normalise", "shortfall"]

Normalisation = Literal["none", "unit_range", "group_std", "group_z"]
Table = NDArray[np.float64]
Known = NDArray[np.bool_]
Term = tuple[float, Table, Known]
"""An oracle's weight, its normalised rewards [n, C] and which of them it gave."""


def normalise(rewards: Table, known: Known, *, how: Normalisation, bounds: tuple[float, float]) -> tuple[Table, Known]:
    """One oracle's rewards on a scale that can be added to others'.

    Equation: (E13) r; or (r - low) / (high - low) - 0.5; or `group_std`: (r - mean) / (std + 1e-4), over the samples
              that have one. (E14) `group_z`: the same without the 1e-4, so that no scale of r is left; 0 where all tie
    Shapes:   rewards, known [n, C]; returns [n, C] twice: where fewer than two samples of a column have a reward, there
              is nothing to compare with, and a scale of the group masks that one too
    """
    if how == "none":
        return rewards, known
    if how == "unit_range":
        low, high = bounds
        return (rewards - low) / (high - low) - 0.5, known
    known = known & (known.sum(axis=0) >= 2)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, rewards - np.where(known, rewards, 0.0).sum(axis=0) / count, 0.0)
    spread = np.sqrt(np.square(centred).sum(axis=0) / count)
    if how == "group_std":
        return centred / (spread + 1e-4), known
    highest, lowest = np.where(known, rewards, -np.inf).max(axis=0), np.where(known, rewards, np.inf).min(axis=0)
    varied = (highest > lowest) & (spread > 0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=varied), known


def join(terms: Sequence[Term]) -> Table:
    """The weighted mean of what is known of each sample.

    Equation: (E13) sum_o w_o r_o / sum_o w_o, over the oracles that gave the sample a reward
    Shapes:   returns [n, C]; every sample must have a reward in every column
    """
    total = np.zeros(terms[0][1].shape)
    weights = np.zeros_like(total)
    for weight, values, known in terms:
        total += weight * np.where(known, values, 0.0)
        weights += weight * known
    joined: Table = total / weights
    return joined


def shortfall(joined: NDArray[np.float32]) -> NDArray[np.float32]:
    """What joined rewards lack of the highest there is, where every oracle's was brought to its `unit_range`.

    Equation: (E13) 0.5 - r, in [0, 1]
    Shapes:   joined [n]; returns [n]
    """
    lacking: NDArray[np.float32] = np.clip(np.float32(0.5) - joined, 0, 1)
    return lacking
