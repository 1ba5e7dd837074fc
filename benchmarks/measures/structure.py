"""How far a picture is from the nearest one that the world's renderer could have drawn.

For objects: the objects that are seen, drawn at their places, in their sizes and nearest colours, on the same ground.
For a word: the word that was asked for, where the ink is, in the ink's colour. So crooked shapes, smeared colours,
things that are no shape and letters that are others cost; being asked for another picture does not, which is what
accuracy is for.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.independent.ground import COLOR_NAMES, SCALE, Floats, Picture, find_ink, ground_color
from benchmarks.independent.shapes import Seen
from benchmarks.measures.look import Look
from trainer.worlds.shapes.render import Box, Drawn, Scene, render

__all__ = ["nearest_render", "render_distance", "similarity"]

_PROBE: Box = (16.0, 16.0, 32.0, 32.0)
_INK = 40  # of 255, in some channel: as far from the ground is what is compared
_TEXT_SIZES = (20.0, 21.0, 22.0)
_BRIGHT = (0.01 * 255) ** 2  # constants of structural similarity
_CONTRAST = (0.03 * 255) ** 2


def render_distance(look: Look) -> float | None:
    """1 - structural similarity to the nearest render, where either has ink; 0 (the same) to 2, less is better.

    None for a picture without ink. Renders have about 0.02, since boxes are measured.
    """
    if not look.inked.mask.any():
        return None
    return min(_distance(look.picture, drawn) for drawn in nearest_render(look))


def nearest_render(look: Look) -> list[Picture]:
    """Candidates for it [H, W, 3] uint8: one of objects, three sizes of a word."""
    red, green, blue = (round(float(level)) for level in look.inked.ground)
    ground = (red, green, blue)
    text = look.checks.get("text")
    if not text:
        drawn = tuple(Drawn(seen.shape, _color(look, seen), _drawn_box(seen)) for seen in look.objects)
        return [render(Scene(objects=drawn, background=ground)).picture]
    names = look.inked.color[look.inked.mask > 0]
    color = COLOR_NAMES[int(np.bincount(names).argmax())]
    wanted = _middle(look.picture)
    found = []
    for size in _TEXT_SIZES:
        centred = Scene(text=text, text_color=color, background=ground, text_size=size)
        there = _middle(render(centred).picture)
        offset = (wanted[0] - there[0], wanted[1] - there[1])
        moved = Scene(text=text, text_color=color, background=ground, text_size=size, text_offset=offset)
        found.append(render(moved).picture)
    return found


def similarity(one: Picture, other: Picture) -> Floats:
    """Structural similarity [H, W] in [-1, 1] (Wang et al. 2004), a Gaussian window of 1.5 pixels, mean of channels."""
    a, b = one.astype(np.float32), other.astype(np.float32)
    mean_a, mean_b = _soft(a), _soft(b)
    var_a, var_b = _soft(a * a) - mean_a**2, _soft(b * b) - mean_b**2
    both = _soft(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + _BRIGHT) * (2 * both + _CONTRAST)
    whole = (mean_a**2 + mean_b**2 + _BRIGHT) * (var_a + var_b + _CONTRAST)
    return np.asarray((alike / whole).mean(2), dtype=np.float32)


def _distance(picture: Picture, drawn: Picture) -> float:
    there = _inked(picture) | _inked(drawn)
    return float(1 - similarity(picture, drawn)[there].mean()) if there.any() else 0.0


def _inked(picture: Picture) -> NDArray[np.bool_]:
    return np.asarray(np.abs(picture - ground_color(picture)).max(2) > _INK)


def _soft(planes: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(planes, (0, 0), 1.5), dtype=np.float32)


def _middle(picture: Picture) -> tuple[float, float]:
    x, y, width, height = cv2.boundingRect(find_ink(picture).mask)
    return (x + width / 2) / SCALE, (y + height / 2) / SCALE


def _color(look: Look, seen: Seen) -> str:
    """The object's colour, or, of one that has none, the one that most of its box's ink is nearest to."""
    if seen.color in COLOR_NAMES:
        return seen.color
    x1, y1, x2, y2 = (round(edge * SCALE) for edge in seen.box)
    names = look.inked.color[y1:y2, x1:x2][look.inked.mask[y1:y2, x1:x2] > 0]
    return COLOR_NAMES[int(np.bincount(names).argmax())]


def _drawn_box(seen: Seen) -> Box:
    """The box to ask the renderer for so that its ink fills the box that was seen; a star's are not the same."""
    left, top, right, bottom = _ink_of(seen.shape)
    x1, y1, x2, y2 = seen.box
    width, height = (x2 - x1) / (right - left), (y2 - y1) / (bottom - top)
    side = (width + height) / 2  # the renderer draws squares
    x, y = (x1 + x2) / 2 - side * (left + right) / 2, (y1 + y2) / 2 - side * (top + bottom) / 2
    return (x, y, x + side, y + side)


@cache
def _ink_of(shape: str) -> Box:
    """Where in its box a shape's ink lies, as shares of the box."""
    x, y, width, height = cv2.boundingRect(find_ink(render(Scene((Drawn(shape, "white", _PROBE),))).picture).mask)
    side = _PROBE[2] - _PROBE[0]
    edges = (x, y, x + width, y + height)
    left, top, right, bottom = ((edge / SCALE - _PROBE[0]) / side for edge in edges)
    return (left, top, right, bottom)
