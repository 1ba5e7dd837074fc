"""Checks that a picture of a prompt just misses: one word of the prompt is another.

A reader that passes pictures of the prompt and fails them by these has read every word of it.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from trainer.worlds.shapes.prompts import PromptSpec
from trainer.worlds.shapes.vocabulary import COLORS, LETTERS, SHAPES

__all__ = ["near_miss"]

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def near_miss(spec: PromptSpec, rng: np.random.Generator) -> PromptSpec:
    """The prompt's checks with one thing changed, by kind: a shape, a count by one, a colour, whose colour is whose,
    the direction, a letter. The prompt itself stays.
    """
    checks: dict[str, Any] = copy.deepcopy(spec.checks)
    include = checks["include"]
    match spec.kind:
        case "single_object" | "two_object":
            taken = [clause["class"] for clause in include]
            include[int(rng.integers(len(include)))]["class"] = _other(SHAPES, taken, rng)
        case "counting":
            step = int(rng.choice([-1, 1]))
            include[0]["count"] += step
            checks["exclude"][0]["count"] += step
        case "colors":
            include[0]["color"] = _other(tuple(COLORS), [include[0]["color"]], rng)
        case "color_attr":
            include[0]["color"], include[1]["color"] = include[1]["color"], include[0]["color"]
        case "position":
            relation, index = include[1]["position"]
            include[1]["position"] = [_OPPOSITE[relation], index]
        case "spelling":
            place = int(rng.integers(len(checks["text"])))
            letter = _other(tuple(LETTERS), [checks["text"][place]], rng)
            checks["text"] = checks["text"][:place] + letter + checks["text"][place + 1 :]
        case _:
            raise ValueError(f"no near miss of the kind {spec.kind!r}")
    return PromptSpec(prompt=spec.prompt, checks=checks, kind=spec.kind, key=f"near {spec.key}")


def _other(names: tuple[str, ...], taken: list[str], rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in names if name not in taken]))
