"""Many raters at once, by program: each leases, looks, chooses, at a pace of their own; what was kept is counted after.

A choice is lost if its answer said that it is kept and the queue has it no more, and double if the queue has it twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.people import Place, Rater
from services.preference.model import Answer
from services.preference.queue import PreferenceQueue

__all__ = ["Tally", "answers_of", "rate"]

_CHOICES: Final = ("left", "right", "tie", "both_bad", "skip")
_EMPTY_S: Final = 0.2


@dataclass
class Tally:
    """What raters were told. Milliseconds of each call, those that had to be repeated included."""

    kept: list[str] = field(default_factory=list)  # ids of choices
    kept_at: list[float] = field(default_factory=list)  # monotonic
    choice_ms: list[float] = field(default_factory=list)
    lease_ms: list[float] = field(default_factory=list)
    num_repeated: int = 0

    def lost(self, answers: Sequence[Answer]) -> int:
        """How many were kept by word alone. Raises RuntimeError for a choice that is there twice."""
        there = [answer.choice_id for answer in answers]
        if len(set(there)) != len(there):
            raise RuntimeError(f"{len(there) - len(set(there))} choices are counted twice")
        return len(set(self.kept) - set(there))


async def rate(place: Place, *, num_raters: int, seconds: float, pace_s: float, look_s: float = 1.0) -> Tally:
    """So many raters, for so long, each a choice a pace, or as fast as it goes where that is 0.

    Raises: httpx.HTTPStatusError if any call is refused.
    """
    link = await place.invite(max_raters=num_raters)
    tally = Tally()
    until = time.monotonic() + seconds
    tasks = [
        _one(place, link, number, tally=tally, until=until, delay_s=pace_s * number / num_raters, pace=(pace_s, look_s))
        for number in range(num_raters)
    ]
    await asyncio.gather(*tasks)
    return tally


async def answers_of(queue: PreferenceQueue, keys: Sequence[str]) -> list[Answer]:
    """All answers of these groups."""
    return [answer for key in keys for answer in await queue.answers(key)]


async def _one(
    place: Place, link: str, number: int, *, tally: Tally, until: float, delay_s: float, pace: tuple[float, float]
) -> None:
    pace_s, look_s = pace
    rng = np.random.default_rng(number)
    await asyncio.sleep(delay_s)
    async with Rater(place.url(), link, f"rater-{number}") as rater:
        while (began := time.monotonic()) < until:
            pair = await rater.lease()
            leased = time.monotonic()
            if pair["kind"] != "pair":
                await asyncio.sleep(_EMPTY_S)
                continue
            tally.lease_ms.append(1000 * (leased - began))
            await rater.look(pair)
            await asyncio.sleep(max(0.0, began + pace_s - time.monotonic()))
            chose = time.monotonic()
            tally.kept.append(await rater.choose(pair, _CHOICES[rng.integers(len(_CHOICES))], look_s=look_s))
            tally.kept_at.append(time.monotonic())
            tally.choice_ms.append(1000 * (tally.kept_at[-1] - chose))
        tally.num_repeated += rater.num_repeated
