"""The HTTP protocol from the caller's side: one client for each oracle, with connections of its own.

Deadline: every call ends within the oracle's `deadline_s`, whatever the other side does. Idempotency: the key is made
of what is asked, so a repeated request carries the same one. Errors: every failure is raised as one of
`rewardmesh.dialects.failures`; nothing of httpx leaves this module, nor does the secret. Delivery: an oracle may be
asked more than once. What a service is asked and how its answer reads is its dialect's (`rewardmesh.dialects`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import ValidationError

from reward_workers.pictures import fit_pictures
from reward_workers.retry_after import parse_retry_after
from reward_workers.validate import check_results
from rewardmesh.dialects import open_dialect
from rewardmesh.dialects.dialect import Asked, Dialect, Request
from rewardmesh.dialects.failures import (
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
from rewardmesh.wire.errors import AddressRefused, ProtocolError
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo, ScoreFailure
from rewardmesh.wire.outgoing import OutgoingPolicy, open_client
from rewardmesh.wire.stream import Claim, Result
from rewardmesh.wire.strict_json import load_json

__all__ = ["Answer", "OracleClient", "idempotency_key"]


_SAID_BYTES = 500
_PUBLIC_ONLY = OutgoingPolicy()
#: Shorter ones are none, and could not be told from the rest of an answer that repeats them.
_BEARER_TOKEN = re.compile(r"[\x21-\x7e]{8,}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One result a claim, in the order of the claims, and the version of the oracle that gave them."""

    results: list[Result]
    version: str


