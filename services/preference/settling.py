"""Settling: groups that are answered or due become rewards, and the rewards are posted to the gateway.

    closed (answers are frozen) ──judge──► rewards ──POST /v1/oracles/preference/results──► settled

At least once, and recorded once: a group stays closed until its post returned, so it is posted again after a crash, and
the stream keeps the first answer to a sample. What keeps a post from arriving (gateway or buffer away, a token that
is not taken) is waited for with backoff, for as long as it takes; people's answers are never given up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from rewardmesh.kit.client import Client
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.messages import Sample, Scored, ScoreFailure
from rewardmesh.wire.telemetry import get_logger
from services.preference.model import Group
from services.preference.oracle import NAME, info_of
from services.preference.queue import PreferenceQueue
from services.preference.rewards import GroupRewards, judge

__all__ = ["GatewayPost", "Post", "Settling", "results_of"]

MAX_WAIT_S: Final = 60.0
_log = get_logger("preference.settling")

Results = Sequence[tuple[Sample, Scored | ScoreFailure]]


class Post(Protocol):
    """Sends results on. Idempotent. Raises: RewardmeshError if they did not arrive."""

    async def __call__(self, results: Results, *, version: str) -> int: ...


class GatewayPost:
    """Posts to the gateway with the oracle's own token, in a thread. Close it."""

    def __init__(self, url: str, token: str) -> None:
        self._client = Client(url, token)

    async def __call__(self, results: Results, *, version: str) -> int:
        return await asyncio.to_thread(self._client.post_results, NAME, results, version=version)

    def close(self) -> None:
        self._client.close()


class Settling:
    """The task that settles one queue; `run` it once, in one process."""

    def __init__(
        self, queue: PreferenceQueue, post: Post, *, every_s: float, draw: Callable[[], float] = random.random
    ) -> None:
        self._queue = queue
        self._post = post
        self._every_s = every_s
        self._draw = draw

    async def run(self) -> None:
        """Settles until it is cancelled. Ends by itself for nothing but a fault of this code."""
        failures = 0
        while True:
            try:
                await self.once()
                failures = 0
            except RewardmeshError as error:
                failures += 1
                _log.warning("settling.waits", error=str(error), failures=failures)
            longest_s = min(MAX_WAIT_S, self._every_s * 2.0 ** min(failures, 30))
            await asyncio.sleep(self._every_s if not failures else max(self._every_s, self._draw() * longest_s))

    async def once(self) -> int:
        """Settles what is closed now; how many groups.

        Raises: RewardmeshError. What another attempt may change ends it at once, for others would meet the same; a
        group that is refused for itself is left for later, and the others are settled first.
        """
        num_settled, refused = 0, None
        for group in await self._queue.close_due():
            try:
                await self._settle(group)
                num_settled += 1
            except RewardmeshError as error:
                if error.retryable:
                    raise
                refused = error
        if refused is not None:
            raise refused
        return num_settled

    async def _settle(self, group: Group) -> None:
        judged = await asyncio.to_thread(judge, len(group.pictures), await self._queue.answers(group.key))
        recorded = await self._post(results_of(group, judged), version=info_of(self._queue.settings).version)
        await self._queue.settled(group.key)
        said = {"num_answers": judged.num_answers, "num_raters": judged.num_raters, "alpha": judged.alpha}
        _log.info("group.settled", run_id=group.run_id, group_id=group.group_id, recorded=recorded, **said)


def results_of(group: Group, judged: GroupRewards) -> list[tuple[Sample, Scored | ScoreFailure]]:
    """A result a sample: the reward and on what it rests, or a failure if nobody said anything of it."""
    results: list[tuple[Sample, Scored | ScoreFailure]] = []
    for one, reward in zip(group.pictures, judged.pictures, strict=True):
        if reward is None:
            said = "nobody said anything of this picture before its deadline"
            failure = ScoreFailure(sample_id=one.sample.sample_id, code="oracle_error", detail=said, retryable=False)
            results.append((one.sample, failure))
            continue
        detail = {
            "num_answers": reward.num_answers,
            "num_raters": reward.num_raters,
            "alpha": judged.alpha,
            "num_answers_of_group": judged.num_answers,
            "num_raters_of_group": judged.num_raters,
        }
        results.append((one.sample, Scored(sample_id=one.sample.sample_id, reward=reward.reward, detail=detail)))
    return results
