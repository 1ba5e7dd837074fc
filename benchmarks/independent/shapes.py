"""Finds objects by plain image analysis: connected ink, the shape that its outline fits, the median of its colour.

Nothing here was trained. Ink that is no shape is taken apart, by colour and at narrow places, and its pieces are put
together in whatever way makes most of it shapes; what fits nothing even so is no object.

Axis legend: masks [H, W] are SCALE times larger than the picture; boxes x1, y1, x2, y2 are in the picture's own pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from benchmarks.independent.ground import COLOR_NAMES, PALETTE, SCALE, Inked, Mask, Picture, find_ink
from benchmarks.independent.outlines import best_shape

__all__ = ["Seen", "objects_of", "see"]

_MIN_AREA = 20.0
"""Square pixels of the picture; the smallest shape that is drawn has 45."""
_MIN_PIECE = 4.0
"""The same, of what a shape may be put together from."""
_MAX_PIECES = 5
_MIN_ASPECT = 0.62
"""Shorter side by longer side of a box; everything in the world is about as wide as high."""
_IS_SHAPE = 0.55
"""Least fit of a shape; renders have 0.85 and more."""
_IS_GOOD = 0.8
"""Fit above which nobody asks whether the ink might be two things."""
_ONE_RATHER_THAN_TWO = 0.95
_MAX_COLOR_ERROR = 85.0
"""Distance in RGB from a named colour beyond which an object has none; between names it is 122 at least."""


@dataclass(frozen=True)
class Seen:
    """An object in a picture."""

    shape: str
    color: str
    """A name of the world's, or `none` for what is far from all of them."""
    box: tuple[float, float, float, float]
    fit: float
    """How well its outline fits, in [0, 1]."""
    area: float
    """Ink, in square pixels."""
    color_error: float
    """Distance from the name's colour, RGB of 255."""

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def size(self) -> float:
        """Side of a square as large as the box, in pixels."""
        return math.sqrt((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


def see(picture: Picture) -> list[Seen]:
    """Objects of a picture [H, W, 3] uint8, the best fitting first."""
    return objects_of(find_ink(picture))


def objects_of(inked: Inked) -> list[Seen]:
    """The same, of a picture that has been taken apart already."""
    found = [seen for part in _connected(inked.mask) for seen in _explain(part, inked)]
    return sorted(found, key=lambda seen: -seen.fit)


def _explain(part: Mask, inked: Inked) -> list[Seen]:
    """One piece of connected ink as one shape, or as several where that accounts for more of it, or as nothing."""
    whole = _match(part, inked)
    if whole is not None and whole.fit >= _IS_GOOD:
        return [whole]
    ways = [[whole]] if whole is not None else []
    for pieces in _taken_apart(part, inked):
        ways += _packings(_groups(pieces[:_MAX_PIECES], inked))
    return max(ways, key=_explained, default=[])


def _explained(way: Sequence[Seen]) -> float:
    """Ink that shapes account for, in square pixels, each by its fit; what is one shape is rather one than two."""
    return sum(one.fit**2 * one.area for one in way) * _ONE_RATHER_THAN_TWO ** len(way)


def _groups(pieces: Sequence[Mask], inked: Inked) -> list[tuple[int, Seen]]:
    """Pieces put together in every way that makes a shape: which pieces (a bit each), and the shape."""
    groups = []
    for group in range(1, 1 << len(pieces)):
        chosen = [piece for index, piece in enumerate(pieces) if group >> index & 1]
        seen = _match(np.bitwise_or.reduce(chosen), inked)
        if seen is not None:
            groups.append((group, seen))
    return groups


def _packings(groups: Sequence[tuple[int, Seen]]) -> Iterator[list[Seen]]:
    """Every choice of groups that share no piece; what is in none of them is left over."""
    yield []
    for place, (group, seen) in enumerate(groups):
        apart = [other for other in groups[place + 1 :] if not other[0] & group]
        for rest in _packings(apart):
            yield [seen, *rest]


def _taken_apart(part: Mask, inked: Inked) -> Iterator[list[Mask]]:
    """Ways to take a piece of ink apart, largest piece first: by colour, and where it is 1 to 8 pixels narrow."""
    by_color = []
    for index in range(len(COLOR_NAMES)):
        of_color = part * (inked.color == index).astype(np.uint8)
        opened = np.asarray(cv2.morphologyEx(of_color, cv2.MORPH_OPEN, _disc(SCALE // 2)), dtype=np.uint8)
        by_color += _connected(opened, min_area=_MIN_PIECE)
    if len(by_color) > 1:
        yield sorted(by_color, key=lambda piece: -int(piece.sum()))
    for width in (1, 2, 4, 6, 8):
        eroded = np.asarray(cv2.erode(part, _disc(width * SCALE // 2)), dtype=np.uint8)
        cores = _connected(eroded, min_area=_MIN_PIECE)
        if len(cores) > 1:
            yield sorted(_grown(cores, part), key=lambda piece: -int(piece.sum()))


def _grown(cores: list[Mask], part: Mask) -> list[Mask]:
    """Every pixel of a piece of ink to the nearest core."""
    far = np.stack([cv2.distanceTransform(1 - core, cv2.DIST_L2, 5) for core in cores])
    nearest = far.argmin(0)
    return [part * (nearest == index).astype(np.uint8) for index in range(len(cores))]


def _connected(mask: Mask, *, min_area: float = _MIN_AREA) -> list[Mask]:
    """Connected pieces of at least `min_area` square pixels of the picture."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = [index for index in range(1, count) if stats[index, cv2.CC_STAT_AREA] >= min_area * SCALE**2]
    return [(labels == index).astype(np.uint8) for index in large]


def _match(part: Mask, inked: Inked) -> Seen | None:
    """A piece of ink as the shape that its outline fits best; None if it fits none, or is a sliver."""
    x, y, width, height = cv2.boundingRect(part)
    area = float(part.sum()) / SCALE**2
    if area < _MIN_AREA or min(width, height) < _MIN_ASPECT * max(width, height):
        return None
    shape, fit = best_shape(part[y : y + height, x : x + width])
    if fit < _IS_SHAPE:
        return None
    color, error = _color_of(part, inked)
    box = (x / SCALE, y / SCALE, (x + width) / SCALE, (y + height) / SCALE)
    return Seen(shape, color, box, fit, area, error)


def _color_of(part: Mask, inked: Inked) -> tuple[str, float]:
    """The name nearest to the median of the inner pixels, and how far that is."""
    inner = cv2.erode(part, _disc(SCALE))
    chosen = inner if inner.sum() >= _MIN_PIECE * SCALE**2 else part
    middle = np.median(inked.pixels[chosen > 0], axis=0)
    errors = np.linalg.norm(PALETTE - middle, axis=1)
    best = int(errors.argmin())
    return (COLOR_NAMES[best] if errors[best] <= _MAX_COLOR_ERROR else "none"), float(errors[best])


@cache
def _disc(radius: int) -> Mask:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)
