"""The HTTP protocol from the caller's side: one client for each oracle, with connections of its own.

Deadline: every call ends within the oracle's `deadline_s`, whatever the other side does. Idempotency: the key is made
of what is asked, so a repeated request carries the same one. Errors: every failure is raised as one of
`reward_workers.failures`; nothing of httpx leaves this module. Delivery: an oracle may be asked more than once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import ValidationError

from reward_workers.failures import (
    CallerRefused,
    CallFailure,
    Dropped,
    InvalidAnswer,
    Overloaded,
    RequestRefused,
    ServerError,
    TimedOut,
    Unreachable,
)
from reward_workers.pictures import fit_pictures
from reward_workers.retry_after import parse_retry_after
from reward_workers.validate import check_results, parse_reply
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo, ScoreBatch, ScoreFailure, ScoreItem
from rewardmesh.wire.stream import Claim, Result
from rewardmesh.wire.strict_json import load_json

__all__ = ["Answer", "OracleClient", "idempotency_key"]


_SAID_BYTES = 500


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One result a claim, in the order of the claims, and the version of the oracle that gave them."""

    results: list[Result]
    version: str


class OracleClient:
    """Asks one oracle. Safe to use from many tasks of one event loop."""

    def __init__(
        self,
        endpoint: OracleEndpoint,
        *,
        max_reply_bytes: int = 8 * 1024 * 1024,
        connect_timeout_s: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._max_reply_bytes = max_reply_bytes
        self._info: OracleInfo | None = None
        limits = httpx.Limits(max_connections=endpoint.concurrency + 1, max_keepalive_connections=endpoint.concurrency)
        self._http = httpx.AsyncClient(
            base_url=endpoint.url.rstrip("/"),
            timeout=httpx.Timeout(endpoint.deadline_s, connect=min(connect_timeout_s, endpoint.deadline_s)),
            limits=limits,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "rewardmesh-worker"},
            follow_redirects=False,
            trust_env=False,  # a proxy of the environment would also catch loopback
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    @property
    def max_batch(self) -> int:
        """Samples in one request: what the registry says, or less if the oracle says so."""
        said = self._info.max_batch if self._info is not None else self.endpoint.max_batch
        return min(self.endpoint.max_batch, said)

    async def info(self, *, refresh: bool = False) -> OracleInfo:
        """What the oracle says about itself, asked once and kept until `refresh`.

        Raises CallerRefused if it is not the oracle that was registered, InvalidAnswer if it says nothing usable.
        """
        if self._info is None or refresh:
            body = await self._call("GET", "/v1/oracle", deadline_s=self.endpoint.deadline_s)
            try:
                info = OracleInfo.model_validate(load_json(body))
            except (ValidationError, ValueError, RecursionError) as error:
                raise InvalidAnswer("GET /v1/oracle gave no OracleInfo", self._which, _one_line(error)) from error
            if info.name != self.endpoint.name:
                raise CallerRefused(
                    f"the service there is the oracle {info.name!r}", self._which, "register it under its own name"
                )
            self._info = info
        return self._info

    async def score(self, claims: Sequence[Claim]) -> Answer:
        """One `POST /v1/score`, checked. Sample ids must be distinct. Raises one of `failures` if the call failed."""
        try:
            async with asyncio.timeout(self.endpoint.deadline_s):
                info = await self.info()
                fitted = await fit_pictures(claims, info.media_types)
                asked = [(claim, fit) for claim, fit in zip(claims, fitted, strict=True) if isinstance(fit, tuple)]
                unfit = {fit.sample_id: fit for fit in fitted if isinstance(fit, ScoreFailure)}
                if not asked:
                    return Answer(results=list(unfit.values()), version=info.version)
                body = await self._post_batch(asked)
                reply = parse_reply(body, oracle=self.endpoint.name)
                if reply.version != info.version:  # redeployed since: its range may be another now
                    info = await self.info(refresh=True)
        except TimeoutError as error:
            raise self._timed_out(self.endpoint.deadline_s) from error
        results = check_results(reply, sample_ids=[claim.sample.sample_id for claim, _ in asked], info=info)
        by_id: dict[str, Result] = {result.sample_id: result for result in results} | unfit
        return Answer(results=[by_id[claim.sample.sample_id] for claim in claims], version=reply.version)

    async def _post_batch(self, asked: Sequence[tuple[Claim, tuple[str, bytes]]]) -> bytes:
        deadline_s = self.endpoint.deadline_s
        items = [
            ScoreItem(sample=claim.sample, media_type=media_type, picture=f"picture-{index}", hint=claim.hint)
            for index, (claim, (media_type, _)) in enumerate(asked)
        ]
        batch = ScoreBatch(oracle=self.endpoint.name, items=items, deadline_s=deadline_s)
        parts: list[tuple[str, tuple[str | None, str | bytes, str]]] = [
            ("request", (None, batch.to_json(), "application/json"))
        ]
        for index, (_, (media_type, picture)) in enumerate(asked):
            name = f"picture-{index}"
            parts.append((name, (name, picture, media_type)))
        headers = {"Idempotency-Key": idempotency_key(self.endpoint.name, [claim for claim, _ in asked])}
        return await self._call("POST", "/v1/score", deadline_s=deadline_s, files=parts, headers=headers)

    async def _call(self, method: str, path: str, *, deadline_s: float, **request: Any) -> bytes:
        """The body of a successful answer; every exception of httpx is mapped here and nowhere else."""
        try:
            async with asyncio.timeout(deadline_s), self._http.stream(method, path, **request) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response, await _said(response))
                return await self._read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise Unreachable("no connection to the oracle", self._which, _one_line(error)) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise self._timed_out(deadline_s) from error
        except httpx.DecodingError as error:
            raise InvalidAnswer("the answer cannot be decoded", self._which, _one_line(error)) from error
        except httpx.HTTPError as error:
            raise Dropped("the connection to the oracle broke", self._which, _one_line(error)) from error

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_reply_bytes:
                raise InvalidAnswer(f"the answer is longer than {self._max_reply_bytes} bytes", self._which)
        return bytes(body)

    def _refusal(self, response: httpx.Response, said: str) -> CallFailure:
        status, which = response.status_code, self._which
        what = f"it answered {status}" + (f", {said}" if said else "")
        if status in {429, 503}:
            return Overloaded(what, which, retry_after_s=parse_retry_after(response.headers.get("Retry-After")))
        if status == httpx.codes.NOT_FOUND:
            return Unreachable(what, which, "check the URL, or wait for its deployment")
        if status in {408, 504}:
            return TimedOut(what, which)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return ServerError(what, which)
        if status in {400, 413, 415, 422}:
            return RequestRefused(what, which)
        return CallerRefused(what, which, "check the URL and permissions registered for it")

    def _timed_out(self, deadline_s: float) -> TimedOut:
        return TimedOut(f"no answer within {deadline_s:g} s", self._which)

    @property
    def _which(self) -> str:
        return f"{self.endpoint.name} at {self.endpoint.url}"


def idempotency_key(oracle: str, claims: Sequence[Claim]) -> str:
    """The same for the same samples asked of the same oracle, whatever their order, worker or attempt."""
    parts = sorted(f"{claim.sample.run_id}/{claim.sample.group_id}/{claim.sample.sample_id}" for claim in claims)
    return hashlib.sha256("\n".join([oracle, *parts]).encode()).hexdigest()


async def _said(response: httpx.Response) -> str:
    """The beginning of an error's body, on one line."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) >= _SAID_BYTES:
            break
    return " ".join(body[:_SAID_BYTES].decode(errors="replace").split())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
