"""Answers as the queue keeps them, made by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

from services.preference.model import Answer

__all__ = ["answer"]

_numbers = count()


def answer(first: int, second: int | None, preferred: str, *, rater: str = "ada", **more: Any) -> Answer:
    """What one rater said about two pictures, or about one."""
    number = next(_numbers)
    swapped = bool(number % 2)
    sides = {"first": "right", "second": "left"} if swapped else {"first": "left", "second": "right"}
    said = {
        "choice_id": f"choice-{number}",
        "comparison_id": f"{first}-{second}",
        "group_key": "run/g1",
        "kind": "question",
        "rater_id": rater,
        "choice": sides.get(preferred, preferred),
        "swapped": swapped,
        "first": first,
        "second": second,
        "preferred": preferred,
        "at": 1_000_000.0 + number,
        "look_s": 1.5,
    }
    return Answer.model_validate({**said, **more})
