"""GenEval's rules on objects that were seen: its own implementation, from the published description.

A picture passes if every `include` holds and no `exclude` does. Nothing is graded here: what is no reward needs none.

The clauses are read in order. One that holds hands its objects on, so that a later one can be placed against them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from benchmarks.independent.shapes import Seen

__all__ = ["faults", "stands"]

_SLACK = 0.1
"""Of the extents of both: an offset smaller than this share of them is none."""


def faults(checks: Mapping[str, Any], objects: Sequence[Seen]) -> list[str]:
    """Everything that is wrong with a picture; an empty list passes.

    `checks` is GenEval's metadata (`include`, `exclude`); `objects` are taken by how well they fit.
    """
    ranked = sorted(objects, key=lambda seen: -seen.fit)
    held: list[Sequence[Seen]] = []
    wrong: list[str] = []
    for clause in checks.get("include", ()):
        chosen = [seen for seen in ranked if seen.shape == clause["class"]][: clause["count"]]
        fault = _fault(clause, chosen, held)
        held.append(() if fault else chosen)
        if fault:
            wrong.append(fault)
    for clause in checks.get("exclude", ()):
        number = sum(seen.shape == clause["class"] for seen in ranked)
        if number >= clause["count"]:
            wrong.append(f"{number} of {clause['class']}, where {clause['count']} are too many")
    return wrong


def _fault(clause: Mapping[str, Any], chosen: Sequence[Seen], held: Sequence[Sequence[Seen]]) -> str:
    """What is wrong with one clause, or nothing."""
    name, count = clause["class"], clause["count"]
    if len(chosen) < count:
        return f"{len(chosen)} of {name}, where {count} are wanted"
    color = clause.get("color")
    if color is not None and any(seen.color != color for seen in chosen):
        return f"{name} is {', '.join(seen.color for seen in chosen)}, where {color} is wanted"
    if "position" in clause:
        relation, index = clause["position"]
        if not held[index]:
            return f"nothing there for {name} to be {relation}"
        if not all(stands(one, other, relation) for one, other in product(chosen, held[index])):
            return f"{name} is not {relation} {held[index][0].shape}"
    return ""


def stands(one: Seen, other: Seen, relation: str) -> bool:
    """Whether `one` is `left of`, `right of`, `above` or `below` the other.

    The offset of the centres, each axis brought towards 0 by a tenth of both extents, must go that way by more than
    half of the whole offset's length. It may go two ways at once.
    """
    whole = [a - b for a, b in zip(one.center, other.center, strict=True)]
    extents = [one.box[axis + 2] - one.box[axis] + other.box[axis + 2] - other.box[axis] for axis in (0, 1)]
    length = (whole[0] ** 2 + whole[1] ** 2) ** 0.5
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
    along = sign * whole[axis] - _SLACK * extents[axis]
    return bool(length > 0 and along > 0.5 * length)
