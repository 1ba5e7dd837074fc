"""One HTTP app for any oracle: the protocol of docs/protocol.md around a plain `Oracle`.

Owns reading requests within limits, opening pictures, scoring in a single thread, and one result a sample. While one
batch is scored, the pictures of the next are opened in another thread. A picture that cannot be opened fails alone; an
oracle that raises fails only the samples that it raises for. Delivery: a request may be repeated (scoring is a function
of its input, so nothing is kept by Idempotency-Key). Deadline: a request that waited for its turn past its `deadline_s`
is answered 503 instead of being scored for nobody. Errors: every answer that is none of the protocol's good ones is an
`ErrorReply`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from fastapi import Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from rewardmesh.kit.bearer import BearerToken
from rewardmesh.kit.openapi import REFUSED_CALLER, SCORE_REFUSALS, SCORE_REQUEST, openapi_of
from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.kit.refused import Refused
from rewardmesh.kit.request import ScoreCall, read_call
from rewardmesh.wire.codec import MAX_BYTES, MAX_PIXELS, decode_picture
from rewardmesh.wire.errors import PictureRejected
from rewardmesh.wire.messages import Message, OracleInfo, ScoreBatch, ScoreBatchReply, Scored, ScoreItem
from rewardmesh.wire.strict_json import dump_json

__all__ = ["AppLimits", "build_app"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AppLimits:
    """What one request may bring; the batch is bounded by the oracle's own `max_batch`."""

    max_body_bytes: int = 64 * 1024 * 1024
    max_picture_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    max_request_pixels: int = 4 * MAX_PIXELS  # of all pictures of one request, opened: a batch of small bombs is one
    max_waiting: int = 16  # requests that wait for their turn; more are answered 429
    retry_after_s: int = 1


