"""`object_count`: a detector's boxes judged by GenEval's rules: count, colour, position, and what must not be there.

Owns putting detector, colour judge and rules together, and what a reward's `detail` says. Reward in [0, 1], 1.0 exactly
when GenEval's strict judgement passes; the graded part is stated in `services.oracles.geneval`.

An object has one class, the one that the detector is surest of: a rounded square is a square or a circle, never one of
each. Otherwise it would meet "a square and a circle" alone, and a generator that is trained on the reward finds that.

Settings make it GenEval's own judge for photographs: `detector` (any ultralytics weights, COCO's say), `clip_folder` (a
local CLIP as the judge of colours), and no suppression across classes, for a rider does overlap the horse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.wire.messages import Checks, OracleInfo, Scored
from services.oracles.color import ClipColorJudge, ColorJudge, Crop, NetColorJudge
from services.oracles.detector import Detector
from services.oracles.geneval import COLORS, DEFAULT_STRICT_SHARE, RELATIONS, Detection, Verdict, judge, select
from services.weights import FOLDER, locate, sha256

__all__ = ["COLOR_FILE", "DETECTOR_FILE", "MEDIA_TYPES", "ObjectCount", "ObjectCountSettings"]

DETECTOR_FILE = "detector.safetensors"
COLOR_FILE = "color.safetensors"
MEDIA_TYPES = ("image/webp", "image/png", "application/x-raw-rgb")

Boxes = dict[str, tuple[Detection, ...]]


@dataclass(frozen=True, kw_only=True)
class ObjectCountSettings:
    """What `object_count` judges with; the defaults are the shapes world's own weights.

    GenEval's detector counts above 0.9 for the tag `counting` and above 0.3 otherwise. Ours is less sure of what it
    sees: at any threshold from 0.25 to 0.6 it reads 0.99 of rendered pictures or more, and 0.5 leaves counting the
    stricter of the two. With COCO weights set 0.9, a `max_overlap` of 0.7 and no
    `across_classes`.

    `max_overlap`: shapes are drawn 1.5 pixels apart or more, and their detected boxes overlap by 0.02 at most; those of
    shapes that lean on one another in a student's pictures by less than 0.3. Above that it is one object seen twice.
    """

    weights_folder: Path = FOLDER  # of the shipped weights
    detector: Path | None = None  # ours (.safetensors) or ultralytics' (.pt); None: the shipped one
    detector_size: int | None = None  # side in pixels that pictures are resized to; None: what the weights say
    clip_folder: Path | None = None  # a local CLIP as judge of colours; None: the shipped classifier
    min_confidence: float = 0.3
    counting_confidence: float = 0.5
    max_overlap: float = 0.3  # of two boxes; GenEval's 1.0 needs a detector that suppresses its own
    across_classes: bool = True  # whether that bound holds for boxes of different classes too
    strict_share: float = DEFAULT_STRICT_SHARE  # of the reward that only a strict pass earns
    max_batch: int = 64
    device: str = "cpu"


class ObjectCount(Oracle):
    """Counts, names, places and colours the objects of a picture, and holds them against the sample's checks."""

    def __init__(self, settings: ObjectCountSettings | None = None) -> None:
        """Raises: WeightsMissing if a file of weights is not there or not the one that was shipped."""
        self._settings = settings or ObjectCountSettings()
        at = self._settings
        path = at.detector or locate(DETECTOR_FILE, at.weights_folder)
        self._detector = Detector.load(path, size=at.detector_size, device=at.device)
        self._colors: tuple[str, ...]
        self._judge: ColorJudge
        if at.clip_folder is not None:
            self._judge, self._colors = ClipColorJudge(at.clip_folder, device=at.device), COLORS
            color_digest = hashlib.sha256(str(at.clip_folder.name).encode()).hexdigest()
        else:
            color_path = locate(COLOR_FILE, at.weights_folder)
            judge_of_ours = NetColorJudge.load(color_path, device=at.device)
            self._judge, self._colors = judge_of_ours, judge_of_ours.names
            color_digest = sha256(color_path)
        self.info = OracleInfo(
            name="object_count",
            version=f"2-{_digest(sha256(path), color_digest, at)}",
            reward_min=0.0,
            reward_max=1.0,
            media_types=MEDIA_TYPES,
            max_batch=at.max_batch,
        )

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        """Detects in one batch, names the asked colours in a second, then judges sample by sample.

        A picture that stands in a batch with several prompts is looked at once.
        """
        results: list[Result] = []
        judged: list[OracleInput] = []
        for one in batch:
            reason = self._unjudgeable(one.sample.checks)
            if reason is None:
                judged.append(one)
            else:
                results.append(failed(one.sample, "missing_checks", reason))
        found = self._boxes(judged)
        colors = self._asked_colors(judged, found)
        share = self._settings.strict_share
        for one, boxes, named in zip(judged, found, colors, strict=True):
            verdict = judge(one.sample.checks, boxes, color_of=named.__getitem__, strict_share=share)
            detail = _detail(verdict, boxes, named)
            results.append(Scored(sample_id=one.sample.sample_id, reward=verdict.reward, detail=detail))
        return results

    def detect(self, batch: Sequence[OracleInput]) -> list[Boxes]:
        """The boxes that judging would see, sample by sample."""
        return self._boxes(batch)

    def _boxes(self, batch: Sequence[OracleInput]) -> list[Boxes]:
        at = self._settings
        pictures = {id(one.picture): one.picture for one in batch}
        detected = self._detector.detect(
            list(pictures.values()),
            min_confidence=min(at.min_confidence, at.counting_confidence),
            max_overlap=at.max_overlap,
            across_classes=at.across_classes,
        )
        of = dict(zip(pictures, detected, strict=True))
        found = [of[id(one.picture)] for one in batch]
        limits = [at.counting_confidence if one.sample.checks.tag == "counting" else at.min_confidence for one in batch]
        return [select(boxes, min_confidence=limit) for boxes, limit in zip(found, limits, strict=True)]

    def _asked_colors(self, batch: Sequence[OracleInput], found: Sequence[Boxes]) -> list[dict[Detection, str]]:
        """Colours of the boxes whose colour a clause asks for, all named in one batch; one dictionary a sample."""
        asked = [list(_to_color(one.sample.checks, boxes)) for one, boxes in zip(batch, found, strict=True)]
        crops = {
            (id(one.picture), detection): Crop(one.picture, detection.box, detection.class_name)
            for one, detections in zip(batch, asked, strict=True)
            for detection in detections
        }
        names = dict(zip(crops, self._judge.colors(list(crops.values())), strict=True))
        return [
            {detection: names[id(one.picture), detection] for detection in detections}
            for one, detections in zip(batch, asked, strict=True)
        ]

    def _unjudgeable(self, checks: Checks) -> str | None:
        """Why these checks cannot be judged here, or None; what cannot be seen is no reason for a reward of 0."""
        if not checks.include and not checks.exclude:
            return "checks hold no include or exclude clause: send this sample to an oracle that fits its prompt"
        for clause in (*checks.include, *checks.exclude):
            if clause.cls not in self._detector.names:
                return f"detector does not know the class {clause.cls!r}: it knows {', '.join(self._detector.names)}"
            if clause.color is not None and clause.color not in self._colors:
                return f"judge does not know the colour {clause.color!r}: it knows {', '.join(self._colors)}"
        for index, clause in enumerate(checks.include):
            if clause.position is None:
                continue
            relation, target = clause.position
            if relation not in RELATIONS:
                return f"unknown relation {relation!r}: use {', '.join(RELATIONS)}"
            if not 0 <= target < index:
                return f"position of clause {index} points at clause {target}: point at an earlier one"
        return None


