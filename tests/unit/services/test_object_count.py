"""`object_count` with its real weights: it reads rendered pictures, explains itself, and says what it cannot judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from rewardmesh.wire.errors import WeightsMissing
from rewardmesh.wire.messages import Checks, Sample, Scored, ScoreFailure
from services.oracles.color import ClipColorJudge, Crop, NetColorJudge
from services.oracles.detector import Detector, build_network
from services.oracles.geneval import COLORS
from services.oracles.object_count import ObjectCount, ObjectCountSettings, OracleInput
from tests.unit.services.asking import GREY, given
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts
from trainer.worlds.shapes.render import Drawn, Scene, render, scene_for
from trainer.worlds.shapes.vocabulary import COLORS as COLOR_VALUES
from trainer.worlds.shapes.vocabulary import KINDS, SHAPES

pytestmark = pytest.mark.timeout(300)
OBJECT_KINDS = tuple(kind for kind in KINDS if kind != "spelling")


@pytest.fixture(scope="module")
def oracle() -> ObjectCount:
    return ObjectCount()


def picture_of(spec: PromptSpec, seed: int) -> np.ndarray:
    return render(scene_for(spec.checks, np.random.default_rng(seed))).picture


def as_input(spec: PromptSpec, picture: np.ndarray, sample_id: str) -> OracleInput:
    sample = Sample(
        run_id="run",
        group_id="group",
        sample_id=sample_id,
        policy_version=0,
        boundary_index=4,
        prompt=spec.prompt,
        checks=Checks.from_metadata(spec.checks),
    )
    return OracleInput(sample, picture)


@pytest.mark.parametrize("kind", OBJECT_KINDS)
def test_it_reads_rendered_pictures(oracle: ObjectCount, kind: str) -> None:
    specs = [spec for spec in heldout_prompts() if spec.kind == kind]
    chosen = [specs[index % len(specs)] for index in range(48)]
    inputs = [as_input(spec, picture_of(spec, 500 + i), f"s{i}") for i, spec in enumerate(chosen)]
    results = oracle.score(inputs)
    passed = sum(isinstance(result, Scored) and result.reward == 1.0 for result in results)
    assert passed >= 46  # 0.98 is measured on many more, in services/weights/README.md


def test_a_picture_with_several_prompts_is_looked_at_once(oracle: ObjectCount, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [spec for spec in heldout_prompts() if spec.kind == "color_attr"][:3]
    pictures = [picture_of(spec, i) for i, spec in enumerate(specs)]
    pairs = [as_input(spec, picture, f"{i}") for picture in pictures for i, spec in enumerate(specs)]
    alone = [oracle.score([pair])[0] for pair in pairs]
    seen: list[int] = []
    detect = oracle._detector.detect
    monkeypatch.setattr(
        oracle._detector, "detect", lambda given, **more: (seen.append(len(given)), detect(given, **more))[1]
    )
    together = oracle.score(pairs)
    assert seen == [3]
    assert [r.reward for r in together] == [r.reward for r in alone]
    assert [r.reward for r in together[::4]] == [1.0] * 3 and len({r.reward for r in together}) > 1


def test_it_explains_a_reward(oracle: ObjectCount) -> None:
    spec = next(spec for spec in heldout_prompts() if spec.kind == "color_attr")
    first, second = spec.checks["include"]
    swapped = {**spec.checks, "include": [{**first, "color": second["color"]}, {**second, "color": first["color"]}]}
    picture = picture_of(spec, 3)
    right, wrong = oracle.score([as_input(spec, picture, "a"), given(picture, "b", **swapped)])
    assert isinstance(right, Scored)
    assert isinstance(wrong, Scored)
    assert right.detail["strict"] is True
    assert right.detail["reasons"] == []
    assert {box["class"]: box["color"] for box in right.detail["boxes"]} == {
        first["class"]: first["color"],
        second["class"]: second["color"],
    }
    assert len(wrong.detail["reasons"]) == 2
    assert wrong.detail["graded"] == 0.5
    assert wrong.reward == pytest.approx(0.375)
    json.dumps(wrong.detail, allow_nan=False)


def test_an_empty_picture_holds_nothing(oracle: ObjectCount) -> None:
    (result,) = oracle.score([given(np.full((48, 48, 3), 40, np.uint8), include=[{"class": "circle"}])])
    assert isinstance(result, Scored)
    assert (result.reward, result.detail["boxes"]) == (0.0, [])


def rounded_square(side: int, radius: float) -> np.ndarray:
    """Between a square and a circle; `radius` of the corners as a share of the side, 0.5 is a circle."""
    scale = 8
    canvas = Image.new("RGB", (48 * scale, 48 * scale), (34, 36, 44))
    corners = ((24 - side / 2) * scale, (24 - side / 2) * scale, (24 + side / 2) * scale, (24 + side / 2) * scale)
    ImageDraw.Draw(canvas).rounded_rectangle(corners, radius=radius * side * scale, fill=COLOR_VALUES["red"])
    return np.asarray(canvas.resize((48, 48), Image.Resampling.BOX)).copy()


@pytest.mark.parametrize(("side", "radius"), [(14, 0.30), (16, 0.32), (18, 0.34), (20, 0.34)])
def test_one_object_is_not_two_classes(oracle: ObjectCount, side: int, radius: float) -> None:
    two = given(rounded_square(side, radius), "two", include=[{"class": "square"}, {"class": "circle"}])
    twice = ObjectCount(ObjectCountSettings(across_classes=False)).score([two])[0]
    assert isinstance(twice, Scored)
    assert twice.reward == 1.0  # what suppression in each class alone would reward
    (once,) = oracle.score([two])
    assert isinstance(once, Scored)
    assert len(once.detail["boxes"]) == 1
    assert once.reward < 0.5


@pytest.mark.parametrize("other", SHAPES)
def test_neighbours_are_each_counted(oracle: ObjectCount, other: str) -> None:
    """As near as the world draws them, beside each other."""
    near = (Drawn("square", "red", (5.0, 14.0, 23.0, 32.0)), Drawn(other, "red", (24.6, 14.0, 42.6, 32.0)))
    (boxes,) = oracle.detect([given(render(Scene(objects=near)).picture, include=[{"class": "square"}])])
    assert sorted(box.class_name for found in boxes.values() for box in found) == sorted(("square", other))


class TwoNames(torch.nn.Module):
    """A one-to-one head's answer: one place under two classes, and a place half of which is another's."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        rows = [[8, 8, 28, 28, 0.4, 1], [9, 8, 29, 28, 0.8, 0], [19, 8, 39, 28, 0.7, 1], [8, 8, 28, 28, 0.3, 0]]
        return torch.tensor([rows] * len(batch), dtype=torch.float32)


