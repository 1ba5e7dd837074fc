"""How different the pictures of one prompt are in what the prompt leaves free: colours, places, sizes.

The entropy is the one of order 2: -log2 of the chance that two pictures of a prompt have the same value. Two to that
power is the number of values that a student effectively uses, 6 of 6 colours or 1. Unlike Shannon's, it is estimated
from pairs without bias, so groups of four pictures give the same as groups of forty.

What is free: the colour where the checks name none; the place where they name no relation; the size always. A value is
an object's that the checks ask for, or the word's. Pairs are of different pictures of one prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.independent.ground import COLOR_NAMES
from benchmarks.measures.look import Look

__all__ = ["ATTRIBUTES", "Attribute", "Collisions", "Entropy", "collisions", "free_values"]

Attribute = Literal["color", "place", "size"]
ATTRIBUTES: Final[tuple[Attribute, ...]] = ("color", "place", "size")
_CELL = 12.0  # pixels: places are told apart on a grid of four by four
_STEP = 2.0  # pixels: sizes are told apart in steps of two

Value = tuple[str, object]
"""What has it (a shape, or `word`), and the value."""


@dataclass(frozen=True)
class Collisions:
    """Pairs of values of one prompt's pictures, and how many of them are the same."""

    same: int
    pairs: int


def free_values(look: Look) -> dict[Attribute, list[Value]]:
    """The values in one picture of what its checks leave free."""
    if look.checks.get("text"):
        names = look.inked.color[look.inked.mask > 0]
        return {"color": [("word", COLOR_NAMES[int(np.bincount(names).argmax())])] if len(names) else []}
    include = look.checks["include"]
    placed = any("position" in clause for clause in include)
    found: dict[Attribute, list[Value]] = {"color": [], "place": [], "size": []}
    for clause in include:
        for seen in (one for one in look.objects if one.shape == clause["class"]):
            if "color" not in clause:
                found["color"].append((seen.shape, seen.color))
            if not placed:
                found["place"].append((seen.shape, (int(seen.center[0] // _CELL), int(seen.center[1] // _CELL))))
            found["size"].append((seen.shape, int(seen.size // _STEP)))
    return found


def collisions(pictures: Sequence[Sequence[Value]]) -> Collisions:
    """Pairs over the values of one prompt's pictures; only what has the same name is compared."""
    names = {name for values in pictures for name, _ in values}
    same = pairs = 0
    for name in names:
        counts = [Counter(value for other, value in values if other == name) for values in pictures]
        whole = sum(counts, Counter[object]())
        pairs += whole.total() ** 2 - sum(count.total() ** 2 for count in counts)
        same += sum(n**2 for n in whole.values()) - sum(n**2 for count in counts for n in count.values())
    return Collisions(same // 2, pairs // 2)


class Entropy:
    """Entropy of order 2 over prompts, in bits: 0 (always the same) to log2 of the number of values."""

    def __init__(self, by_prompt: Mapping[int, Collisions], num_prompts: int) -> None:
        self._same, self._pairs = np.zeros(num_prompts), np.zeros(num_prompts)
        for prompt, found in by_prompt.items():
            self._same[prompt], self._pairs[prompt] = found.same, found.pairs

    def __call__(self, weights: NDArray[np.float64]) -> float:
        """When prompt p counts `weights[p]` times, [P]. Half a pair is added: with none the same it were infinite."""
        return -math.log2((weights @ self._same + 0.5) / (weights @ self._pairs + 0.5))