def _to_color(checks: Checks, boxes: Boxes) -> Iterator[Detection]:
    """The boxes whose colour judging will ask for, each once."""
    colored = [clause for clause in checks.include if clause.color is not None]
    yield from dict.fromkeys(box for clause in colored for box in boxes.get(clause.cls, ())[: clause.count])


def _detail(verdict: Verdict, boxes: Boxes, colors: dict[Detection, str]) -> dict[str, Any]:
    """What explains the reward: every box that judging saw, and every reason against."""
    return {
        "strict": verdict.strict,
        "graded": round(verdict.graded, 6),
        "reasons": list(verdict.reasons),
        "boxes": [
            {
                "class": box.class_name,
                "confidence": round(box.confidence, 4),
                "box": [round(corner, 2) for corner in box.box],
                **({"color": colors[box]} if box in colors else {}),
            }
            for found in boxes.values()
            for box in found
        ],
    }


def _digest(detector: str, color: str, settings: ObjectCountSettings) -> str:
    """Short name of everything that changes a reward, so that a score's version says how it was made."""
    at = settings
    knobs = (at.detector_size, at.min_confidence, at.counting_confidence, at.max_overlap, at.across_classes)
    return hashlib.sha256(repr((detector, color, knobs, at.strict_share)).encode()).hexdigest()[:12]
