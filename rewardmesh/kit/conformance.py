"""Does a service keep to docs/protocol.md? Asks it, and reports what was sent, what came back and what to do.

    async with httpx.AsyncClient() as http:
        print(await check_conformance("http://127.0.0.1:8800", http=http))

Owns what is asked and how it is judged; `kit.probe` does the asking. It never raises for what a service does wrong. In
time it is bounded by WHOLE_DEADLINES times the deadline of one answer, in bytes by the probe and MAX_BATCH_TRIED.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

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
WHOLE_DEADLINES = 10
MAX_BATCH_TRIED = 1024
SIDES = (48, 512)

_Judged = tuple[bool, str]


@dataclass(frozen=True)
class Finding:
    """What one check found. A warning is a finding that passed and says so."""

    check: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class ConformanceReport:
    """All findings about the service at `url`; `info` is what it said about itself, if that could be read."""

    url: str
    info: OracleInfo | None
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check that was made passed."""
        return all(one.passed for one in self.findings)

    def __str__(self) -> str:
        """A line a finding, for a terminal."""
        who = f"oracle {self.info.name}, version {self.info.version}" if self.info else "no oracle"
        verdict = "keeps to the protocol" if self.passed else "does not keep to the protocol"
        lines = [f"{who} at {self.url}: {verdict}"]
        lines += [
            f"  {'ok  ' if one.passed else 'FAIL'}  {one.check:<17}  {one.seconds:6.2f} s  {one.detail}"
            for one in self.findings
        ]
        left_out = [check for check in CHECKS if check not in {one.check for one in self.findings}]
        if left_out:
            lines.append(f"  not checked, because of the above: {', '.join(left_out)}")
        return "\n".join(lines)


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
    return ConformanceReport(url, checking.info, tuple(checking.findings))


class _Checking:
    """One pass over a service."""

    def __init__(self, prober: Prober, *, name: str | None) -> None:
        self.info: OracleInfo | None = None
        self.findings: list[Finding] = []
        self.late: list[str] = []
        self._prober = prober
        self._name = name
        self._kinds: list[str] = []  # media types that it opens and we write
        self._problems: list[str] = []
        self._num_results = 0
        self._timings: list[tuple[float, int]] = []  # seconds of an answer, its pictures

    async def run(self) -> None:
        """Makes the checks, in order, as far as they make sense."""
        await self._step("identity", self._identity)
        if self.info is None:
            return
        await self._step("health", self._health)
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
            self._problems += self._noted(error, "one grey picture")
            return
        await self._step("pictures", self._pictures)
        await self._step("batch", self._batch)
        await self._step("other_name", self._other_name)
        if self.info.max_batch > 1:
            await self._step("repeated_id", self._repeated_id)
        await self._step("malformed_picture", self._malformed_picture)
        await self._step("malformed_request", self._malformed_request)
        await self._step("determinism", self._determinism)

    def conclude(self, deadline_s: float) -> None:
        """The two findings that are about all answers together."""
        if not self.info or not (self._timings or self._problems or self.late):
            return
        if self._num_results or self._problems:
            fine = f"{self._num_results} results: ids asked for, rewards finite and in range"
            said = "; ".join(self._problems[:3]) + ": see docs/protocol.md, Answers"
            self.findings.append(Finding("answer", not self._problems, said if self._problems else fine, 0.0))
        seconds = sum(spent for spent, _ in self._timings)
        detail = f"within {deadline_s:g} s"
        if self._timings:
            a_picture = statistics.median(spent / number for spent, number in self._timings)
            slowest = max(spent for spent, _ in self._timings)
            detail = f"slowest answer {slowest:.3f} s of {deadline_s:g} s; {1000 * a_picture:.1f} ms a picture (p50)"
        if self.late:
            detail = (
                "; ".join(self.late[:3]) + ": score faster, declare a smaller max_batch, or ask for a longer deadline"
            )
        self.findings.append(Finding("deadline", not self.late, detail, seconds))

    async def _step(self, check: str, step: Callable[[], Awaitable[_Judged]]) -> None:
        began = time.monotonic()
        try:
            passed, detail = await step()
        except Unusable as error:
            passed, detail = False, str(error)
            self._noted(error, check)
        self.findings.append(Finding(check, passed, detail, time.monotonic() - began))

    def _noted(self, error: Unusable, asked: str) -> list[str]:
        """Notes an answer that came too late as such; otherwise it is a problem of the answer."""
        said = f"{asked}: {error}"
        if error.timed_out:
            self.late.append(said)
            return []
        return [said]

    async def _ask(self, pictures: Sequence[tuple[str, bytes]]) -> list[Result | None]:
        """The sound results in order; what is wrong with others is noted. Raises: Unusable if there is no reply."""
        assert self.info is not None
        ids, answer = await self._prober.score(self.info.name, pictures)
        results, problems = read_results(answer, ids, self.info)
        self._problems += problems
        self._num_results += len(results)
        self._timings.append((answer.seconds, len(pictures)))
        return [results.get(one) for one in ids]

    async def _identity(self) -> _Judged:
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

    async def _health(self) -> _Judged:
        answer = await self._prober.call("GET", "/v1/health")
        if answer.status == httpx.codes.OK and _is_healthy(answer.body):
            return True, "ok"
        return False, f'GET /v1/health answered {answer.said}: answer 200 with {{"status": "ok"}} once it can score'

    async def _pictures(self) -> _Judged:
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

    async def _batch(self) -> _Judged:
        assert self.info is not None
        number = min(self.info.max_batch, MAX_BATCH_TRIED)
        results = await self._ask([encoded(grey(48), self._kinds[0])] * number)
        if fault := next((one for one in results if _is_fault(one)), None):
            return False, f"a batch of {number} pictures: {_shown(fault)}: declare the max_batch that it can score"
        return True, f"{number} pictures in one request" + (
            " (not more are tried)" if number == MAX_BATCH_TRIED else ""
        )

    async def _other_name(self) -> _Judged:
        assert self.info is not None
        other = "not-" + self.info.name[:90]
        _, answer = await self._prober.score(other, [encoded(grey(48), self._kinds[0])])
        said = f"a request for oracle {other} was answered {answer.said}"
        return answer.refused, said if answer.refused else f"{said}: refuse it with 422"

    async def _repeated_id(self) -> _Judged:
        assert self.info is not None
        twice = [encoded(grey(48), self._kinds[0])] * 2
        _, answer = await self._prober.score(self.info.name, twice, repeat_id=True)
        said = f"two pictures with one sample_id were answered {answer.said}"
        return answer.refused, said if answer.refused else f"{said}: refuse the request with 422"

    async def _malformed_picture(self) -> _Judged:
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

    async def _malformed_request(self) -> _Judged:
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

    async def _determinism(self) -> _Judged:
        picture = encoded(noise(48), self._kinds[0])
        first, second = [(await self._ask([picture]))[0] for _ in range(2)]
        if not (isinstance(first, Scored) and isinstance(second, Scored)):
            return True, "no two rewards to compare"
        if first.reward == second.reward:
            return True, f"the same picture twice: {first.reward:g}"
        return True, f"warning: the same picture got {first.reward:g} and {second.reward:g}"


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
