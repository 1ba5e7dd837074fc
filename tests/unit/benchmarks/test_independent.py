"""The independent evaluator: it reads every word of a prompt in pictures of it, however softly they are drawn."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.degraded import blurred, noisy
from benchmarks.independent.ground import find_ink
from benchmarks.independent.judge import IndependentJudge
from benchmarks.independent.rules import faults, stands
from benchmarks.independent.shapes import Seen, see
from benchmarks.independent.words import WordReader
from benchmarks.near_misses import near_miss
from rewardmesh.wire.errors import WeightsMissing
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts
from trainer.worlds.shapes.render import Drawn, Scene, render, scene_for
from trainer.worlds.shapes.vocabulary import COLORS, KINDS, SHAPES

PICTURES = 10
DARK = (34, 36, 44)


@pytest.fixture(scope="module")
def judge() -> IndependentJudge:
    return IndependentJudge()


def drawn(kind: str) -> tuple[list[PromptSpec], np.ndarray]:
    rng = np.random.default_rng(KINDS.index(kind))
    of_kind = [spec for spec in heldout_prompts() if spec.kind == kind]
    specs = [of_kind[index % len(of_kind)] for index in range(PICTURES)]
    return specs, np.stack([render(scene_for(spec.checks, rng)).picture for spec in specs])


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_renders_and_every_word_of_their_prompts(kind: str, judge: IndependentJudge) -> None:
    """`python -m benchmarks.evaluators` reads many more."""
    specs, pictures = drawn(kind)
    rng = np.random.default_rng(0)
    for variant in (pictures, blurred(pictures, 1.0), noisy(pictures, 12.0, rng)):
        passes, details = judge(variant, specs)
        assert all(passes), [detail["reasons"] for detail in details]
    passes, details = judge(pictures, [near_miss(spec, rng) for spec in specs])
    assert not any(passes)
    assert all(detail["reasons"] for detail in details)


def scene(*objects: Drawn) -> np.ndarray:
    return render(Scene(objects, background=DARK)).picture


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [11.0, 21.0])
def test_a_shape_is_seen_where_it_is(shape: str, side: float) -> None:
    box = (9.3, 14.6, 9.3 + side, 14.6 + side)
    (seen,) = see(scene(Drawn(shape, "blue", box)))
    assert (seen.shape, seen.color) == (shape, "blue")
    assert np.abs(np.subtract(seen.box, box)).max() < 1.5  # a star's ink does not fill its box
    assert seen.fit > 0.8
    assert seen.color_error < 15


def test_shapes_that_touch_are_taken_apart() -> None:
    by_color = scene(Drawn("square", "red", (8, 8, 22, 22)), Drawn("square", "white", (22, 10, 36, 24)))
    assert sorted((one.shape, one.color) for one in see(by_color)) == [("square", "red"), ("square", "white")]
    by_waist = scene(Drawn("circle", "green", (6, 14, 22, 30)), Drawn("circle", "green", (21, 14, 37, 30)))
    assert [(one.shape, one.color) for one in see(by_waist)] == [("circle", "green")] * 2


def test_a_shape_of_two_colors_is_one_shape() -> None:
    picture = Image.new("RGB", (48, 48), DARK)
    ImageDraw.Draw(picture).rectangle((10, 10, 25, 17), fill=COLORS["red"])
    ImageDraw.Draw(picture).rectangle((10, 18, 25, 25), fill=COLORS["yellow"])
    assert [one.shape for one in see(np.asarray(picture))] == ["square"]


def test_what_is_no_shape_and_what_is_no_color_is_said_to_be_none() -> None:
    picture = Image.new("RGB", (48, 48), DARK)
    ImageDraw.Draw(picture).rectangle((4, 20, 44, 26), fill=COLORS["red"])
    assert see(np.asarray(picture)) == []
    picture = Image.new("RGB", (48, 48), DARK)
    ImageDraw.Draw(picture).rectangle((10, 10, 25, 25), fill=(0, 220, 255))
    assert [one.color for one in see(np.asarray(picture))] == ["none"]


@pytest.mark.parametrize("level", [0, 40, 255])
def test_an_even_picture_shows_nothing(level: int, judge: IndependentJudge) -> None:
    even = np.full((48, 48, 3), level, np.uint8)
    assert not find_ink(even).mask.any()
    assert see(even) == []
    word = next(spec for spec in heldout_prompts() if spec.kind == "spelling")
    passes, details = judge(even[None], [word])
    assert (passes, details[0]["read"]) == ([False], "")


def test_a_word_is_read_letter_by_letter() -> None:
    reader = WordReader()
    words = ["BAD", "NUT", "LOP", "SET"]
    pictures = [render(Scene(text=word, text_color="purple", background=DARK)).picture for word in words]
    assert reader.read(pictures) == words
    assert reader.read([]) == []


def test_the_package_of_the_weights_is_not_run() -> None:
    """Its code would fetch what it does not find; only its file of weights is opened."""
    WordReader()
    assert "rapidocr" not in sys.modules


def test_missing_weights_are_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WeightsMissing, match="install rapidocr"):
        WordReader()


def seen(shape: str, x: float = 10, y: float = 10, *, color: str = "red", fit: float = 0.9) -> Seen:
    return Seen(shape, color, (x, y, x + 10, y + 10), fit, 80.0, 5.0)


def wants(*include: dict[str, Any], exclude: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"tag": "t", "include": list(include), "exclude": list(exclude)}


def one(shape: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": shape, "count": count, **more}


def test_counts() -> None:
    two = wants(one("star", 2), exclude=(one("star", 3),))
    assert faults(two, [seen("star"), seen("star", 30), seen("ring")]) == []
    assert faults(two, [seen("star")]) == ["1 of star, where 2 are wanted"]
    assert faults(two, [seen("star")] * 3) == ["3 of star, where 3 are too many"]


def test_colors_are_those_of_the_best_fitting_objects() -> None:
    red = wants(one("star", color="red"))
    assert faults(red, [seen("star", fit=0.9), seen("star", color="blue", fit=0.8)]) == []
    assert faults(red, [seen("star", fit=0.7), seen("star", color="blue", fit=0.8)]) != []


def test_places_need_a_clause_that_held() -> None:
    left = wants(one("ring"), one("star", position=["left of", 0]))
    assert faults(left, [seen("ring", 30), seen("star", 10)]) == []
    assert faults(left, [seen("ring", 10), seen("star", 30)]) == ["star is not left of ring"]
    told = faults(left, [seen("star", 30)])
    assert told == ["0 of ring, where 1 are wanted", "nothing there for star to be left of"]


@pytest.mark.parametrize(
    ("offset", "holds"),
    [
        ((10, 0), {"right of"}),
        ((-10, 0), {"left of"}),
        ((0, 10), {"below"}),
        ((0, -10), {"above"}),
        ((20, 20), {"right of", "below"}),  # (20 - 2) / 28.3 on both axes
        ((5, 20), {"below"}),
        ((1.5, 0), set()),  # within a tenth of both extents
        ((4, 0), set()),  # (4 - 2) / 4 is not more than a half
        ((4.1, 0), {"right of"}),
        ((0, 0), set()),
    ],
)
def test_places_by_the_shrunk_offset(offset: tuple[float, float], holds: set[str]) -> None:
    found = {
        relation
        for relation in ("left of", "right of", "above", "below")
        if stands(seen("star", 20 + offset[0], 20 + offset[1]), seen("ring", 20, 20), relation)
    }
    assert found == holds
