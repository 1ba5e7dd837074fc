"""What the scripts keep and give back, as the model's messages; and the settings that they are called with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.wire.errors import ChoiceRefused
from rewardmesh.wire.names import text
from services.preference.model import Answer, Choice, GoldPair, Group, Presentation, QueueSettings, Rater
from services.preference.rules import GOLD, LATEST_KEPT, MADE_KEPT, REPEAT_AFTER, preferred_of

__all__ = ["answer_from", "meanings_of", "presentation_from", "rater_fields", "rater_from", "script_settings", "to_ms"]

_COUNTS = ("num_choices", "num_gold", "num_gold_right", "num_repeats", "num_repeats_same")


def to_ms(seconds: float) -> int:
    """Scripts reckon in whole milliseconds."""
    return round(seconds * 1000)


def script_settings(settings: QueueSettings) -> dict[str, float]:
    """What scripts must know of the settings, and of the rules."""
    return {
        "budget_bytes": settings.budget_bytes,
        "kept_bytes": settings.kept_bytes,
        "latest_kept": LATEST_KEPT,
        "lease": to_ms(settings.lease_s),
        "made_kept": MADE_KEPT,
        "max_leases": settings.max_leases,
        "min_gold_answers": settings.min_gold_answers,
        "min_gold_rate": settings.min_gold_rate,
        "raters": settings.raters_per_comparison,
        "repeat_after": REPEAT_AFTER,
    }


def presentation_from(shown: Sequence[bytes]) -> Presentation:
    """From what the script `shown` gives: a lease, the indices of its pictures, and the group or gold pair."""
    lease_id, rater_id, kind, comparison_id, swapped, expires, indices, source = shown
    if kind == GOLD.encode():
        pair = GoldPair.model_validate_json(source)
        prompt, sides = pair.prompt, [pair.first, pair.second]
    else:
        group = Group.model_validate_json(source)
        prompt, sides = group.prompt, [group.pictures[int(index)].digest for index in indices.split()]
    flipped = swapped == b"1" and len(sides) == 2
    left, right = (*reversed(sides),) if flipped else (*sides, None)[:2]
    return Presentation(
        lease_id=text(lease_id),
        comparison_id=text(comparison_id),
        kind=text(kind),  # type: ignore[arg-type]  # validated
        rater_id=text(rater_id),
        prompt=prompt,
        left=left or sides[0],
        right=right,
        swapped=flipped,
        expires=int(expires) / 1000,
    )


def answer_from(kept: dict[str, Any]) -> Answer:
    """From the JSON that the script `choose` keeps."""
    same = ("choice_id", "kind", "choice", "swapped", "first", "second", "preferred", "counts")
    return Answer(
        comparison_id=kept["comparison"],
        group_key=kept["group"],
        rater_id=kept["rater"],
        at=kept["at"] / 1000,
        look_s=kept["look"] / 1000,
        **{name: kept[name] for name in same},
    )


def meanings_of(choice: Choice) -> list[str]:
    """What a choice prefers of a single picture, of a pair, and of a pair with sides swapped; "" if it is no choice."""
    meanings: list[str] = []
    for single, swapped in ((True, False), (False, False), (False, True)):
        try:
            meanings.append(preferred_of(choice, swapped=swapped, single=single))
        except ChoiceRefused:
            meanings.append("")
    return meanings


def rater_fields(rater: Rater) -> list[str | int]:
    """A rater's hash as they join: fields and what is in them, in turn."""
    fields: dict[str, str | int] = {"rater": rater.to_json(), "paused": int(rater.paused), "why": rater.why_paused}
    fields |= {name: getattr(rater, name) for name in _COUNTS}
    return [part for field in fields.items() for part in field]


def rater_from(fields: Mapping[bytes, bytes]) -> Rater:
    """From a rater's hash."""
    as_joined = json.loads(fields[b"rater"])
    changed: dict[str, Any] = {name: int(fields[name.encode()]) for name in _COUNTS}
    changed |= {"paused": fields[b"paused"] == b"1", "why_paused": text(fields[b"why"])}
    return Rater(**as_joined | changed)
