"""Quality measures get worse when pictures do, and their intervals hold what they should."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.degraded import blurred, drifted, noisy
from benchmarks.measures.bootstrap import Drawn, Mean, draw_weights, drawn
from benchmarks.measures.diversity import Collisions, Entropy, collisions, free_values
from benchmarks.measures.features import KernelDistance
from benchmarks.measures.look import Look, look
from benchmarks.measures.pixels import edge_sharpness, ground_noise, palette_error
from benchmarks.measures.structure import nearest_render, render_distance, similarity
from benchmarks.measures.table import MEASURES, measure_pictures, worsened
from benchmarks.quality import content_of, table_of
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts
from trainer.worlds.shapes.render import Drawn as Shape
from trainer.worlds.shapes.render import Scene, render, scene_for
from trainer.worlds.shapes.vocabulary import KINDS

GROUP = 3
ASKED = [spec for kind in KINDS for spec in [one for one in heldout_prompts() if one.kind == kind][:2]]
SPECS = [spec for spec in ASKED for _ in range(GROUP)]
PROMPTS = [number for number in range(len(ASKED)) for _ in range(GROUP)]
WEIGHTS = draw_weights([spec.kind for spec in ASKED], num_draws=25)


def renders(seed: int, specs: list[PromptSpec] = SPECS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([render(scene_for(spec.checks, rng)).picture for spec in specs])


def mean(measure: Callable[[Look], float | None], pictures: np.ndarray) -> float:
    """Over one picture of each kind."""
    values = [measure(look(picture, spec.checks)) for picture, spec in zip(pictures, ASKED[::2], strict=True)]
    return float(np.mean([value for value in values if value is not None]))


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    return renders(1, ASKED[::2])


def test_blur_costs_sharpness(clean: np.ndarray) -> None:
    values = [mean(edge_sharpness, one) for one in (clean, *(blurred(clean, sigma) for sigma in (0.5, 1.0, 1.5)))]
    assert 0.6 < values[0] < 1.0
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5 * values[0]


def test_drift_of_colors_is_an_error_of_the_palette(clean: np.ndarray) -> None:
    values = [mean(palette_error, drifted(clean, share)) for share in (0.0, 0.05, 0.1, 0.2)]
    assert values[0] < 6
    assert values == sorted(values)
    assert values[-1] > 20


def test_noise_is_seen_on_the_ground(clean: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    values = [mean(ground_noise, noisy(clean, deviation, rng)) for deviation in (0.0, 2.0, 5.0, 10.0)]
    assert values[0] < 0.1
    assert values == sorted(values)
    assert values[-1] == pytest.approx(10, rel=0.25)


def test_what_no_renderer_would_draw_is_far_from_every_render(clean: np.ndarray) -> None:
    blurs = [mean(render_distance, blurred(clean, sigma) if sigma else clean) for sigma in (0, 0.6, 1.0, 1.5)]
    assert blurs[0] < 0.04
    assert blurs == sorted(blurs)
    bent = np.stack([np.stack([np.roll(row, 3 * (y // 3 % 2), axis=0) for y, row in enumerate(one)]) for one in clean])
    assert mean(render_distance, bent) > 0.15


def test_the_nearest_render_of_a_render_is_itself() -> None:
    scene = Scene(
        (Shape("star", "green", (5, 6, 20, 21)), Shape("ring", "white", (27, 25, 42, 40))), background=(30,) * 3
    )
    picture = render(scene).picture
    (found,) = nearest_render(look(picture, {"include": []}))
    assert np.abs(found.astype(int) - picture).mean() < 2
    assert similarity(picture, picture).min() == pytest.approx(1)


def test_a_wrong_word_is_far_from_the_word_that_was_asked_for() -> None:
    picture = render(Scene(text="BAD", text_color="red", text_offset=(1, -4))).picture
    right, wrong = (render_distance(look(picture, {"text": text})) for text in ("BAD", "NUT"))
    assert right is not None and wrong is not None
    assert right < 0.05 < wrong


def test_nothing_drawn_is_nothing_to_measure() -> None:
    even = look(np.full((48, 48, 3), 40, np.uint8), {"include": []})
    assert [measure(even) for measure in (edge_sharpness, palette_error, render_distance)] == [None] * 3
    with pytest.raises(ValueError, match="anything to measure"):
        Mean([None, None], [0, 0], 1)


def test_renders_are_near_renders_and_what_is_worse_is_further() -> None:
    reference, others = renders(2), renders(3)
    whole = np.ones(len(ASKED))

    def distance(pictures: np.ndarray) -> float:
        return KernelDistance(pictures, PROMPTS, reference, PROMPTS)(whole)

    near = distance(others)
    assert abs(near) < 15
    assert near < distance(blurred(others, 0.6)) < distance(blurred(others, 1.2))
    assert near < distance(drifted(others, 0.2)) < distance(drifted(others, 0.4))
    assert near + 50 < distance(np.repeat(others[::GROUP], GROUP, axis=0)[: len(others)] // 2)


def test_a_prompt_that_counts_twice_is_as_if_it_were_there_twice() -> None:
    pictures, reference, weights = renders(4), renders(5), np.ones(len(ASKED))
    twice = weights.copy()
    twice[0] = 0
    without = KernelDistance(pictures, PROMPTS, reference, PROMPTS)(twice)
    kept = [index for index, prompt in enumerate(PROMPTS) if prompt]
    fewer = [PROMPTS[index] - 1 for index in kept]
    scale_of_all = KernelDistance(pictures[kept], fewer, reference[kept], fewer)(weights[1:])
    assert without == pytest.approx(scale_of_all, abs=10)  # features are scaled by the renders that are there


def test_collisions_are_counted_between_pictures_only() -> None:
    pictures = [[("star", "red"), ("star", "red")], [("star", "red")], [("star", "blue"), ("ring", "red")]]
    assert collisions(pictures) == Collisions(same=2, pairs=5)
    assert collisions([]) == Collisions(0, 0)


def test_entropy_is_log2_of_the_number_of_values() -> None:
    rng = np.random.default_rng(0)
    groups = [[[("star", int(rng.integers(6)))] for _ in range(4)] for _ in range(3000)]
    found = Entropy({number: collisions(group) for number, group in enumerate(groups)}, len(groups))
    assert found(np.ones(len(groups))) == pytest.approx(math.log2(6), abs=0.05)


def test_what_a_prompt_leaves_free() -> None:
    def free(kind: str) -> set[str]:
        spec = next(one for one in heldout_prompts() if one.kind == kind)
        picture = render(scene_for(spec.checks, np.random.default_rng(0))).picture
        return {name for name, values in free_values(look(picture, spec.checks)).items() if values}

    assert free("counting") == {"color", "place", "size"}
    assert free("position") == {"color", "size"}
    assert free("color_attr") == {"place", "size"}
    assert free("spelling") == {"color"}


def test_collapse_is_seen_in_every_entropy_and_marked_as_worse() -> None:
    reference, varied = renders(6), renders(7)
    collapsed = np.repeat(varied[::GROUP], GROUP, axis=0)
    columns = {
        name: measure_pictures(pictures, SPECS, renders=reference, prompts=PROMPTS, weights=WEIGHTS)
        for name, pictures in (("student", varied), ("collapsed", collapsed))
    }
    for name in ("color_entropy", "place_entropy", "size_entropy"):
        assert columns["collapsed"][name].value < 0.5  # two stars in one picture may be of two colours
        assert columns["student"][name].value > 1
    _, lines = table_of(columns, "student")
    (line,) = lines
    assert all(f"{attribute}_entropy" in line for attribute in ("color", "place", "size"))
    assert not any(name in line for name in ("edge_sharpness", "palette_error", "ground_noise"))
    content = content_of(columns, "student")
    assert set(content["student"]) == set(MEASURES)
    assert content["collapsed"]["color_entropy"]["worse"] is True
    low, high = content["collapsed"]["color_entropy"]["difference"]["interval"]
    assert low <= content["collapsed"]["color_entropy"]["difference"]["value"] <= high < 0


def test_draws_keep_the_number_of_prompts_of_every_kind() -> None:
    kinds = [spec.kind for spec in ASKED]
    weights = draw_weights(kinds, num_draws=20)
    for kind in KINDS:
        assert (weights[:, [one == kind for one in kinds]].sum(1) == 2).all()
    assert (draw_weights(kinds, num_draws=20) == weights).all()


def test_an_interval_of_a_mean_is_that_of_its_prompts() -> None:
    """Prompts of 25 pictures each that are all alike: what counts is how many prompts there are."""
    rng = np.random.default_rng(0)
    prompts = [number for number in range(100) for _ in range(25)]
    values = np.repeat(rng.normal(0, 1, 100), 25)
    found = drawn(Mean(list(values), prompts, 100), draw_weights(["one"] * 100, num_draws=2000))
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 10, rel=0.1)
    assert (found - found).interval() == (0, 0)


def test_worse_has_a_direction() -> None:
    higher = Drawn(1.0, np.full(10, 1.0))
    lower = Drawn(-1.0, np.full(10, -1.0))
    assert worsened("palette_error", higher) and not worsened("palette_error", lower)
    assert worsened("edge_sharpness", lower) and not worsened("edge_sharpness", higher)
