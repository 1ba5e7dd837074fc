"""Measures of single pictures that look at pixels only. None stands for a picture that has nothing to measure."""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.independent.ground import PALETTE, SCALE, Mask
from benchmarks.measures.look import Look

__all__ = ["edge_sharpness", "ground_noise", "palette_error"]

_EDGE = (0.35, 0.65)
_MIN_PIXELS = 32  # of the enlarged picture


def edge_sharpness(look: Look) -> float | None:
    """How steep edges are: mean slope of the coverage where it passes a half, per pixel; 0 to about 1, more is sharper.

    Renders, whose edges are one pixel wide, have 0.76. Coverage is 0 on the ground and 1 in a named colour, so
    contrast does not count. None without ink.
    """
    coverage = look.inked.coverage
    down, across = np.gradient(cv2.GaussianBlur(coverage, (0, 0), 1.0))
    at_edge = (coverage > _EDGE[0]) & (coverage < _EDGE[1])
    if at_edge.sum() < _MIN_PIXELS:
        return None
    return float(np.hypot(down, across)[at_edge].mean() * SCALE)


def palette_error(look: Look) -> float | None:
    """How far ink is from the named colours: mean distance in RGB of 255 to the nearest, inside of what is drawn.

    0 to 441, less is purer; renders have 4, since enlarging overshoots at edges. Inside: a pixel or more from any edge.
    None where nothing is that thick.
    """
    inside = cv2.erode(look.inked.mask, _disc(SCALE)) > 0
    if inside.sum() < _MIN_PIXELS:
        return None
    pixels = look.inked.pixels[inside]
    return float(np.linalg.norm(pixels[:, None] - PALETTE, axis=2).min(1).mean())


def ground_noise(look: Look) -> float | None:
    """How unclean the ground is: root mean square of its pixels' distance from its median colour, a channel, of 255.

    0 to 255, less is cleaner; renders have 0.04. Ground: two pixels or more from any ink. None where ink is everywhere.
    """
    far = cv2.dilate(look.inked.mask, _disc(2 * SCALE)) == 0
    if far.sum() < _MIN_PIXELS:
        return None
    return float(np.sqrt(np.square(look.inked.pixels[far] - look.inked.ground).mean()))


def _disc(radius: int) -> Mask:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)
