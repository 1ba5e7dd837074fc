"""The same pictures judged twice: by the oracles that reward, and by the independent evaluator that never does.

Owns the two-way counts and the sheet of the pictures that the two see differently. Knows neither of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw
from rich.table import Table

from trainer.evaluate import Evaluation, HeldoutPicture, Judge

__all__ = ["TwoWay", "disagreement_sheet", "judged_by", "two_way", "two_way_table"]

_WAYS = ((True, True), (True, False), (False, True), (False, False))
_SCALE, _COLUMNS, _CELL = 3, 6, (230, 206)


@dataclass(frozen=True)
class TwoWay:
    """Pictures of one kind, by who passes them."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def total(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def agreement(self) -> float:
        return (self.both + self.neither) / self.total


def judged_by(evaluation: Evaluation, plan: Sequence[HeldoutPicture], judge: Judge) -> Evaluation:
    """The same pictures with another judge's passes. Raises ValueError if the evaluation holds no pictures."""
    if evaluation.pictures is None:
        raise ValueError(f"{evaluation.name} has no pictures: it was read from a file")
    passes, details = judge(evaluation.pictures, [item.spec for item in plan])
    outcomes = tuple(
        replace(outcome, passed=passed, detail=detail)
        for outcome, passed, detail in zip(evaluation.outcomes, passes, details, strict=True)
    )
    return replace(evaluation, outcomes=outcomes)


def two_way(first: Evaluation, second: Evaluation) -> dict[str, TwoWay]:
    """Counts by kind."""
    pairs = list(zip(first.outcomes, second.outcomes, strict=True))
    counts = {}
    for kind in dict.fromkeys(outcome.kind for outcome in first.outcomes):
        of_kind = [(a.passed, b.passed) for a, b in pairs if a.kind == kind]
        counts[kind] = TwoWay(*(of_kind.count(way) for way in _WAYS))
    return counts


def two_way_table(counts: dict[str, TwoWay], *, title: str) -> Table:
    """A row a kind; the first judge is the oracles, the second the independent evaluator."""
    table = Table(title=title, title_justify="left")
    heads = ("kind", "both pass", "oracles only", "independent only", "neither", "oracles", "independent", "agree")
    for head in heads:
        table.add_column(head, justify="left" if head == "kind" else "right")
    for kind, way in counts.items():
        shares = ((way.both + way.only_first) / way.total, (way.both + way.only_second) / way.total, way.agreement)
        numbers = (way.both, way.only_first, way.only_second, way.neither)
        table.add_row(kind, *map(str, numbers), *(f"{share:.3f}" for share in shares))
    return table


def disagreement_sheet(first: Evaluation, second: Evaluation) -> Image.Image:
    """Every picture that one judge passes and the other does not, with both reasons; enlarged without smoothing.

    Raises: ValueError if the evaluations hold no pictures.
    """
    if first.pictures is None:
        raise ValueError(f"{first.name} has no pictures: it was read from a file")
    apart = [i for i, (a, b) in enumerate(zip(first.outcomes, second.outcomes, strict=True)) if a.passed != b.passed]
    rows = max(1, -(-len(apart) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _CELL[0], rows * _CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(apart):
        x, y = (place % _COLUMNS) * _CELL[0] + 4, (place // _COLUMNS) * _CELL[1] + 2
        draw.text((x, y), first.outcomes[index].prompt, fill="black")
        picture = Image.fromarray(first.pictures[index])
        large = (picture.width * _SCALE, picture.height * _SCALE)
        sheet.paste(picture.resize(large, Image.Resampling.NEAREST), (x, y + 14))
        for line, (who, one) in enumerate((("oracles", first), ("independent", second))):
            outcome = one.outcomes[index]
            said = "pass" if outcome.passed else _reason(outcome.detail)
            draw.text(
                (x, y + 162 + 18 * line), f"{who}: {said}"[:38], fill="darkgreen" if outcome.passed else "darkred"
            )
    return sheet


def _reason(detail: object) -> str:
    """The first reason in a judge's detail, wherever it stands, or what was read."""
    if isinstance(detail, dict):
        if detail.get("reasons"):
            return str(detail["reasons"][0])
        if "read" in detail:
            return f"reads {detail['read']!r}"
        return next((said for one in detail.values() if (said := _reason(one))), "")
    return ""
