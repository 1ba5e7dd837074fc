"""Which of the six shapes a piece of ink is, by its outline alone: how far it reaches in each direction.

Seen from its middle, the outline of a star swings five times a turn, a triangle's three times, a square's and a cross's
four times (the one reaches furthest along the diagonals, the other along the axes) and a circle's not at all. A dozen
pixels hold no sharp corner: what is drawn softly swings less, but as often and at the same places. So an outline is
compared with each shape's *up to how much it swings* and up to a few degrees of turning. A ring is a round hull with
nothing in its middle. Nothing here was trained, and no picture of the world was used to set it up.

Axis legend: A directions, S shapes.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import cv2
import numpy as np

from benchmarks.independent.ground import Floats, Mask
from trainer.worlds.shapes.vocabulary import SHAPES

__all__ = ["best_shape", "reach"]

_SIDE: Final = 64
"""Outlines are compared at this size, whatever the object's."""
_DIRECTIONS: Final = 72
_TURNS: Final = range(-3, 4)
"""Turns that are tried, in directions of five degrees."""
_SWING: Final = (0.55, 1.3)
"""Of the drawn shape's: how much an outline may swing and still be that shape."""
_MIDDLE = 0.25
"""Radius of a ring's middle, of its hull's; the hole itself is drawn at 0.52."""
_RING_VOID = (0.08, 0.55)
"""Share of its hull that a ring leaves free; as drawn, 0.27."""


def best_shape(mask: Mask) -> tuple[str, float]:
    """Name and fit of a piece of ink that fills its own box [h, w]; a fit of 1 is the shape as drawn, 0 is unlike it.

    The shape is the one that leaves least of the outline's logarithm (root mean square). Its fit is 1 - 3 x what is
    left / (1 + 4 x the root mean square of the shape's own outline) - the share of the outline that is not filled:
    the further a shape's points reach, the more of them a few pixels cost.
    """
    square = (cv2.resize(mask.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) > 0.5).astype(np.uint8)
    ring = _ring_fit(square)
    if ring > 0:
        return "ring", ring
    outline, void = reach(square)
    rests = {shape: _rest(outline, drawn) for shape, drawn in _drawn().items()}
    best = min(rests, key=lambda shape: rests[shape])
    spread = float(np.sqrt(np.square(_drawn()[best]).mean()))
    return best, max(0.0, 1 - 3 * rests[best] / (1 + 4 * spread) - void)


def reach(square: Mask) -> tuple[Floats, float]:
    """How far ink reaches from its middle [A], as a logarithm with mean 0, and the share within that holds no ink."""
    moments = cv2.moments(square, binaryImage=True)
    middle = (moments["m10"] / moments["m00"], moments["m01"] / moments["m00"])
    polar = cv2.warpPolar(square * 255, (_SIDE, _DIRECTIONS), middle, _SIDE, cv2.WARP_FILL_OUTLIERS) > 127
    furthest = np.where(polar.any(1), _SIDE - polar[:, ::-1].argmax(1), 1).astype(np.float32)
    enclosed = math.pi * float(np.square(furthest).mean())
    logs = np.log(furthest)
    return (logs - logs.mean()).astype(np.float32), max(0.0, 1 - float(square.sum()) / enclosed)


def _rest(outline: Floats, drawn: Floats) -> float:
    """What of an outline [A] a drawn one does not explain, turned a little and swinging more or less."""
    turned = np.stack([np.roll(drawn, turn) for turn in _TURNS])
    swing = (turned @ outline / max(float(drawn @ drawn), 1e-6)).clip(*_SWING)
    return float(np.sqrt(np.square(outline - swing[:, None] * turned).mean(1)).min())


def _ring_fit(square: Mask) -> float:
    """Fit of the hull with a circle, if there is nothing in the middle and not too much free in all."""
    contours, _ = cv2.findContours(square, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    convex = cv2.convexHull(np.concatenate(contours))
    hull = np.asarray(cv2.fillConvexPoly(np.zeros_like(square), convex, 1), dtype=np.uint8)
    void = 1 - float((square & hull).sum()) / float(hull.sum())
    middle = cv2.circle(np.zeros_like(square), (_SIDE // 2, _SIDE // 2), round(_MIDDLE * _SIDE / 2), 1, -1)
    if not _RING_VOID[0] < void < _RING_VOID[1] or square[middle > 0].mean() > 0.5:
        return 0.0
    outline, _ = reach(hull)
    return 1 - 3 * float(np.sqrt(np.square(outline).mean()))


@cache
def _drawn() -> dict[str, Floats]:
    """Outlines [A] of the shapes that are whole, each filling its square."""
    return {shape: reach(_silhouette(shape))[0] * (shape != "circle") for shape in SHAPES if shape != "ring"}


def _silhouette(shape: str) -> Mask:
    """[_SIDE, _SIDE]."""
    canvas = np.zeros((_SIDE, _SIDE), np.uint8)
    match shape:
        case "circle":
            cv2.circle(canvas, (_SIDE // 2, _SIDE // 2), _SIDE // 2, 1, -1)
        case "square":
            canvas[:] = 1
        case "triangle":
            cv2.fillPoly(canvas, [np.array([(_SIDE // 2, 0), (_SIDE, _SIDE), (0, _SIDE)])], 1)
        case "cross":
            low, high = round(0.33 * _SIDE), round(0.67 * _SIDE)
            canvas[low:high] = canvas[:, low:high] = 1
        case "star":
            turns = np.arange(10) * math.pi / 5 - math.pi / 2
            far = np.where(np.arange(10) % 2 == 0, 1.06, 0.48)
            points = np.stack([far * np.cos(turns), far * np.sin(turns)], 1)
            points = (points - points.min(0)) / np.ptp(points, axis=0) * _SIDE
            cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
        case _:
            raise ValueError(f"no silhouette of {shape!r}")
    return canvas
