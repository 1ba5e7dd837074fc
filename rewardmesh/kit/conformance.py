"""Does a service keep to docs/protocol.md? Asks it, and reports what was sent, what came back and what to do.

    async with httpx.AsyncClient() as http:
        print(await check_conformance("http://127.0.0.1:8800", http=http))

Owns what is asked and how it is judged; `kit.probe` does the asking. It never raises for what a service does wrong. In
time it is bounded by WHOLE_DEADLINES times the deadline of one answer, in bytes by the probe and MAX_BATCH_TRIED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
from pydantic import ValidationError

from rewardmesh.kit.checking import (
    MAX_BATCH_TRIED,
    OUR_PROTOCOL,
    WHOLE_DEADLINES,
    Checking,
    ConformanceReport,
    Finding,
    Judged,
    asked_twice,
)
from rewardmesh.kit.known_pictures import encoded, gradient, grey, noise
from rewardmesh.kit.oracle import Result
from rewardmesh.kit.probe import Prober, Unusable, read_results
from rewardmesh.wire.codec import PNG, RAW, WEBP
from rewardmesh.wire.messages import OracleInfo, Scored, ScoreFailure
from rewardmesh.wire.strict_json import load_json

__all__ = ["CHECKS", "ConformanceReport", "Finding", "check_conformance"]

#: Every check that can be in a report, in order; those that an earlier failure leaves without sense are left out.
CHECKS = (
    "identity", "health", "pictures", "batch", "other_name", "repeated_id", "malformed_picture", "malformed_request",
    "determinism", "answer", "deadline",
)  # fmt: skip
SIDES = (48, 512)


async def check_conformance(
    url: str, *, http: httpx.AsyncClient, name: str | None = None, deadline_s: float = 30.0
) -> ConformanceReport:
    """Asks the service at `url` everything above; `name` is who it must be, `deadline_s` what one answer may take.

    Credentials are the client's to send. Idempotency: asks only; a deferred oracle may have taken the pictures over.
    Deadline: WHOLE_DEADLINES × `deadline_s`. Errors: none for what the service does; all is in the report.
    """
    checking = _Checking(Prober(url, http=http, deadline_s=deadline_s), name=name)
    try:
        async with asyncio.timeout(WHOLE_DEADLINES * deadline_s):
            await checking.run()
    except TimeoutError:
        checking.late.append(f"all checks together took longer than {WHOLE_DEADLINES * deadline_s:g} s")
    checking.conclude(deadline_s)
    return ConformanceReport(url, OUR_PROTOCOL, checking.info, tuple(checking.findings), CHECKS)


class _Checking(Checking):
    """One pass over a service."""

    def __init__(self, prober: Prober, *, name: str | None) -> None:
        super().__init__(advice="docs/protocol.md, Answers")
        self._prober = prober
        self._name = name
        self._kinds: list[str] = []  # media types that it opens and we write

    async def run(self) -> None:
        """Makes the checks, in order, as far as they make sense."""
        await self.step("identity", self._identity)
        if self.info is None:
            return
        await self.step("health", self._health)
        self._kinds = [kind for kind in (RAW, WEBP, PNG) if kind in self.info.media_types]
        if not self._kinds:
            what = (
                f"it opens {', '.join(self.info.media_types)[:200]}: declare one of {RAW}, {WEBP}, {PNG}, which we send"
            )
            self.findings.append(Finding("pictures", passed=False, detail=what, seconds=0.0))
            return
        try:
            await self._ask([encoded(grey(48), self._kinds[0])])
        except Unusable as error:  # nothing that is asked of it could be judged
            self.problems += self.noted(error, "one grey picture")
            return
        await self.step("pictures", self._pictures)
        await self.step("batch", self._batch)
        await self.step("other_name", self._other_name)
        if self.info.max_batch > 1:
            await self.step("repeated_id", self._repeated_id)
        await self.step("malformed_picture", self._malformed_picture)
        await self.step("malformed_request", self._malformed_request)
        await self.step("determinism", self._determinism)

    async def _ask(self, pictures: Sequence[tuple[str, bytes]]) -> list[Result | None]:
        """The sound results in order; what is wrong with others is noted. Raises: Unusable if there is no reply."""
        assert self.info is not None
        ids, answer = await self._prober.score(self.info.name, pictures)
        results, problems = read_results(answer, ids, self.info)
        self.problems += problems
        self.num_results += len(results)
        self.timings.append((answer.seconds, len(pictures)))
        return [results.get(one) for one in ids]

    async def _identity(self) -> Judged:
        answers = [await self._prober.call("GET", "/v1/oracle") for _ in range(2)]
        for answer in answers:
            if answer.status != httpx.codes.OK:
                return False, f"GET /v1/oracle answered {answer.said}: answer 200 with what the oracle is"
        try:
            first, second = (OracleInfo.model_validate(load_json(answer.body)) for answer in answers)
        except (ValueError, RecursionError) as error:
            first_line = _first_error(error)
            return (
                False,
                f"GET /v1/oracle answered {answers[0].said}, no OracleInfo ({first_line}): see docs/protocol.md",
            )
        self.info = first
        if first != second:
            return False, f"asked twice, it was {first.to_json()} and then {second.to_json()}: let it stay one oracle"
        if self._name is not None and first.name != self._name:
            return False, f"it is {first.name}, not {self._name}: check the URL, or register it under its own name"
        return True, f"{first.name} {first.version}, {first.reward_min} to {first.reward_max}"

    async def _health(self) -> Judged:
        answer = await self._prober.call("GET", "/v1/health")
        if answer.status == httpx.codes.OK and _is_healthy(answer.body):
            return True, "ok"
        return False, f'GET /v1/health answered {answer.said}: answer 200 with {{"status": "ok"}} once it can score'

    async def _pictures(self) -> Judged:
        assert self.info is not None
        known = [
            (f"{name} of {side} pixels as {kind}", await asyncio.to_thread(encoded, picture, kind))
            for kind in self._kinds
            for side in SIDES
            for name, picture in (("grey", grey(side)), ("gradient", gradient(side)), ("noise", noise(side)))
        ]
        step = min(self.info.max_batch, len(known))
        unfit = 0
        for start in range(0, len(known), step):
            chunk = known[start : start + step]
            for (what, _), result in zip(chunk, await self._ask([one for _, one in chunk]), strict=True):
                if _is_fault(result):
                    return False, f"{what}: {_shown(result)}: score every picture of a media type that it declares"
                unfit += isinstance(result, ScoreFailure)
        note = f"; warning: {unfit} answered missing_checks, their rewards were not seen" if unfit else ""
        return True, f"{len(known)} pictures, {len(self._kinds)} media types{note}"

    async def _batch(self) -> Judged:
        assert self.info is not None
        number = min(self.info.max_batch, MAX_BATCH_TRIED)
        results = await self._ask([encoded(grey(48), self._kinds[0])] * number)
        if fault := next((one for one in results if _is_fault(one)), None):
            return False, f"a batch of {number} pictures: {_shown(fault)}: declare the max_batch that it can score"
        bound = " (not more are tried)" if number == MAX_BATCH_TRIED else ""
        return True, f"one picture alone, {number} in one request{bound}"

    async def _other_name(self) -> Judged:
        assert self.info is not None
        other = "not-" + self.info.name[:90]
        _, answer = await self._prober.score(other, [encoded(grey(48), self._kinds[0])])
        said = f"a request for oracle {other} was answered {answer.said}"
        return answer.refused, said if answer.refused else f"{said}: refuse it with 422"

    async def _repeated_id(self) -> Judged:
        assert self.info is not None
        twice = [encoded(grey(48), self._kinds[0])] * 2
        _, answer = await self._prober.score(self.info.name, twice, repeat_id=True)
        said = f"two pictures with one sample_id were answered {answer.said}"
        return answer.refused, said if answer.refused else f"{said}: refuse the request with 422"

    async def _malformed_picture(self) -> Judged:
        assert self.info is not None
        good = encoded(grey(48), self._kinds[0])
        bad = (good[0], b"these bytes are no picture")
        batch = [good, bad, good] if self.info.max_batch > 2 else [bad]
        results = await self._ask(batch)
        if isinstance(results[len(batch) // 2], Scored):
            return False, "bytes that are no picture got a reward: answer `failed` with code `invalid_picture`"
        alone = len(batch) > 1 and self.info.granularity == "sample"
        if fault := next((one for one in results[::2] if _is_fault(one)), None) if alone else None:
            return False, f"its neighbours failed with it, {_shown(fault)}: let a bad picture fail alone"
        return True, f"bytes that are no picture: {_shown(results[len(batch) // 2])}"

    async def _malformed_request(self) -> Judged:
        as_json = {"Content-Type": "application/json"}
        for what, content, headers in (
            ("a body that is no JSON", b"{", as_json),
            ("JSON that is no ScoreBatch", b'{"items": 1}', as_json),
            ("text/plain", b"score this", {"Content-Type": "text/plain"}),
        ):
            answer = await self._prober.call("POST", "/v1/score", content=content, headers=headers)
            if not answer.refused:
                return False, f"{what} was answered {answer.said}: refuse it with 400, 415 or 422"
        return True, "no JSON, another shape, another content type: refused"

    async def _determinism(self) -> Judged:
        picture = encoded(noise(48), self._kinds[0])
        first, second = [(await self._ask([picture]))[0] for _ in range(2)]
        return asked_twice(first, second)


def _is_fault(result: Result | None) -> bool:
    """A failure that a sound picture with checks must not get. One that is missing is the answer's problem."""
    return isinstance(result, ScoreFailure) and result.code != "missing_checks"


def _shown(result: Result | None) -> str:
    return (
        f"{result.code} ({' '.join(result.detail.split())[:200]})" if isinstance(result, ScoreFailure) else "no result"
    )


def _is_healthy(body: bytes) -> bool:
    try:
        said = load_json(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("status") == "ok"


def _first_error(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)[:200]
