"""The independent evaluator: strict passes of pictures, and what it saw in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.independent.rules import faults
from benchmarks.independent.shapes import Seen, see
from benchmarks.independent.words import WordReader
from trainer.evaluate import HeldoutPrompt, Pictures

__all__ = ["IndependentJudge"]


class IndependentJudge:
    """A `trainer.evaluate.Judge`: GenEval's rules for objects, the very word for a text."""

    def __init__(self) -> None:
        """Raises: WeightsMissing."""
        self._reader = WordReader()

    def __call__(
        self, pictures: Pictures, prompts: Sequence[HeldoutPrompt]
    ) -> tuple[list[bool], list[Mapping[str, Any]]]:
        """Strict passes and what explains them (`strict`, `reasons`, `objects` or `read`), in order."""
        details: list[Mapping[str, Any]] = [{}] * len(prompts)
        worded = [index for index, one in enumerate(prompts) if one.checks.get("text")]
        for index, word in zip(worded, self._reader.read([pictures[index] for index in worded]), strict=True):
            asked = str(prompts[index].checks["text"]).upper()
            reasons = [] if word == asked else [f"reads {word!r}, where {asked!r} is wanted"]
            details[index] = {"strict": not reasons, "reasons": reasons, "read": word}
        for index in sorted(set(range(len(prompts))) - set(worded)):
            seen = see(pictures[index])
            reasons = faults(prompts[index].checks, seen)
            details[index] = {"strict": not reasons, "reasons": reasons, "objects": [_plain(one) for one in seen]}
        return [bool(detail["strict"]) for detail in details], details


def _plain(seen: Seen) -> dict[str, Any]:
    box = [round(edge, 2) for edge in seen.box]
    return {"shape": seen.shape, "color": seen.color, "box": box, "fit": round(seen.fit, 3)}
