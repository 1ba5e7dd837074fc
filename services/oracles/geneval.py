"""GenEval's rules: does a picture, seen as detections, meet the checks of its prompt?

Owns the judging and the graded reward; knows no picture, no network and no model. Detections come from
`services.oracles.object_count`, checks from the sample.

The rules (Ghosh, Hajishirzi, Schmidt 2023), clause by clause; every `include` must hold and no `exclude` may:

- an include takes the `count` most confident boxes of its class, and fails if there are fewer;
- with `color`, at least `count` of those boxes must be judged to be of that colour;
- with `position: [relation, index]`, looked at only if the clause held so far, the relation must hold for each
  of its boxes against each box that clause `index` matched; a clause that failed is nobody's target;
- an exclude fails the picture if its class has at least `count` boxes;
- all clauses are looked at, so that the explanation lists every reason.

The graded reward is this project's own, not GenEval's. `graded` is the mean over the picture's *requirements*, each
in [0, 1]:

- count of an include: boxes taken / count;
- colour of an include: boxes taken that have the colour / count;
- position of an include: share of (box, target) pairs for which the relation holds, 0 without a target;
- an exclude: 1 / (1 + boxes too many), times the share of the same class's include that is there (a picture
  earns nothing for not drawing a fourth circle when it has not drawn the first three).

`reward` is 1.0 if the strict judgement passes, else `(1 - strict_share) * graded`: it is 1.0 exactly when GenEval
would pass the picture, and the groups of a rollout are not all ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rewardmesh.wire.messages import Checks, Clause

__all__ = ["COLORS", "DEFAULT_STRICT_SHARE", "RELATIONS", "Detection", "Verdict", "judge", "relations", "select"]

COLORS: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")

DEFAULT_STRICT_SHARE = 0.25
MAX_BOXES_PER_CLASS = 16
_SHRINK = 0.1  # share of both extents by which a centre offset is shrunk before it counts as a place
_NO_OFFSET = 1e-3  # pixels: a shrunk offset below this on both axes is no relation at all
_RELATION_COSINE = 0.5

ColorOf = Callable[["Detection"], str]


@dataclass(frozen=True, slots=True)
class Detection:
    """One box: class, confidence in [0, 1], corners (x1, y1, x2, y2) in pixels, y downwards; colour if judged."""

    class_name: str
    confidence: float
    box: tuple[float, float, float, float]
    color: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say about one picture: strict pass, reward in [0, 1], graded share, and every reason against."""

    strict: bool
    reward: float
    graded: float
    reasons: tuple[str, ...]
    matched: tuple[tuple[Detection, ...] | None, ...]  # one entry an include: its boxes, or None if it failed


@dataclass(slots=True)
class _Tally:
    """What judging collects on its way through the clauses."""

    requirements: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    matched: list[tuple[Detection, ...] | None] = field(default_factory=list)


def select(detections: Sequence[Detection], *, min_confidence: float) -> dict[str, tuple[Detection, ...]]:
    """Boxes by class, above `min_confidence`, most confident first, at most 16 a class."""
    by_class: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda found: -found.confidence):
        if detection.confidence > min_confidence:
            by_class.setdefault(detection.class_name, []).append(detection)
    return {name: tuple(boxes[:MAX_BOXES_PER_CLASS]) for name, boxes in by_class.items()}


def relations(of: Detection, to: Detection) -> frozenset[str]:
    """Where box `of` lies as seen from box `to`: a subset of RELATIONS, at most one a direction.

    The offset of the centres is shrunk towards 0 on each axis by 0.1 x (extent + extent), then divided by the
    length of the offset before shrinking; an axis counts when it is beyond 0.5.
    """
    offset_x, shrunk_x = _axis_offset(of.box[0::2], to.box[0::2])
    offset_y, shrunk_y = _axis_offset(of.box[1::2], to.box[1::2])
    if abs(shrunk_x) < _NO_OFFSET and abs(shrunk_y) < _NO_OFFSET:
        return frozenset()
    length = math.hypot(offset_x, offset_y)
    x, y = shrunk_x / length, shrunk_y / length
    found = {
        "left of": x < -_RELATION_COSINE,
        "right of": x > _RELATION_COSINE,
        "above": y < -_RELATION_COSINE,
        "below": y > _RELATION_COSINE,
    }
    return frozenset(name for name, holds in found.items() if holds)


