"""One picture taken apart once: what the measures of a picture are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.independent.ground import Inked, Picture, find_ink
from benchmarks.independent.shapes import Seen, objects_of

__all__ = ["Look", "look"]


@dataclass(frozen=True)
class Look:
    """A picture [H, W, 3] uint8, what was to be in it, and what is."""

    picture: Picture
    checks: Mapping[str, Any]
    inked: Inked
    objects: tuple[Seen, ...]
    """Of a picture of a word, none."""


def look(picture: Picture, checks: Mapping[str, Any]) -> Look:
    """Takes a picture apart."""
    inked = find_ink(picture)
    return Look(picture, checks, inked, () if checks.get("text") else tuple(objects_of(inked)))
