"""Whatever an oracle answers, no reward comes of it but what it plainly states for that sample, within its range."""

from __future__ import annotations

import json

import pytest

from benchmarks.bad_answers import faults, serving, try_many, what_became
from rewardmesh.wire.messages import Scored


def answer(*rewards: float) -> bytes:
    results = [
        {"kind": "scored", "sample_id": sample_id, "reward": reward}
        for sample_id, reward in zip("ab", rewards, strict=False)
    ]
    return json.dumps({"oracle": "theirs", "version": "1", "results": results}).encode()


@pytest.mark.timeout(300)
def test_no_bad_answer_gets_through() -> None:
    became, through = try_many(60)
    assert through == []
    assert became["tried"] == 60


async def test_a_good_answer_gets_through_and_a_false_reward_would_be_noticed() -> None:
    """The check can fail: a client that returned anything else than what is stated would be caught."""
    body = answer(0.25, 1.0)
    async with serving() as (bad, client):
        results = await what_became(body, bad, client)
    assert results is not None
    assert results == [Scored(sample_id="a", reward=0.25), Scored(sample_id="b", reward=1.0)]
    assert faults(body, results) == []
    assert faults(body, results[:1])
    assert faults(body, list(reversed(results)))
    assert faults(answer(0.5, 1.0), results)
    assert faults(answer(0.25), results)
    assert faults(body, [Scored(sample_id="a", reward=0.25, detail={"x": "\ud800"}), results[1]])