def _axis_offset(of: Sequence[float], to: Sequence[float]) -> tuple[float, float]:
    """Centre offset `of` - `to` on one axis, and the same shrunk towards 0; each argument is (low, high)."""
    offset = (of[0] + of[1]) / 2 - (to[0] + to[1]) / 2
    margin = _SHRINK * (abs(of[1] - of[0]) + abs(to[1] - to[0]))
    return offset, math.copysign(max(abs(offset) - margin, 0.0), offset)


def judge(
    checks: Checks,
    boxes: dict[str, tuple[Detection, ...]],
    *,
    color_of: ColorOf | None = None,
    strict_share: float = DEFAULT_STRICT_SHARE,
) -> Verdict:
    """Judge one picture's boxes (from `select`) by its checks.

    `color_of` names the colour of a box; it is called only for the boxes whose colour is asked for. Without it,
    the detections' own `color` is used.
    Raises: ValueError if `checks` holds no object clause (there would be nothing to judge).
    """
    if not checks.include and not checks.exclude:
        raise ValueError("checks hold neither an include nor an exclude clause")
    tally = _Tally()
    ask = color_of or (lambda detection: detection.color or "unknown")
    for clause in checks.include:
        _judge_include(clause, boxes.get(clause.cls, ()), ask, tally)
    for clause in checks.exclude:
        _judge_exclude(clause, checks.include, boxes.get(clause.cls, ()), tally)
    strict = not tally.reasons
    graded = math.fsum(tally.requirements) / len(tally.requirements)
    reward = 1.0 if strict else min((1.0 - strict_share) * graded, math.nextafter(1.0, 0.0))
    return Verdict(
        strict=strict,
        reward=reward,
        graded=graded,
        reasons=tuple(tally.reasons),
        matched=tuple(tally.matched),
    )


def _judge_include(clause: Clause, found: tuple[Detection, ...], ask: ColorOf, tally: _Tally) -> None:
    """One include: count, then colour, then position; appends requirements, reasons and the match."""
    taken = found[: clause.count]
    held = len(taken) == clause.count
    tally.requirements.append(len(taken) / clause.count)
    if not held:
        tally.reasons.append(f"expected {clause.count} {clause.cls}, found {len(taken)}")
    if clause.color is not None:
        colors = [ask(detection) for detection in taken]
        right = colors.count(clause.color)
        tally.requirements.append(right / clause.count)
        if held and right < clause.count:
            held = False
            tally.reasons.append(f"expected {clause.count} {clause.color} {clause.cls}, found {', '.join(colors)}")
    if clause.position is not None:
        held = _judge_position(clause, taken, held, tally)
    tally.matched.append(taken if held else None)


def _judge_position(clause: Clause, taken: tuple[Detection, ...], held: bool, tally: _Tally) -> bool:
    """The position part of an include; returns whether the clause still holds."""
    assert clause.position is not None
    relation, index = clause.position
    target = tally.matched[index] if 0 <= index < len(tally.matched) else None
    if target is None or not taken:
        tally.requirements.append(0.0)
        if held:
            tally.reasons.append(f"no target for {clause.cls} to be {relation}")
        return False
    pairs = [(relations(box, other), other) for box in taken for other in target]
    share = sum(relation in found for found, _ in pairs) / len(pairs)
    # Partial credit asks for the boxes that are there; a missing one must not be paid twice.
    tally.requirements.append(share * len(taken) / clause.count)
    if share < 1.0 and held:
        wrong, other = next((found, other) for found, other in pairs if relation not in found)
        place = " and ".join(sorted(wrong)) or "at no clear side of"
        tally.reasons.append(f"expected {clause.cls} {relation} {other.class_name}, found {place}")
    return held and share == 1.0


def _judge_exclude(clause: Clause, include: tuple[Clause, ...], found: tuple[Detection, ...], tally: _Tally) -> None:
    """One exclude: fails at `count` boxes of its class; graded by how many are too many."""
    too_many = max(0, len(found) - (clause.count - 1))
    wanted = max((other.count for other in include if other.cls == clause.cls), default=0)
    present = min(1.0, len(found) / wanted) if wanted else 1.0
    tally.requirements.append(present / (1 + too_many))
    if too_many:
        tally.reasons.append(f"expected fewer than {clause.count} {clause.cls}, found {len(found)}")
