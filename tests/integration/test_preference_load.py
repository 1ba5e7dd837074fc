"""Ten raters, a choice a second each, for a minute; service and buffer are killed in between, and nothing is lost."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.people import Place, accept_group
from benchmarks.preference import interval
from benchmarks.rating import answers_of, rate
from services.preference.model import QueueSettings

pytestmark = pytest.mark.timeout(180)


async def test_nothing_is_lost_when_all_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    with Place([QueueSettings(gold_share=0, repeat_share=0)]) as place:
        async with place.opened() as preference:
            rng = np.random.default_rng(3)
            keys = [(await accept_group(preference.queue, f"g{n}", rng=rng, num_pictures=6)).key for n in range(60)]
        working = asyncio.create_task(rate(place, num_raters=10, seconds=60, pace_s=1.0))
        await asyncio.sleep(25)
        await asyncio.to_thread(place.kill_all)
        await asyncio.to_thread(place.restart)
        tally = await working
        async with place.opened() as preference:
            answers = await answers_of(preference.queue, keys)
    assert tally.lost(answers) == 0
    assert tally.num_repeated > 0, "nobody noticed the kill"
    assert len({answer.comparison_id for answer in answers}) == len(answers), "a comparison was answered twice"
    left = sum(not answer.swapped for answer in answers)
    with capsys.disabled():
        print(f"\n{len(tally.kept)} choices kept, 0 lost; {left} of {len(answers)} with the first picture on the left")
    assert len(tally.kept) > 200
    low, high = interval(left, len(answers), z=5)
    assert low < 0.5 < high
