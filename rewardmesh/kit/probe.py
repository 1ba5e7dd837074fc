"""Asks a service one thing at a time, within bounds, and reads what came back. Judging it is `conformance`'s business.

Deadline: every call ends within `deadline_s`. Bytes: at most MAX_REPLY_BYTES of an answer are read, and nothing of one
that is compressed. Errors: whatever keeps an answer from being usable is `Unusable`; a wrong result is a problem, in
words.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import TypeAdapter, ValidationError

from rewardmesh.kit.oracle import Result
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.messages import (
    Checks,
    Clause,
    Deferred,
    OracleInfo,
    Sample,
    ScoreBatch,
    Scored,
    ScoreFailure,
    ScoreItem,
    ScoreResult,
)

__all__ = ["MAX_REPLY_BYTES", "Answer", "Prober", "Unusable", "judge_results", "known_sample", "read_results"]

MAX_REPLY_BYTES = 8 * 1024 * 1024

_RESULT: TypeAdapter[Result] = TypeAdapter(ScoreResult)
#: Something for every kind of oracle to verify: objects, a count, a colour, a word.
_CHECKS = Checks(tag="counting", include=(Clause(cls="circle", count=2, color="red"),), text="hello")


class Unusable(Exception):
    """No answer, or one that is not worth reading; `timed_out` says that it was not there in time."""

    def __init__(self, said: str, *, timed_out: bool = False) -> None:
        super().__init__(said)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered, whatever the status."""

    status: int
    body: bytes
    seconds: float

    @property
    def refused(self) -> bool:
        """Whether it was said to be the caller's fault."""
        return 400 <= self.status < 500

    @property
    def said(self) -> str:
        """The status and the beginning of the body, on one line."""
        beginning = " ".join(self.body[:200].decode(errors="replace").split())
        return f"{self.status} {beginning}".strip()


class Prober:
    """Calls one service. Sample ids are new in every request."""

    def __init__(self, url: str, *, http: httpx.AsyncClient, deadline_s: float) -> None:
        self._url = url.rstrip("/")
        self._http = http
        self._deadline_s = deadline_s
        self._num_requests = 0

    async def call(self, method: str, path: str, **request: Any) -> Answer:
        """One request. Raises: Unusable if no answer came, or one that is too long or compressed."""
        began = time.monotonic()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **request.pop("headers", {})}
        stream = self._http.stream(
            method,
            self._url + path,
            headers=headers,
            timeout=self._deadline_s,
            follow_redirects=False,
            **request,
        )
        try:
            async with asyncio.timeout(self._deadline_s), stream as response:
                body = await _read(response)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unusable(f"{method} {path}: no answer within {self._deadline_s:g} s", timed_out=True) from error
        except (httpx.HTTPError, httpx.InvalidURL, RewardmeshError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise Unusable(f"{method} {path}: {reason}") from error
        return Answer(response.status_code, body, time.monotonic() - began)

    async def score(
        self, oracle: str, pictures: Sequence[tuple[str, bytes]], *, repeat_id: bool = False
    ) -> tuple[list[str], Answer]:
        """Posts pictures (media type, bytes) as one batch; returns their sample ids and the answer."""
        self._num_requests += 1
        group_id = f"g{self._num_requests}"
        ids = [f"{group_id}.{0 if repeat_id else index}" for index in range(len(pictures))]
        items = [
            ScoreItem(sample=known_sample(group_id, sample_id), media_type=media_type, picture=f"p{index}")
            for index, (sample_id, (media_type, _)) in enumerate(zip(ids, pictures, strict=True))
        ]
        batch = ScoreBatch(oracle=oracle, items=items, deadline_s=self._deadline_s)
        parts: list[tuple[str, tuple[str | None, str | bytes, str]]] = [
            ("request", (None, batch.to_json(), "application/json"))
        ]
        parts += [(f"p{index}", (f"p{index}", data, kind)) for index, (kind, data) in enumerate(pictures)]
        return ids, await self.call("POST", "/v1/score", files=parts)


def read_results(answer: Answer, ids: Sequence[str], info: OracleInfo) -> tuple[dict[str, Result], list[str]]:
    """The sound results by sample id, and what is wrong with others. Raises: Unusable if it is no reply at all."""
    if answer.status != httpx.codes.OK:
        raise Unusable(f"POST /v1/score answered {answer.said}")
    try:
        reply = json.loads(answer.body)
        version, oracle, raws = reply["version"], reply["oracle"], reply["results"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unusable("POST /v1/score answered no object of oracle, version and results: " + answer.said) from error
    problems = []
    if oracle != info.name:
        problems.append(f"the answer is from oracle {str(oracle)[:100]!r}, not {info.name}")
    if version != info.version:
        problems.append(f"the answer is of version {str(version)[:100]!r}, GET /v1/oracle said {info.version}")
    if not isinstance(raws, list) or len(raws) > len(ids):  # what nobody asked for is not even looked at
        return {}, [*problems, f"results is no list, or one of more than the {len(ids)} samples asked about"]
    results, wrong = judge_results(raws, ids, info)
    missing = [one for one in ids if one not in results]
    if missing and not problems and not wrong:
        problems.append(f"{len(missing)} of {len(ids)} samples have no result, {missing[0]} first")
    return results, problems + wrong


def judge_results(raws: Sequence[Any], ids: Sequence[str], info: OracleInfo) -> tuple[dict[str, Result], list[str]]:
    """The sound ones of some results by sample id, and what is wrong with the others."""
    results: dict[str, Result] = {}
    problems = []
    for raw in raws:
        result = _read_result(raw, info)
        if isinstance(result, str):
            problems.append(result)
        elif result.sample_id not in ids or result.sample_id in results:
            problems.append(f"a result for {result.sample_id}, which was not asked about or is there twice")
        else:
            results[result.sample_id] = result
    return results, problems


def _read_result(raw: Any, info: OracleInfo) -> Result | str:
    """One result, or what is wrong with it."""
    try:
        result = _RESULT.validate_python(raw, strict=True)
    except (ValidationError, ValueError, OverflowError, RecursionError) as error:
        reason = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else error
        return f"{str(raw)[:100]} is no result: {reason}"
    if isinstance(result, Scored) and not info.reward_min <= result.reward <= info.reward_max:
        return f"reward {result.reward} is outside the declared range {info.reward_min} to {info.reward_max}"
    if isinstance(result, Deferred) and not info.deferred:
        return "a deferred result from an oracle that does not declare `deferred`"
    if isinstance(result, ScoreFailure) and result.code in {"stale", "expired", "poison"}:
        return f"the code {result.code} is not an oracle's to give"
    return result


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Unusable("the answer is compressed, though identity was asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise Unusable(f"the answer is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(body)


def known_sample(group_id: str, sample_id: str) -> Sample:
    """What a known picture is said to show."""
    return Sample(
        run_id="conformance",
        group_id=group_id,
        sample_id=sample_id,
        policy_version=0,
        boundary_index=0,
        prompt='two red circles and the word "hello"',
        checks=_CHECKS,
    )
