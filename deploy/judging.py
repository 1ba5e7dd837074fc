"""Held-out pictures judged by the stack's oracles, on the road that training takes: buffer, worker, oracle.

They are submitted as the gateway submits a team's, in a run of their own: queueing, retries, breakers and the checking
of answers are the workers' business, and nobody here calls an oracle. Strict: a picture passes if every oracle that its
checks concern says so in `detail.strict`. Every picture gets an answer or the evaluation ends with an error: a picture
that nobody judged is not one that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np

from rewardmesh.wire.codec import choose_media_type, encode_picture
from rewardmesh.wire.errors import BufferFault, BufferFull, ChecksMissing, OracleRejected, OracleTimeout
from rewardmesh.wire.messages import Checks, Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.stream import MIB, Result
from services.gateway.context import Gateway, open_gateway
from services.gateway.scoring import PictureToScore, Submission, forget, results, run_of, submit
from trainer.evaluate import HeldoutPrompt, Pictures

__all__ = ["StackJudge", "oracles_for"]

_GROUP_BYTES = 16 * MIB  # a few such groups fit into an oracle's byte budget
_GROUP_PICTURES = 256
_NOBODY_IS_CALLED = OutgoingPolicy()
_Oracles = tuple[str, ...]


def oracles_for(checks: Checks) -> _Oracles:
    """Who judges a picture with these checks. Raises ChecksMissing if nobody could."""
    names = []
    if checks.include or checks.exclude:
        names.append("object_count")
    if checks.text is not None:
        names.append("ocr_spelling")
    if not names:
        raise ChecksMissing("a held-out prompt has no checks", checks.tag, "give it include, exclude or text")
    return tuple(names)


class StackJudge:
    """A `trainer.evaluate.Judge` that asks what serves a buffer; at its end as a context its run ends."""

    def __init__(self, redis_url: str, *, wait_s: float = 300.0) -> None:
        self._redis_url = redis_url
        self._wait_s = wait_s
        self._team = f"evaluation-{uuid4().hex[:8]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with suppress(BufferFault):  # whatever ended the evaluation is the error to tell
            asyncio.run(self._end())

    def __call__(
        self, pictures: Pictures, specs: Sequence[HeldoutPrompt]
    ) -> tuple[Sequence[bool], Sequence[Mapping[str, Any]]]:
        """Strict passes and details, by oracle, of N pictures.

        Deadline: each group of pictures is waited for `wait_s` at most. Raises: ChecksMissing, UnknownOracle,
        OracleTimeout, OracleRejected, BufferFull, BufferUnavailable.
        """
        asked: dict[_Oracles, list[_Asked]] = {}
        for index, (picture, spec) in enumerate(zip(pictures, specs, strict=True)):
            checks = Checks.from_metadata(spec.checks)
            asked.setdefault(oracles_for(checks), []).append(_Asked.of(index, picture, spec.prompt, checks))
        details: list[dict[str, Any]] = [{} for _ in specs]
        for index, oracle, result in asyncio.run(self._results(asked)):
            details[index][oracle] = _detail(result, oracle)
        return [all(bool(one["strict"]) for one in detail.values()) for detail in details], details

    async def _results(self, asked: Mapping[_Oracles, list[_Asked]]) -> list[tuple[int, str, Result]]:
        """What each oracle said of each picture, by the picture's index."""
        async with open_gateway(self._redis_url, _NOBODY_IS_CALLED) as gateway:
            of_all = await asyncio.gather(*(self._ask(gateway, oracles, some) for oracles, some in asked.items()))
        return [one for found in of_all for one in found]

    async def _ask(self, gateway: Gateway, oracles: _Oracles, asked: Sequence[_Asked]) -> list[tuple[int, str, Result]]:
        """One group after another: they share the budget of an oracle."""
        found = []
        for group in _groups(asked):
            wanted = Submission(oracles=oracles, pictures=tuple(one.wanted for one in group))
            sent = await submit(gateway, self._team, wanted, [one.data for one in group])
            try:
                known = await results(gateway, self._team, sent.group_id, wait_s=self._wait_s)
            finally:
                await forget(gateway, self._team, sent.group_id)
            for oracle in oracles:
                if not sent.accepted[oracle]:
                    raise BufferFull("its byte budget is full", oracle, "evaluate again, or raise budget_bytes")
                if not known.oracles[oracle].complete:
                    what = f"held-out pictures were not judged within {self._wait_s:g} s"
                    raise OracleTimeout(what, oracle, "see `rewardmesh status`: is it paused, is a worker running?")
                said = known.oracles[oracle].results
                found += [
                    (one.index, oracle, said[sample_id]) for one, sample_id in zip(group, sent.sample_ids, strict=True)
                ]
        return found

    async def _end(self) -> None:
        async with open_gateway(self._redis_url, _NOBODY_IS_CALLED) as gateway:
            await gateway.registry.end_run(run_of(self._team))


@dataclass(frozen=True)
class _Asked:
    """One picture, encoded, and its place among all."""

    index: int
    wanted: PictureToScore
    data: bytes

    @classmethod
    def of(cls, index: int, picture: np.ndarray[Any, Any], prompt: str, checks: Checks) -> Self:
        media_type = choose_media_type(picture)
        wanted = PictureToScore(prompt=prompt, checks=checks, media_type=media_type, picture=str(index))
        return cls(index, wanted, encode_picture(picture, media_type))


def _groups(asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """In order, each within both bounds, or of one large picture."""
    group: list[_Asked] = []
    num_bytes = 0
    for one in asked:
        num_bytes += len(one.data)
        if group and (num_bytes > _GROUP_BYTES or len(group) == _GROUP_PICTURES):
            yield group
            group, num_bytes = [], len(one.data)
        group.append(one)
    yield group


def _detail(result: Result, oracle: str) -> dict[str, Any]:
    if not isinstance(result, Scored):
        raise OracleRejected(f"a held-out picture was not judged: {result}", oracle, "see the oracle's log")
    return {"strict": result.detail.get("strict", False), "reward": result.reward, **result.detail}
