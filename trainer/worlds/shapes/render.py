"""Draws scenes of the shapes world: the pictures that the networks and the oracles are trained on.

A ``Scene`` is what is in a picture; ``scene_for`` invents one that a prompt's checks describe, leaving everything the
prompt does not say to chance; ``render`` draws it. Nothing here knows of captions or of what is a right answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.worlds.shapes.vocabulary import COLORS, PICTURE_SIZE, SHAPES

_SCALE = 4
"""Pictures are drawn this many times larger and averaged down, so that edges are smooth."""
_GAP = 1.5
"""Free pixels between two shapes."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """One shape in a picture; ``box`` is x1, y1, x2, y2 in pixels."""

    shape: str
    color: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """Everything that is in a picture."""

    objects: tuple[Drawn, ...] = ()
    text: str | None = None
    text_color: str = "white"
    background: tuple[int, int, int] = (34, 36, 44)
    text_offset: tuple[float, float] = (0.0, 0.0)
    text_size: float = 21.0


@dataclass(frozen=True)
class Rendered:
    """A picture [H, W, 3] uint8 and the scene it shows."""

    picture: np.ndarray
    objects: list[Drawn] = field(default_factory=list)
    text: str | None = None


def scene_for(checks: dict[str, Any], rng: np.random.Generator) -> Scene:
    """A random scene of which ``checks`` are true.

    Raises:
        ValueError: if the shapes asked for find no room.
    """
    background = _background(rng)
    if checks.get("text"):
        return Scene(
            text=checks["text"],
            text_color=str(rng.choice(list(COLORS))),
            background=background,
            text_offset=(float(rng.uniform(-2.0, 2.0)), float(rng.uniform(-7.0, 7.0))),
            text_size=float(rng.uniform(20.0, 22.0)),
        )
    wanted = [(c["class"], c.get("color")) for c in checks["include"] for _ in range(c["count"])]
    relation = next((c["position"][0] for c in checks["include"] if "position" in c), None)
    boxes = _place(len(wanted), relation, rng)
    objects = tuple(
        Drawn(shape, color or str(rng.choice(list(COLORS))), box)
        for (shape, color), box in zip(wanted, boxes, strict=True)
    )
    return Scene(objects=objects, background=background)


def random_scene(rng: np.random.Generator, *, max_objects: int = 5) -> Scene:
    """Any number of any shapes in any colours, none included: what a detector must be able to read."""
    count = int(rng.integers(0, max_objects + 1))
    boxes = _place(count, None, rng)
    names = list(COLORS)
    objects = tuple(Drawn(str(rng.choice(SHAPES)), str(rng.choice(names)), box) for box in boxes)
    return Scene(objects=objects, background=_background(rng))


def render(scene: Scene) -> Rendered:
    """Draws a scene; the same scene always gives the same bytes."""
    side = PICTURE_SIZE * _SCALE
    canvas = Image.new("RGB", (side, side), scene.background)
    draw = ImageDraw.Draw(canvas)
    for obj in scene.objects:
        _draw_shape(draw, obj, scene.background)
    if scene.text:
        center = (side / 2 + scene.text_offset[0] * _SCALE, side / 2 + scene.text_offset[1] * _SCALE)
        font = _font(round(scene.text_size * _SCALE))
        draw.text(center, scene.text, fill=COLORS[scene.text_color], font=font, anchor="mm", stroke_width=2)
    small = canvas.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BOX)
    return Rendered(picture=np.asarray(small).copy(), objects=list(scene.objects), text=scene.text)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    grey = rng.integers(24, 56)
    tint = rng.integers(-6, 7, size=3)
    return (int(grey + tint[0]), int(grey + tint[1]), int(grey + tint[2]))


def _place(count: int, relation: str | None, rng: np.random.Generator) -> list[Box]:
    """Boxes that do not touch; with a relation, the second stands in it to the first."""
    low, high = (13.0, 21.0) if count <= 2 else (11.0, 16.0)
    for _ in range(1000):
        boxes: list[Box] = []
        for _ in range(12 * count):
            size = rng.uniform(low, high)
            x, y = rng.uniform(1, PICTURE_SIZE - 1 - size, size=2)
            box = (float(x), float(y), float(x + size), float(y + size))
            if len(boxes) < count and all(_apart(box, other) for other in boxes):
                boxes.append(box)
        if len(boxes) == count and (relation is None or _stands(boxes[1], boxes[0], relation)):
            return boxes
    raise ValueError(f"no room for {count} shapes of {low:.0f} to {high:.0f} pixels in a {PICTURE_SIZE} pixel picture")


def _apart(a: Box, b: Box) -> bool:
    return a[2] + _GAP < b[0] or b[2] + _GAP < a[0] or a[3] + _GAP < b[1] or b[3] + _GAP < a[1]


def _stands(a: Box, b: Box, relation: str) -> bool:
    """Whether a stands clearly in ``relation`` to b: the offset on the relation's axis is the larger by far."""
    dx = (a[0] + a[2] - b[0] - b[2]) / 2
    dy = (a[1] + a[3] - b[1] - b[3]) / 2
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    across = dy if relation in ("left of", "right of") else dx
    return along > 14 and abs(across) < 0.6 * along


def _draw_shape(draw: ImageDraw.ImageDraw, obj: Drawn, background: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (v * _SCALE for v in obj.box)
    fill = COLORS[obj.color]
    cx, cy, r = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2
    match obj.shape:
        case "circle":
            draw.ellipse((x1, y1, x2, y2), fill=fill)
        case "ring":
            draw.ellipse((x1, y1, x2, y2), fill=fill)
            hole = 0.52 * r
            draw.ellipse((cx - hole, cy - hole, cx + hole, cy + hole), fill=background)
        case "square":
            draw.rectangle((x1, y1, x2, y2), fill=fill)
        case "triangle":
            draw.polygon([(cx, y1), (x2, y2), (x1, y2)], fill=fill)
        case "cross":
            bar = 0.34 * r
            draw.rectangle((x1, cy - bar, x2, cy + bar), fill=fill)
            draw.rectangle((cx - bar, y1, cx + bar, y2), fill=fill)
        case "star":
            draw.polygon(_star(cx, cy, r), fill=fill)
        case _:
            raise ValueError(f"unknown shape {obj.shape!r}: choose one of {', '.join(SHAPES)}")


def _star(cx: float, cy: float, r: float) -> list[tuple[float, float]]:
    """Five points; the inner radius is a little fatter than a pentagram's, to survive few pixels."""
    points = []
    for i in range(10):
        radius = r * (1.06 if i % 2 == 0 else 0.48)
        angle = math.pi * i / 5 - math.pi / 2
        points.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle) + 0.05 * r))
    return points
