"""What is answered when something cannot be done: one status for each error; JSON for programs, a page for people.

What was refused to a rater leaves a line in the audit: by whom, where, and why.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from rewardmesh.wire import errors
from rewardmesh.wire.errors import ProtocolError, RewardmeshError
from services.gateway.answers import FaultAnswer, FaultDetail
from services.gateway.audit import Actor
from services.preference.context import preference_of
from services.preference.pages.rendering import fault_page

__all__ = ["answer_faults"]

#: The first class that fits, from the special to the general.
_STATUS: Final[tuple[tuple[type[RewardmeshError], int], ...]] = (
    (errors.TokenRefused, 401),
    (errors.AccessError, 403),
    (errors.PictureGone, 404),
    (errors.PreferenceError, 409),
    (errors.BufferFault, 503),
)
_OTHERWISE: Final = 422
_UNREMARKABLE: Final = (errors.TokenRefused, errors.NothingToUndo, errors.PictureGone, errors.BufferFault)
_SHOWN: Final = 200  # characters of what was sent


def answer_faults(app: FastAPI) -> None:
    """Maps what routes raise, and what FastAPI raises before them."""

    async def ours(request: Request, error: Exception) -> Response:
        if not isinstance(error, RewardmeshError):
            raise error
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), _OTHERWISE)
        if not isinstance(error, _UNREMARKABLE):
            await _record(request, error)
        return _answer(request, status, error)

    async def malformed(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])[:_SHOWN].encode("utf-8", "replace").decode()
        refused = ProtocolError(f"not as it should be: {first['msg']}"[:_SHOWN], place, "open the page again")
        await _record(request, refused)
        return _answer(request, _OTHERWISE, refused)

    async def framework(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        what = HTTPStatus(error.status_code).phrase.lower()
        answer = _answer(
            request, error.status_code, ProtocolError(what, request.url.path[:_SHOWN], "go back to the start")
        )
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(RewardmeshError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, framework)


async def _record(request: Request, error: RewardmeshError) -> None:
    """One line of the audit. What the route is called, not what was sent: a path may hold an invite."""
    route = request.scope.get("route")
    where = f"{request.method} {getattr(route, 'path', '')}"
    rater_id = getattr(request.state, "rater_id", "unknown")
    detail = {"what": error.what, "which": error.which[:_SHOWN]}
    try:
        actor = Actor(token_id=rater_id, team="raters")
        await preference_of(request).refusals.record(actor, f"refused.{type(error).__name__}", where, **detail)
    except errors.BufferFault:
        return  # the structured log has the line


def _answer(request: Request, status: int, error: RewardmeshError) -> Response:
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    path = request.url.path.removeprefix(preference_of(request).settings.base_path)
    if path.startswith(("/api/", "/oracle/", "/picture/")):
        detail = FaultDetail(kind=type(error).__name__, what=error.what, which=error.which, what_to_do=error.what_to_do)
        return JSONResponse(FaultAnswer(error=detail).model_dump(), status, headers)
    return fault_page(request, status, error, headers=headers)
