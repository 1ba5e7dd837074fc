"""`ocr_spelling` with EasyOCR's real weights: what is asked, what is read, and how the two are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rewardmesh.wire.errors import WeightsMissing
from rewardmesh.wire.messages import Scored, ScoreFailure
from services.oracles.ocr_spelling import OcrSettings, OcrSpelling, asked_text, spelling_reward
from tests.unit.services.asking import given, sample
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.render import render, scene_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def oracle() -> OcrSpelling:
    return OcrSpelling()


def words(number: int) -> tuple[list[str], list[np.ndarray]]:
    specs = [spec for spec in heldout_prompts() if spec.kind == "spelling"]
    chosen = [specs[index % len(specs)].checks for index in range(number)]
    return [checks["text"] for checks in chosen], [
        render(scene_for(checks, np.random.default_rng(900 + index))).picture for index, checks in enumerate(chosen)
    ]


@pytest.mark.parametrize(
    ("prompt", "text", "asked"),
    [
        ('a sign that says "OPEN"', None, "OPEN"),
        ("a sign that says “OPEN”", None, "OPEN"),
        ("a sign that says 'OPEN LATE'", None, "OPEN LATE"),
        ('"ONE" above "TWO"', None, "ONE TWO"),
        ('a sign that says "OPEN"', "SHUT", "SHUT"),
        ("a dog's sign, the cat's sign", None, None),
        ("the word OPEN", None, None),
        ("the word OPEN", "", None),
    ],
)
def test_what_is_asked_is_the_text_or_the_quoted(prompt: str, text: str | None, asked: str | None) -> None:
    assert asked_text(sample(prompt=prompt, text=text)) == asked


@pytest.mark.parametrize(
    ("read", "asked", "reward"),
    [
        ("CAT", "CAT", 1.0),
        ("cat", "CAT", 1.0),
        ("  CAT\n", "CAT", 1.0),
        ("OPEN  LATE", "OPEN LATE", 1.0),
        ("CUT", "CAT", 2 / 3),
        ("", "CAT", 0.0),
        ("DOG", "CAT", 0.0),
        ("CATCAT", "CAT", 0.5),
    ],
)
def test_reward_is_one_less_the_edit_distance(read: str, asked: str, reward: float) -> None:
    assert spelling_reward(read, asked) == pytest.approx(reward)


def test_it_reads_rendered_words(oracle: OcrSpelling) -> None:
    texts, pictures = words(64)
    results = oracle.score([given(p, f"s{i}", text=t) for i, (t, p) in enumerate(zip(texts, pictures, strict=True))])
    assert [result.detail["read"] for result in results if isinstance(result, Scored)] == texts
    assert all(isinstance(result, Scored) and result.reward == 1.0 and result.detail["strict"] for result in results)


def test_another_word_is_rewarded_by_its_letters(oracle: OcrSpelling) -> None:
    texts, pictures = words(1)
    other = "X" + texts[0][1:]
    (result,) = oracle.score([given(pictures[0], prompt=f'the word "{other}"')])
    assert isinstance(result, Scored)
    assert result.reward == pytest.approx(2 / 3)
    assert (result.detail["read"], result.detail["asked"]) == (texts[0], other)


def test_an_empty_picture_reads_as_nothing(oracle: OcrSpelling) -> None:
    (result,) = oracle.score([given(np.full((48, 48, 3), 40, np.uint8), text="CAT")])
    assert isinstance(result, Scored)
    assert (result.reward, result.detail["read"], result.detail["confidence"]) == (0.0, "", 0.0)


def test_what_it_cannot_judge_is_a_failure(oracle: OcrSpelling) -> None:
    (_, (picture, *_)) = words(1)
    nothing, outside = oracle.score([given(picture, "a"), given(picture, "b", text="ÄÖ1")])
    assert isinstance(nothing, ScoreFailure)
    assert isinstance(outside, ScoreFailure)
    assert {nothing.code, outside.code} == {"missing_checks"}
    assert "allowlist" in outside.detail


def test_other_settings_are_other_versions(oracle: OcrSpelling) -> None:
    """With CRAFT, and with every character that EasyOCR knows: the road that `Reader.readtext` takes."""
    other = OcrSpelling(OcrSettings(detect=True, allowlist=None))
    assert other.info.version != oracle.info.version
    texts, pictures = words(2)
    assert [text.upper() for text, _ in other.read(pictures)] == texts
    assert other.read([np.full((48, 48, 3), 40, np.uint8)]) == [("", 0.0)]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"english_g2\.pth"):
        OcrSpelling(OcrSettings(weights_folder=tmp_path))
    (tmp_path / "english_g2.pth").write_bytes(b"nothing of use")
    with pytest.raises(WeightsMissing, match="cannot be read"):
        OcrSpelling(OcrSettings(weights_folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["english_g2.pth"]
