"""The shapes world: prompts and their split, pictures, captions, tokenizer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from rewardmesh.wire.messages import Checks
from trainer.worlds.shapes.components import build_tokenizer
from trainer.worlds.shapes.dataset import caption_of
from trainer.worlds.shapes.prompts import SEED_SPLIT_KINDS, all_prompts, heldout_prompts, train_prompts
from trainer.worlds.shapes.render import random_scene, render, scene_for
from trainer.worlds.shapes.vocabulary import COLORS, COUNTS, KINDS, PICTURE_SIZE, SHAPES, WORDS


def test_all_seven_kinds_over_six_shapes_and_six_colours() -> None:
    assert len(SHAPES) >= 6
    assert len(COLORS) >= 6
    assert (
        set(Counter(p.kind for p in train_prompts())) == set(KINDS) == set(Counter(p.kind for p in heldout_prompts()))
    )


def test_training_and_heldout_prompts_share_no_combination() -> None:
    train = {p.key for p in train_prompts() if p.kind not in SEED_SPLIT_KINDS}
    heldout = {p.key for p in heldout_prompts() if p.kind not in SEED_SPLIT_KINDS}
    assert not train & heldout
    assert not {p.prompt for p in train_prompts() if p.kind not in SEED_SPLIT_KINDS} & {
        p.prompt for p in heldout_prompts() if p.kind not in SEED_SPLIT_KINDS
    }
    assert len(train) + len(heldout) == len({p.key for p in all_prompts() if p.kind not in SEED_SPLIT_KINDS})


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("two_object", SHAPES),
        ("counting", SHAPES),
        ("counting", COLORS),
        ("counting", ("2", "3", "4")),
        ("colors", SHAPES),
        ("colors", COLORS),
        ("position", SHAPES),
        ("position", ("left", "above")),
        ("color_attr", SHAPES),
        ("color_attr", COLORS),
    ],
)
def test_what_is_held_out_is_spread_over_shapes_colours_counts_and_relations(kind: str, names: Iterable[str]) -> None:
    keys = {p.key.partition("|")[2] for p in heldout_prompts() if p.kind == kind}
    held = Counter(word for key in keys for word in re.split(r"[ +]", key))
    assert max(held[name] for name in names) - min(held[name] for name in names) <= 2


def test_each_shape_is_counted_in_training_at_every_number() -> None:
    asked = {tuple(p.key.partition("|")[2].split()[::2]) for p in train_prompts() if p.kind == "counting"}
    assert asked == {(str(number), shape) for number in COUNTS for shape in SHAPES}


def test_a_count_may_name_a_colour() -> None:
    checks = {p.prompt: p.checks for p in all_prompts()}
    assert checks["three red crosses"]["include"] == [{"class": "cross", "count": 3, "color": "red"}]
    assert checks["three crosses"]["include"] == [{"class": "cross", "count": 3}]
    assert (
        checks["three red crosses"]["exclude"] == checks["three crosses"]["exclude"] == [{"class": "cross", "count": 4}]
    )


def test_mirrored_positions_mean_the_same_combination() -> None:
    keys = {p.prompt: p.key for p in all_prompts()}
    assert keys["a circle left of a star"] == keys["a star right of a circle"]
    assert keys["a circle above a star"] == keys["a star below a circle"]
    assert keys["a circle left of a star"] != keys["a star left of a circle"]


@pytest.mark.parametrize("kind", KINDS)
def test_checks_are_genevals_shape_and_pictures_can_be_drawn(kind: str) -> None:
    rng = np.random.default_rng(0)
    for spec in [p for p in all_prompts() if p.kind == kind][:40]:
        checks = Checks.from_metadata(spec.checks)
        assert checks.tag == kind
        scene = scene_for(spec.checks, rng)
        rendered = render(scene)
        assert rendered.picture.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
        assert rendered.picture.dtype == np.uint8
        wanted = Counter({clause.cls: clause.count for clause in checks.include})
        assert Counter(o.shape for o in scene.objects) == wanted
        assert rendered.text == checks.text


def test_shapes_lie_inside_the_picture_and_apart() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        boxes = [o.box for o in random_scene(rng).objects]
        for i, a in enumerate(boxes):
            assert min(a[:2]) >= 0
            assert max(a[2:]) <= PICTURE_SIZE
            assert all(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for b in boxes[:i])


def test_the_same_scene_gives_the_same_bytes() -> None:
    scene = scene_for(all_prompts()[0].checks, np.random.default_rng(3))
    assert np.array_equal(render(scene).picture, render(scene).picture)


def test_a_third_of_the_captions_are_wrong_and_of_their_own_kind() -> None:
    rng = np.random.default_rng(4)
    prompts = {kind: [p for p in train_prompts() if p.kind == kind] for kind in KINDS}
    kind_of = {p.prompt: p.kind for p in train_prompts()}
    wrong = 0
    for _ in range(1500):
        spec = train_prompts()[int(rng.integers(len(train_prompts())))]
        caption = caption_of(spec, rng, prompts=prompts, wrong_share=1 / 3)
        assert kind_of[caption] == spec.kind
        wrong += caption != spec.prompt
    assert 0.29 < wrong / 1500 < 0.38  # a third, within four standard errors


def test_quoted_words_are_read_by_letter_and_all_else_by_word(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer('the word "RED"').input_ids)
    assert pieces[-5:-2] == ["r", "e", "d</w>"]
    assert "red" in tokenizer.convert_ids_to_tokens(tokenizer("a red star").input_ids)
    assert all(len(tokenizer(word).input_ids) == 5 for word in WORDS)