@pytest.mark.parametrize(
    ("max_overlap", "across_classes", "kept"),
    [(0.5, True, [0.8, 0.7]), (0.3, True, [0.8]), (0.5, False, [0.8, 0.7, 0.4]), (1.0, True, [0.8, 0.7, 0.4, 0.3])],
)
def test_the_most_confident_of_overlapping_boxes_is_kept(
    max_overlap: float, across_classes: bool, kept: list[float]
) -> None:
    detector = Detector(TwoNames(), ("cat", "dog"), size=48)
    (found,) = detector.detect([GREY], min_confidence=0.0, max_overlap=max_overlap, across_classes=across_classes)
    assert [box.confidence for box in found] == pytest.approx(kept)


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ({}, "no include or exclude"),
        ({"text": "ABC"}, "no include or exclude"),
        ({"include": [{"class": "zebra"}]}, "does not know the class 'zebra'"),
        ({"include": [{"class": "circle", "color": "teal"}]}, "does not know the colour 'teal'"),
        ({"include": [{"class": "circle"}, {"class": "star", "position": ["near", 0]}]}, "unknown relation 'near'"),
        ({"include": [{"class": "circle", "position": ["above", 0]}]}, "points at clause 0"),
    ],
)
def test_what_it_cannot_judge_is_a_failure(oracle: ObjectCount, checks: dict[str, Any], said: str) -> None:
    (result,) = oracle.score([given(GREY, **checks)])
    assert isinstance(result, ScoreFailure)
    assert result.code == "missing_checks"
    assert said in result.detail


