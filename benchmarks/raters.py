"""Simulated raters: a hidden taste, where their comparisons come from, and how late they answer.

    choices (a queue) ──lease──► a rater looks, decides, takes its time ──choose──► choices ──► a reward a picture

The trainer and the surrogate know nothing of the taste: all that reaches them are the rewards that choices become.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rewardmesh.wire.strict_json import dump_json, load_json

__all__ = [
    "TASTE_FILE",
    "Choice",
    "Choices",
    "Comparison",
    "Raters",
    "blueness",
    "delay_of",
    "preferred",
    "replace_json",
]

Pictures = NDArray[np.uint8]
Choice = Literal["left", "right", "tie"]

TASTE_FILE = "taste.jsonl"
"""How much of the taste there is in what raters saw, by the policy version at which they saw it: a curve."""
_HELD_FILE = "raters.json"
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


def delay_of(prompt: str, policy_version: int, *, longest: int) -> int:
    """Policy versions until what is asked then about a prompt is answered: 1 to `longest`, even on a logarithmic scale.

    All comparisons of a group have one delay, though raters are not told which group it is.
    """
    rng = np.random.default_rng([zlib.crc32(prompt.encode()), policy_version])
    return int(longest ** rng.random())


def replace_json(path: Path, content: object) -> None:
    """Replaces a file: readers see the old one or the new one, whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(dump_json(content), encoding="utf-8")
    partial.replace(path)


@dataclass(frozen=True)
class Comparison:
    """What a rater is shown."""

    comparison_id: str
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
    """Takes all comparisons that there are, and answers each when its time has come. `folder` keeps what is held."""

    def __init__(self, choices: Choices, folder: Path, *, noise: float, longest_delay: int) -> None:
        """`noise`: share of choices that are made the other way round."""
        self._choices = choices
        self._folder = folder
        self._noise = noise
        self._longest_delay = longest_delay
        self._held: dict[str, tuple[int, Choice]] = {}  # until which policy version, and what will be said
        kept = folder / _HELD_FILE
        if kept.exists():
            self._held = {name: (due, choice) for name, (due, choice) in load_json(kept.read_bytes()).items()}

    def work(self, policy_version: int) -> int:
        """Looks at what is new, and says what is due; returns how many choices were made."""
        seen = []
        while (comparison := self._choices.lease()) is not None:
            taste = blueness(np.stack([comparison.left, comparison.right]))
            seen.append(float(taste.mean()))
            due = policy_version + delay_of(comparison.prompt, policy_version, longest=self._longest_delay)
            self._held[comparison.comparison_id] = (due, self._decide(comparison.comparison_id, *map(float, taste)))
        due_now = [name for name, (due, _) in self._held.items() if due <= policy_version]
        for name in due_now:
            self._choices.choose(name, self._held.pop(name)[1])
        replace_json(self._folder / _HELD_FILE, {name: list(held) for name, held in self._held.items()})
        if seen:
            line = {"policy_version": policy_version, "taste": float(np.mean(seen)), "comparisons": len(seen)}
            with (self._folder / TASTE_FILE).open("a", encoding="utf-8") as file:
                file.write(dump_json(line) + "\n")
        return len(due_now)

    def _decide(self, comparison_id: str, left: float, right: float) -> Choice:
        rng = np.random.default_rng(zlib.crc32(comparison_id.encode()))
        wins, errs = preferred(left, right), rng.random() < self._noise
        if wins == 0.5:
            return ("left" if rng.random() < 0.5 else "right") if errs else "tie"
        return "left" if (wins == 1) != errs else "right"
