"""Does a foreign service answer as it was registered? Asks it as a reward worker would, and reports what came back.

The same request building and reading (`rewardmesh.dialects`) as in a worker, over the same bounded probe as the check
of our own protocol. What such a service cannot be asked (who it is, whether it is well, what it does with bytes that
are no picture: none of their schemas has an answer for one picture alone) is not checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import httpx

from rewardmesh.dialects import open_dialect
from rewardmesh.dialects.dialect import Asked, Dialect
from rewardmesh.dialects.failures import CallerRefused
from rewardmesh.kit.checking import MAX_BATCH_TRIED, WHOLE_DEADLINES, Checking, ConformanceReport, Judged, asked_twice
from rewardmesh.kit.conformance import check_conformance
from rewardmesh.kit.known_pictures import encoded, gradient, grey, noise
from rewardmesh.kit.oracle import Result
from rewardmesh.kit.probe import Prober, Unusable, judge_results, known_sample
from rewardmesh.wire.codec import PNG
from rewardmesh.wire.errors import OracleError, ProtocolError
from rewardmesh.wire.messages import OracleEndpoint, Scored
from rewardmesh.wire.stream import Claim

__all__ = ["DIALECT_CHECKS", "check_dialect", "check_endpoint"]

#: Every check that can be in a report, in order.
DIALECT_CHECKS: Final = ("options", "picture", "batch", "determinism", "answer", "deadline")
SIDE: Final = 512

Picture = tuple[str, bytes]


async def check_endpoint(endpoint: OracleEndpoint, *, http: httpx.AsyncClient) -> ConformanceReport:
    """The check for what the endpoint speaks. One that speaks our protocol is not asked for the endpoint's name."""
    if endpoint.dialect == "rewardmesh":
        return await check_conformance(endpoint.url, http=http, deadline_s=endpoint.deadline_s)
    return await check_dialect(endpoint, http=http)


async def check_dialect(endpoint: OracleEndpoint, *, http: httpx.AsyncClient) -> ConformanceReport:
    """Asks the service of an endpoint for rewards of known pictures, one alone and as many as it is said to take.

    Credentials are the client's to send. Idempotency: asks only. Deadline: WHOLE_DEADLINES × the endpoint's. Errors:
    none for what the service does, or for options that are not the dialect's; all is in the report.
    """
    checking = _Checking(endpoint, Prober(endpoint.url, http=http, deadline_s=endpoint.deadline_s))
    try:
        async with asyncio.timeout(WHOLE_DEADLINES * endpoint.deadline_s):
            await checking.run()
    except TimeoutError:
        checking.late.append(f"all checks together took longer than {WHOLE_DEADLINES * endpoint.deadline_s:g} s")
    checking.conclude(endpoint.deadline_s)
    speaks = f"the dialect {endpoint.dialect}"
    return ConformanceReport(endpoint.url, speaks, checking.info, tuple(checking.findings), DIALECT_CHECKS)


class _Checking(Checking):
    """One pass over a foreign service."""

    def __init__(self, endpoint: OracleEndpoint, prober: Prober) -> None:
        super().__init__(advice="docs/gateway.md, Services of others")
        self._endpoint = endpoint
        self._prober = prober
        self._dialect: Dialect | None = None
        self._num_requests = 0

    async def run(self) -> None:
        """Makes the checks, in order; without a reward for one picture, nothing else is asked."""
        await self.step("options", self._options)
        if self.info is None:
            return
        await self.step("picture", self._picture)
        if self.findings[-1].passed:
            await self.step("batch", self._batch)
            await self.step("determinism", self._determinism)

    async def _options(self) -> Judged:
        try:
            self._dialect = open_dialect(self._endpoint)
        except CallerRefused as error:
            return False, f"{error.what}: {error.what_to_do}"
        self.info = info = self._dialect.info
        if info is None:
            raise ValueError(f"{self._endpoint.dialect} is checked by check_conformance")
        return True, f"{info.name} {info.version}, {info.reward_min:g} to {info.reward_max:g}"

    async def _picture(self) -> Judged:
        picture = await asyncio.to_thread(encoded, gradient(SIDE), PNG)
        (result,) = await self._ask([picture])
        if isinstance(result, Scored):
            return True, f"a gradient of {SIDE} pixels as {PNG}: {result.reward:g}"
        return False, f"a gradient of {SIDE} pixels as {PNG} got no reward"

    async def _batch(self) -> Judged:
        assert self.info is not None
        number = min(self.info.max_batch, MAX_BATCH_TRIED)
        if number == 1:
            return True, "one picture a request"
        results = await self._ask([encoded(grey(48), PNG)] * number)
        missing = sum(not isinstance(one, Scored) for one in results)
        if missing:
            return False, f"{missing} of a batch of {number} pictures got no reward: lower max_batch"
        return True, f"{number} pictures in one request"

    async def _determinism(self) -> Judged:
        picture = encoded(noise(48), PNG)
        first, second = [(await self._ask([picture]))[0] for _ in range(2)]
        return asked_twice(first, second)

    async def _ask(self, pictures: Sequence[Picture]) -> list[Result | None]:
        """The sound results in order; what is wrong with others is noted. Raises: Unusable if there is no answer."""
        assert self._dialect is not None
        assert self.info is not None
        self._num_requests += 1
        asked = [_asked(f"g{self._num_requests}", index, picture) for index, picture in enumerate(pictures)]
        request = self._dialect.request(asked)
        answer = await self._prober.call("POST", request.path, json=request.json, files=request.parts)
        self.timings.append((answer.seconds, len(pictures)))
        if answer.status != httpx.codes.OK:
            raise Unusable(f"POST {request.path} answered {answer.said}")
        try:
            reply = self._dialect.read(answer.body, asked)
        except (OracleError, ProtocolError) as error:
            raise Unusable(f"POST {request.path} answered {answer.said}: {error.what}") from error
        ids = [one.sample_id for one in asked]
        results, problems = judge_results(reply.results, ids, self.info)
        self.problems += problems
        self.num_results += len(results)
        return [results.get(one) for one in ids]


def _asked(group_id: str, index: int, picture: Picture) -> Asked:
    media_type, data = picture
    claim = Claim(
        entry_id=f"{index}",
        sample=known_sample(group_id, f"{group_id}.{index}"),
        media_type=media_type,
        picture=data,
        hint=None,
        attempts=0,
        deliveries=1,
    )
    return Asked(claim=claim, media_type=media_type, picture=data)