def test_pictures_of_many_sizes_in_one_batch(oracle: ObjectCount) -> None:
    spec = next(spec for spec in heldout_prompts() if spec.kind == "single_object")
    small = picture_of(spec, 1)
    large = np.kron(small, np.ones((4, 4, 1), np.uint8))
    results = oracle.score([as_input(spec, small, "a"), as_input(spec, large, "b")])
    assert [result.reward for result in results if isinstance(result, Scored)] == [1.0, 1.0]
    boxes = [result.detail["boxes"][0]["box"] for result in results if isinstance(result, Scored)]
    assert boxes[1] == pytest.approx([4 * edge for edge in boxes[0]], abs=2.0)


def test_settings_that_change_rewards_change_the_version(oracle: ObjectCount) -> None:
    for other in (ObjectCountSettings(strict_share=0.5), ObjectCountSettings(across_classes=False)):
        assert ObjectCount(other).info.version != oracle.info.version


def test_missing_and_broken_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"detector\.safetensors"):
        ObjectCount(ObjectCountSettings(weights_folder=tmp_path))
    for name in ("broken.safetensors", "broken.pt"):
        (tmp_path / name).write_bytes(b"nothing of use")
        with pytest.raises(WeightsMissing, match="broken"):
            Detector.load(tmp_path / name)
    with pytest.raises(WeightsMissing, match=r"none\.pt"):
        Detector.load(tmp_path / "none.pt")
    with pytest.raises(WeightsMissing, match="colour"):
        NetColorJudge.load(tmp_path / "none.safetensors")
    with pytest.raises(WeightsMissing, match="CLIP"):
        ClipColorJudge(tmp_path)


def test_it_takes_an_ultralytics_checkpoint(tmp_path: Path) -> None:
    """A COCO-shaped checkpoint as ultralytics writes it (untrained, so that none has to be fetched)."""
    network = build_network(COCO_SHAPED)
    network.names = {0: "person", 1: "mouse", 2: "remote"}  # type: ignore[assignment]
    path = tmp_path / "coco.pt"
    torch.save({"model": network.half(), "train_args": {}, "epoch": -1}, path)
    detector = Detector.load(path, size=64)
    assert detector.names == ("person", "computer mouse", "tv remote")
    pictures = [GREY, np.zeros((20, 40, 3), np.uint8)]
    found = detector.detect(pictures, min_confidence=0.0, max_overlap=0.5, across_classes=False)
    assert len(found) == 2
    assert all(0 <= box.box[0] <= box.box[2] <= 40 for box in found[1])


COCO_SHAPED: dict[str, Any] = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}


def test_clip_names_one_of_the_ten_colors(tmp_path: Path) -> None:
    judge = ClipColorJudge(tiny_clip(tmp_path))
    rng = np.random.default_rng(0)
    crops = [Crop(rng.integers(0, 255, (48, 48, 3), np.uint8), (1.0, 1.0, 30.0, 40.0), name) for name in SHAPES]
    named = judge.colors(crops)
    assert len(named) == len(crops)
    assert set(named) <= set(COLORS)
    assert judge.colors(crops[2:3]) == named[2:3]
    assert judge.colors([]) == []


def tiny_clip(folder: Path) -> Path:
    """A CLIP of a few thousand parameters with the shapes world's tokenizer, saved as transformers saves one."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from trainer.worlds.shapes.components import build_tokenizer

    tokenizer = build_tokenizer(folder / "tokenizer")
    tokenizer.model_max_length = 77
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**text, "bos_token_id": 0},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
