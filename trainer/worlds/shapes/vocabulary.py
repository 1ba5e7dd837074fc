"""The words of the shapes world: what can be drawn, in which colours, and what can be spelt.

Owns the closed vocabulary that prompts, pictures, the tokenizer and the oracles share. Nothing here draws or samples.
"""

from __future__ import annotations

from itertools import product

PICTURE_SIZE = 48
"""Height and width of every picture, in pixels."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 40),
    "yellow": (245, 215, 40),
    "green": (50, 175, 65),
    "blue": (50, 95, 235),
    "purple": (165, 65, 205),
    "white": (240, 240, 240),
}
"""GenEval's names for six of its ten colours, with the RGB they are drawn in."""

COUNTS: dict[int, str] = {2: "two", 3: "three", 4: "four"}
PLURALS: dict[str, str] = {shape: ("crosses" if shape == "cross" else f"{shape}s") for shape in SHAPES}
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")

LETTERS = "ABDELNOPRSTU"
"""Letters that are easy to tell apart at fourteen pixels."""
WORDS: tuple[str, ...] = tuple("".join(letters) for letters in product("BDLNPRST", "AEOU", "BDLNPRST"))
"""Pronounceable three-letter words, meaningful or not: 256, so that spelling is learnt by letter and not by heart."""

KINDS: tuple[str, ...] = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
    "spelling",
)
"""GenEval's six tags, and spelling."""
