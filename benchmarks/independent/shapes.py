"""Finds objects by plain image analysis: connected ink, its outline held against six silhouettes, its median colour.

Nothing here was trained. Ink that no silhouette fits is taken apart, by colour and at narrow places, and kept apart if
the parts are shapes; what fits nothing even so is no object.

Axis legend: h, w pixels SCALE times smaller than a picture's; boxes x1, y1, x2, y2 in the picture's own pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np

from benchmarks.independent.ground import COLOR_NAMES, PALETTE, SCALE, Floats, Inked, Mask, Picture, find_ink
from trainer.worlds.shapes.vocabulary import SHAPES

__all__ = ["Seen", "objects_of", "see", "silhouettes"]

_SIDE: Final = 48
"""Silhouettes are compared at this size, whatever the object's."""
_MIN_AREA = 20.0
"""Square pixels of the picture; the smallest shape that is drawn has 45."""
_MIN_ASPECT = 0.62
"""Shorter side by longer side of a box; everything in the world is about as wide as high."""
_IS_SHAPE = 0.72
"""Least overlap with a silhouette. Between silhouettes it is 0.73 at most (a disc of ink for a ring)."""
_IS_GOOD = 0.85
"""Overlap above which nobody asks whether the ink might be two things."""
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
    """Overlap with its silhouette, in [0, 1]."""
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
    """One piece of connected ink as one shape, or as several where that fits better, or as nothing."""
    whole = _match(part, inked)
    if whole is not None and whole.fit >= _IS_GOOD:
        return [whole]
    ways = [[whole] if whole is not None and whole.fit >= _IS_SHAPE else []]
    for pieces in _taken_apart(part, inked):
        seen = [_match(piece, inked) for piece in pieces]
        ways.append([one for one in seen if one is not None and one.fit >= _IS_SHAPE])
    return max(ways, key=lambda way: _explained(way, part))


def _explained(way: list[Seen], part: Mask) -> float:
    """How much of a piece of ink is accounted for: the fits, weighted by the boxes' share."""
    if not way:
        return 0.0
    area = part.sum() / SCALE**2
    boxes = sum(one.size**2 * _filled()[one.shape] for one in way)
    fit = sum(one.fit * one.size**2 * _filled()[one.shape] for one in way) / boxes
    return fit * min(1.0, boxes / area)


def _taken_apart(part: Mask, inked: Inked) -> Iterator[list[Mask]]:
    """Ways to take a piece of ink apart: by colour, and at places 2, 4 and 6 quarters of a pixel narrow."""
    colors = [index for index in range(len(COLOR_NAMES)) if ((inked.color == index) & (part > 0)).sum() > _area(1)]
    if len(colors) > 1:
        by_color = [_connected(_opened(part * (inked.color == index).astype(np.uint8))) for index in colors]
        yield [piece for pieces in by_color for piece in pieces]
    for reach in (2, 4, 6):
        cores = _connected(cv2.erode(part, _disc(reach)), min_area=4.0)
        if len(cores) > 1:
            yield _grown(cores, part)


def _grown(cores: list[Mask], part: Mask) -> list[Mask]:
    """Every pixel of a piece of ink to the nearest core."""
    far = np.stack([cv2.distanceTransform(1 - core, cv2.DIST_L2, 5) for core in cores])
    nearest = far.argmin(0)
    return [part * (nearest == index).astype(np.uint8) for index in range(len(cores))]


def _connected(mask: Mask, *, min_area: float = _MIN_AREA) -> list[Mask]:
    """Connected pieces of at least `min_area` square pixels of the picture."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = [index for index in range(1, count) if stats[index, cv2.CC_STAT_AREA] >= _area(min_area)]
    return [(labels == index).astype(np.uint8) for index in large]


def _match(part: Mask, inked: Inked) -> Seen | None:
    """The shape whose silhouette overlaps a piece of ink best, both stretched to one square; None for a sliver."""
    x, y, width, height = cv2.boundingRect(part)
    if part.sum() < _area(_MIN_AREA) or min(width, height) < _MIN_ASPECT * max(width, height):
        return None
    crop = part[y : y + height, x : x + width].astype(np.float32)
    outline = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    shape, fit = max(((name, _overlap(outline, one)) for name, one in silhouettes().items()), key=lambda pair: pair[1])
    color, error = _color_of(part, inked)
    box = (x / SCALE, y / SCALE, (x + width) / SCALE, (y + height) / SCALE)
    return Seen(shape, color, box, fit, error)


def _overlap(one: Floats, other: Floats) -> float:
    """Intersection over union of two soft masks."""
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


def _color_of(part: Mask, inked: Inked) -> tuple[str, float]:
    """The name nearest to the median of the inner pixels, and how far that is."""
    inner = cv2.erode(part, _disc(SCALE))
    chosen = inner if inner.sum() >= _area(4.0) else part
    middle = np.median(inked.pixels[chosen > 0], axis=0)
    errors = np.linalg.norm(PALETTE - middle, axis=1)
    best = int(errors.argmin())
    return (COLOR_NAMES[best] if errors[best] <= _MAX_COLOR_ERROR else "none"), float(errors[best])


@cache
def silhouettes() -> dict[str, Floats]:
    """Each shape filling a square [_SIDE, _SIDE], drawn large and averaged down."""
    return {shape: _silhouette(shape) for shape in SHAPES}


def _silhouette(shape: str) -> Floats:
    side = 16 * _SIDE
    canvas = np.zeros((side, side), np.uint8)
    middle, radius = side // 2, side // 2
    match shape:
        case "circle":
            cv2.circle(canvas, (middle, middle), radius, 1, -1)
        case "ring":
            cv2.circle(canvas, (middle, middle), radius, 1, -1)
            cv2.circle(canvas, (middle, middle), round(0.52 * radius), 0, -1)
        case "square":
            canvas[:] = 1
        case "triangle":
            cv2.fillPoly(canvas, [np.array([(middle, 0), (side, side), (0, side)])], 1)
        case "cross":
            low, high = round(0.33 * side), round(0.67 * side)
            canvas[low:high] = canvas[:, low:high] = 1
        case "star":
            turns = np.arange(10) * math.pi / 5 - math.pi / 2
            reach = np.where(np.arange(10) % 2 == 0, 1.06, 0.48)
            points = np.stack([reach * np.cos(turns), reach * np.sin(turns)], 1)
            points = (points - points.min(0)) / np.ptp(points, axis=0) * side
            cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
        case _:
            raise ValueError(f"no silhouette of {shape!r}")
    return cv2.resize(canvas.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


@cache
def _filled() -> dict[str, float]:
    """Share of its box that each shape fills."""
    return {shape: float(outline.mean()) for shape, outline in silhouettes().items()}


@cache
def _disc(radius: int) -> Mask:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)


def _opened(mask: Mask) -> Mask:
    """Without what is thinner than a pixel of the picture: the seams between colours."""
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(SCALE // 2)).astype(np.uint8)


def _area(square_pixels: float) -> float:
    return square_pixels * SCALE**2