class OracleClient:
    """Asks one oracle. Safe to use from many tasks of one event loop.

    `policy` says which addresses may be called (public ones, unless more are allowed); `secret` is sent as a bearer
    token. What is wrong with the endpoint or the secret fails each call, and not the making of a client.
    """

    def __init__(
        self,
        endpoint: OracleEndpoint,
        *,
        policy: OutgoingPolicy = _PUBLIC_ONLY,
        secret: str | None = None,
        max_reply_bytes: int = 8 * 1024 * 1024,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.endpoint = endpoint
        self._info: OracleInfo | None = None
        self._info_asked_s = 0.0
        self._secret = secret
        headers = {"Accept": "application/json", "User-Agent": "rewardmesh-worker"}
        if self._secret_is_sendable:
            headers["Authorization"] = f"Bearer {secret}"
        self._http = open_client(
            policy,
            timeout=httpx.Timeout(endpoint.deadline_s, connect=min(connect_timeout_s, endpoint.deadline_s)),
            limits=httpx.Limits(
                max_connections=endpoint.concurrency + 1, max_keepalive_connections=endpoint.concurrency
            ),
            headers=headers,
            max_answer_bytes=max_reply_bytes,
            deadline_s=endpoint.deadline_s,
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

    @cached_property
    def _dialect(self) -> Dialect:
        return open_dialect(self.endpoint)

    async def info(self, *, max_age_s: float = math.inf) -> OracleInfo:
        """What the oracle says about itself, asked once and again after `max_age_s`; or what it was registered with.

        Raises CallerRefused if it is not the oracle that was registered, InvalidAnswer if it says nothing usable.
        """
        now_s = asyncio.get_running_loop().time()
        if self._info is None or now_s - self._info_asked_s >= max_age_s:
            self._info = self._dialect.info or await self._ask_info()
            self._info_asked_s = now_s
        return self._info

    async def _ask_info(self) -> OracleInfo:
        body = await self._call("GET", "/v1/oracle")
        try:
            info = OracleInfo.model_validate(load_json(body))
        except (ValidationError, ValueError, RecursionError) as error:
            raise InvalidAnswer("GET /v1/oracle gave no OracleInfo", self._which, _one_line(error)) from error
        if info.name != self.endpoint.name:
            raise CallerRefused(
                f"the service there is the oracle {info.name!r}", self._which, "register it under its own name"
            )
        return info

    async def score(self, claims: Sequence[Claim]) -> Answer:
        """One request, its answer checked. Sample ids must be distinct. Raises one of `failures` if the call failed."""
        try:
            async with asyncio.timeout(self.endpoint.deadline_s):
                info = await self.info()
                if info.granularity != self.endpoint.granularity:
                    what = f"it judges a {info.granularity} at once, it is registered for a {self.endpoint.granularity}"
                    raise CallerRefused(what, self._which, "check it again, or register it anew")
                if len(claims) > info.max_batch:  # known only now: whoever asked halves it
                    raise RequestRefused(f"{len(claims)} samples at once, it takes {info.max_batch}", self._which)
                fitted = await fit_pictures(claims, info.media_types)
                unfit = {fit.sample_id: fit for fit in fitted if isinstance(fit, ScoreFailure)}
                if unfit and info.granularity == "group":  # the others cannot be judged without them
                    failures = [unfit.get(claim.sample.sample_id) or _beside_unfit(claim) for claim in claims]
                    return Answer(results=list(failures), version=info.version)
                asked = [
                    Asked(claim=claim, media_type=fit[0], picture=fit[1])
                    for claim, fit in zip(claims, fitted, strict=True)
                    if isinstance(fit, tuple)
                ]
                if not asked:
                    return Answer(results=list(unfit.values()), version=info.version)
                body = await self._post(self._dialect.request(asked), asked)
                reply = self._dialect.read(body, asked)
                if reply.version != info.version:  # redeployed since: its range may be another now
                    info = await self.info(max_age_s=0)
                results = check_results(reply, sample_ids=[one.sample_id for one in asked], info=info)
        except TimeoutError as error:
            raise self._timed_out() from error
        except RecursionError as error:  # where an error quotes what was read: it was just shallow enough to be read
            raise InvalidAnswer("the answer is nested too deeply", self._which) from error
        by_id: dict[str, Result] = {result.sample_id: result for result in results} | unfit
        return Answer(results=[by_id[claim.sample.sample_id] for claim in claims], version=reply.version)

    async def _post(self, request: Request, asked: Sequence[Asked]) -> bytes:
        headers = {"Idempotency-Key": idempotency_key(self.endpoint.name, [one.claim for one in asked])}
        if (traceparent := asked[0].claim.traceparent) is not None:  # one header for all: the others link to this one
            headers["traceparent"] = traceparent
        return await self._call("POST", request.path, json=request.json, files=request.parts, headers=headers)

    async def _call(self, method: str, path: str, **request: Any) -> bytes:
        """The body of a successful answer; every exception of httpx is mapped here and nowhere else."""
        if self._secret is not None and not self._secret_is_sendable:
            what = "the secret registered for it is no bearer token: 8 or more visible ASCII characters"
            raise CallerRefused(what, self._which, "register another")
        url = self.endpoint.url.rstrip("/") + path
        try:
            async with asyncio.timeout(self.endpoint.deadline_s), self._http.stream(method, url, **request) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response, await self._said(response))
                return self._without_secret(await response.aread())
        except AddressRefused as error:
            raise CallerRefused(f"{error.what} ({error.which})", self._which, error.what_to_do) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as error:
            raise Unreachable("no connection to the oracle", self._which, _one_line(error)) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise self._timed_out() from error
        except ProtocolError as error:  # of the outgoing client: compressed, or too long
            raise InvalidAnswer(error.what, self._which, error.what_to_do) from error
        except httpx.HTTPError as error:
            raise Dropped("the connection to the oracle broke", self._which, _one_line(error)) from error

    async def _said(self, response: httpx.Response) -> str:
        """The beginning of an error's body, on one line."""
        body = b""
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) >= _SAID_BYTES + len(self._secret or ""):  # so that no part of it is left at the cut
                    break
        except ProtocolError as error:
            return error.what
        return " ".join(self._without_secret(body)[:_SAID_BYTES].decode(errors="replace").split())

    def _without_secret(self, body: bytes) -> bytes:
        """An answer that repeats the secret would carry it into logs and dead letters."""
        secret = (self._secret or "").encode()
        return body.replace(secret, b"*" * len(secret)) if secret else body

    @property
    def _secret_is_sendable(self) -> bool:
        return self._secret is not None and _BEARER_TOKEN.fullmatch(self._secret) is not None

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

    def _timed_out(self) -> TimedOut:
        return TimedOut(f"no answer within {self.endpoint.deadline_s:g} s", self._which)

    @property
    def _which(self) -> str:
        """Name and URL, without what a URL may carry of secrets: user information and a query."""
        url = re.sub(r"//[^/?#]*@", "//", self.endpoint.url).partition("?")[0]
        return f"{self.endpoint.name} at {url}"


def idempotency_key(oracle: str, claims: Sequence[Claim]) -> str:
    """The same for the same samples asked of the same oracle, whatever their order, worker or attempt."""
    parts = sorted(f"{claim.sample.run_id}/{claim.sample.group_id}/{claim.sample.sample_id}" for claim in claims)
    return hashlib.sha256("\n".join([oracle, *parts]).encode()).hexdigest()


def _beside_unfit(claim: Claim) -> ScoreFailure:
    detail = "another picture of its group cannot be sent, and the oracle judges whole groups"
    return ScoreFailure(sample_id=claim.sample.sample_id, code="invalid_picture", detail=detail, retryable=False)


def _one_line(error: BaseException) -> str:
    try:
        said = " ".join(str(error).split())[:300].encode(errors="replace").decode()
    except RecursionError:  # it quotes something nested deeply
        said = ""
    return said or type(error).__name__
