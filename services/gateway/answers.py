"""What the gateway sends back when it cannot do what was asked: one shape of body, one status for each error.

An error of ours goes out as it is, by the name of its class, so that `rewardmesh.Client` raises the very same one.
Nothing that was sent is repeated in an answer but names, ids and numbers.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException

from rewardmesh.wire import errors
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.messages import Message

__all__ = ["FAULTS", "FaultAnswer", "answer_faults", "fault"]

#: The first class that fits, from the special to the general.
_STATUS: Final[tuple[tuple[type[RewardmeshError], int], ...]] = (
    (errors.TokenRefused, 401),
    (errors.ScopeMissing, 403),
    (errors.RateExceeded, 429),
    (errors.AccessError, 404),
    (errors.UnknownOracle, 404),
    (errors.UnknownRun, 404),
    (errors.UnknownGroup, 404),
    (errors.UnknownLetter, 404),
    (errors.BufferFull, 429),
    (errors.BufferFault, 503),
    (errors.OracleTimeout, 504),
    (errors.OracleError, 502),
)
_OTHERWISE: Final = 422


class FaultDetail(Message):
    """`kind` is a class of `rewardmesh.wire.errors`."""

    kind: str
    what: str
    which: str = ""
    what_to_do: str = ""


class FaultAnswer(Message):
    """The body of every answer that is not what was asked for."""

    error: FaultDetail = Field(description="what went wrong, with which, and what to do")


#: What any route may answer besides its own; for the OpenAPI document.
FAULTS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": FaultAnswer, "description": description}
    for status, description in {
        400: "the body cannot be read",
        401: "no good token",
        403: "the token's scopes do not allow it",
        404: "no such oracle, run, group, token or dead letter",
        408: "the body did not come in time",
        413: "the body is too large",
        422: "understood, and refused: the answer says what to change",
        429: "too often, or the buffer is full for this oracle; see Retry-After",
        502: "an oracle failed",
        503: "the buffer does not answer; see Retry-After",
        504: "an oracle did not answer in time",
    }.items()
}


def fault(status: int, error: RewardmeshError) -> Response:
    """The answer for an error of ours."""
    detail = FaultDetail(kind=type(error).__name__, what=error.what, which=error.which, what_to_do=error.what_to_do)
    headers = {}
    if status in {429, 503}:
        headers["Retry-After"] = str(getattr(error, "retry_after_s", 1))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="rewardmesh", Basic realm="rewardmesh"'
    return Response(FaultAnswer(error=detail).to_json(), status, headers, "application/json")


def status_of(error: RewardmeshError) -> int:
    """The HTTP status of an error of ours."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _OTHERWISE)


def answer_faults(app: FastAPI) -> None:
    """Maps what routes raise, and what FastAPI raises before them, to the one shape."""

    async def ours(_: Request, error: Exception) -> Response:
        if not isinstance(error, RewardmeshError):
            raise error
        return fault(status_of(error), error)

    async def malformed(_: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])[:200]
        what = "the body is no JSON" if first["type"] == "json_invalid" else f"not as the schema says: {first['msg']}"
        return fault(422, errors.ProtocolError(what[:500], _printable(place), "see /v1/openapi.json"))

    async def framework(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        answer = fault(error.status_code, errors.ProtocolError(str(error.detail), "", "see /v1/openapi.json"))
        answer.headers.update(error.headers or {})
        return answer

    async def unspeakable(_: Request, __: Exception) -> Response:
        """JSON can say half a surrogate pair, UTF-8 cannot: such text can neither be kept nor sent on."""
        return fault(422, errors.ProtocolError("text holds half a surrogate pair", "", "send what UTF-8 can say"))

    app.add_exception_handler(RewardmeshError, ours)
    app.add_exception_handler(UnicodeEncodeError, unspeakable)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, framework)


def _printable(text: str) -> str:
    """Without what UTF-8 cannot say: a key of the sender's JSON may hold half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