def build_app(oracle: Oracle, *, limits: AppLimits | None = None, token: str | None = None) -> FastAPI:
    """The ASGI app of one oracle. It closes the oracle when it is shut down.

    With a `token`, every route but health asks for it as `Authorization: Bearer`. `app.state.busy_s()` says for how
    long the batch in hand has been scored, for whoever watches over the process. Raises: ValueError for an empty token.
    """
    server = _Server(oracle, limits or AppLimits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    # The document is a route like the others, below: FastAPI's own would be open to all.
    app = FastAPI(title=oracle.info.name, version=oracle.info.version, lifespan=lifespan, openapi_url=None)
    app.state.busy_s = server.busy_s
    app.add_exception_handler(Refused, server.refuse)
    app.add_exception_handler(HTTPException, server.refuse)
    guarded = [] if token is None else [Depends(BearerToken(token))]
    refusals = {} if token is None else REFUSED_CALLER

    async def document() -> Response:
        return _json(dump_json(openapi_of(app)))

    app.add_api_route("/v1/health", server.health, response_model=Health)
    app.add_api_route(
        "/v1/oracle", server.describe, response_model=OracleInfo, dependencies=guarded, responses=refusals
    )
    app.add_api_route(
        "/v1/score",
        server.score,
        methods=["POST"],
        response_model=ScoreBatchReply,
        dependencies=guarded,
        responses={**SCORE_REFUSALS, **refusals},
        openapi_extra=SCORE_REQUEST,
    )
    app.add_api_route("/openapi.json", document, dependencies=guarded, include_in_schema=False)
    return app


class Health(Message):
    """What `GET /v1/health` answers once the oracle can score."""

    status: Literal["ok"] = "ok"


class _Server:
    """The three routes, the thread that opens pictures, and the one that scores."""

    def __init__(self, oracle: Oracle, limits: AppLimits) -> None:
        self._oracle = oracle
        self._limits = limits
        self._opening = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"open-{oracle.info.name}")
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"score-{oracle.info.name}")
        self._opened = asyncio.Semaphore(2)  # batches whose pictures are open: one is scored, the next is ready
        self._waiting = 0
        self._scoring_since: float | None = None

    def busy_s(self) -> float:
        """For how long the batch in hand has been scored; 0 if there is none."""
        since = self._scoring_since
        return 0.0 if since is None else time.monotonic() - since

    async def describe(self) -> Response:
        """What the oracle is. Never changes while the process runs."""
        return _json(self._oracle.info.to_json())

    async def health(self) -> Response:
        """Answers once the oracle can score; needs no token."""
        return _json(Health().to_json())

    async def score(self, request: Request) -> Response:
        """Rewards of a batch: a result a sample, in any order, or one of the refusals. May be repeated."""
        received = time.monotonic()
        info = self._oracle.info
        if self._waiting >= self._limits.max_waiting:
            raise Refused(429, "too many requests wait", info.name, "ask again later")
        self._waiting += 1
        try:
            call = await read_call(request, max_body_bytes=self._limits.max_body_bytes)
            _check_batch(call.batch, info)
            loop = asyncio.get_running_loop()
            async with self._opened:
                inputs, unopened = await loop.run_in_executor(self._opening, self._open_all, call, received)
                results = await loop.run_in_executor(self._scoring, self._score_in_time, inputs, call, received)
            return _json(ScoreBatchReply(oracle=info.name, version=info.version, results=unopened + results).to_json())
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Waits for the batch in hand, then lets the oracle go."""
        for thread in (self._opening, self._scoring):
            thread.shutdown(cancel_futures=True)
        self._oracle.close()

    def _open_all(self, call: ScoreCall, received: float) -> tuple[list[OracleInput], list[Result]]:
        """What can be scored, and the failures of the rest. Raises Refused for a call that is late or too large."""
        _require_in_time(call, received)
        inputs: list[OracleInput] = []
        unopened: list[Result] = []
        num_pixels, most = 0, self._limits.max_request_pixels
        for item, picture in zip(call.batch.items, call.pictures, strict=True):
            opened = self._open(item, picture)
            if isinstance(opened, OracleInput):
                inputs.append(opened)
                num_pixels += opened.picture.shape[0] * opened.picture.shape[1]
                if num_pixels > most:
                    raise Refused(413, "pictures are too large together", f"more than {most} pixels", "send fewer")
            else:
                unopened.append(opened)
        if unopened and self._oracle.info.granularity == "group":  # what is left is not the group
            reason = "another picture of its group cannot be opened, and groups are judged whole"
            unopened += [failed(one.sample, "invalid_picture", reason) for one in inputs]
            inputs = []
        return inputs, unopened

    def _score_in_time(self, inputs: Sequence[OracleInput], call: ScoreCall, received: float) -> list[Result]:
        """The results of what was opened. Raises Refused past the deadline."""
        _require_in_time(call, received)
        if not inputs:
            return []
        self._scoring_since = time.monotonic()
        try:
            return self._score(inputs)
        finally:
            self._scoring_since = None

    def _open(self, item: ScoreItem, picture: bytes | None) -> OracleInput | Result:
        """The decoded sample, or the failure of its picture."""
        known = self._oracle.info.media_types
        if item.media_type.partition(";")[0] not in known:
            reason = f"media type {item.media_type[:100]!r} is not one of {', '.join(known)}"
            return failed(item.sample, "invalid_picture", reason)
        if picture is None:
            return failed(item.sample, "invalid_picture", "picture_base64 is not base64")
        try:
            decoded = decode_picture(
                picture,
                item.media_type,
                max_bytes=self._limits.max_picture_bytes,
                max_pixels=self._limits.max_pixels,
            )
        except PictureRejected as error:
            return failed(item.sample, "invalid_picture", str(error))
        return OracleInput(sample=item.sample, picture=decoded, hint=item.hint)

    def _score(self, inputs: Sequence[OracleInput]) -> list[Result]:
        """The oracle's checked results; if it raises, each sample is asked about alone, to find the one to blame.

        A group that is judged whole fails whole.
        """
        try:
            return _checked(self._oracle.score(inputs), inputs, self._oracle.info)
        except Exception as error:  # whatever a stranger's oracle raises fails samples, not the service
            if len(inputs) > 1 and self._oracle.info.granularity == "sample":
                return [result for one in inputs for result in self._score([one])]
            of = inputs[0].sample
            ids = {"run_id": of.run_id, "group_id": of.group_id, "sample_id": of.sample_id}
            logger.exception("oracle.failed", extra={"oracle": self._oracle.info.name, **ids})
            reason, passes = f"{type(error).__name__}: {error}"[:1000], isinstance(error, MemoryError | OSError)
            return [failed(one.sample, "oracle_error", reason, retryable=passes) for one in inputs]

    async def refuse(self, _: Request, error: Exception) -> Response:
        """The answer to a request that was refused, here or by the framework (no such path, another method)."""
        if isinstance(error, HTTPException):
            error = Refused(error.status_code, error.detail, self._oracle.info.name, "see docs/protocol.md")
        if not isinstance(error, Refused):
            raise error
        headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
        if error.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            headers["Retry-After"] = str(self._limits.retry_after_s)
        return Response(error.to_json(), error.status, headers, "application/json")


def _require_in_time(call: ScoreCall, received: float) -> None:
    deadline_s = call.batch.deadline_s
    if deadline_s is not None and time.monotonic() - received > deadline_s:
        raise Refused(503, "waited for its turn past its deadline", f"{deadline_s:g} s", "ask again later")


def _check_batch(batch: ScoreBatch, info: OracleInfo) -> None:
    """Refuses a batch for another oracle, a repeated sample, or more samples than the oracle takes."""
    if batch.oracle != info.name:
        raise Refused(422, "request is for another oracle", f"{batch.oracle} asked, {info.name} here", "check the URL")
    if len(batch.items) > info.max_batch:
        raise Refused(413, f"{len(batch.items)} samples in one request", info.name, f"send at most {info.max_batch}")
    seen: set[str] = set()
    for item in batch.items:
        if item.sample.sample_id in seen:
            raise Refused(422, "sample is in the request twice", item.sample.sample_id, "send each sample once")
        seen.add(item.sample.sample_id)


def _checked(results: Sequence[Result], inputs: Sequence[OracleInput], info: OracleInfo) -> list[Result]:
    """The results as the protocol wants them; one that breaks its rules becomes that sample's failure.

    Raises: ValueError for a result of a sample that was not asked about, or two for one.
    """
    asked = {one.sample.sample_id: one.sample for one in inputs}
    if len({result.sample_id for result in results}) != len(results):
        raise ValueError("oracle gave two results for one sample")
    checked: list[Result] = []
    for result in results:
        sample = asked.get(result.sample_id)
        if sample is None:
            raise ValueError(f"oracle gave a result for {result.sample_id}, which was not asked about")
        if isinstance(result, Scored):
            reason = _unsound(result, info)
            checked.append(result if reason is None else failed(sample, "oracle_error", reason))
        else:
            checked.append(result)
    return checked


def _unsound(result: Scored, info: OracleInfo) -> str | None:
    """Why a score cannot be sent, or None."""
    if not math.isfinite(result.reward) or not info.reward_min <= result.reward <= info.reward_max:
        return f"reward {result.reward} is outside {info.reward_min} to {info.reward_max}"
    try:
        dump_json(result.detail)
    except ValueError as error:
        return f"detail is no strict JSON: {error}"
    return None


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
