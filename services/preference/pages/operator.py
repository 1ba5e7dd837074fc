"""The operator's pages: signing in with an admin token of the gateway, looking, and changing things by forms.

Every change is a line of the audit. The page is whole without a script, and has none.
"""

from __future__ import annotations

import time
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from rewardmesh.wire.errors import ScopeMissing, TokenRefused
from services.preference.context import preference_of
from services.preference.export import export
from services.preference.guard import own_site
from services.preference.invites import InviteRequest
from services.preference.overview import overview
from services.preference.pages.rendering import page
from services.preference.sessions import OPERATOR_S, Operator, OperatorSession, end, operator_of, set_cookie
from services.preference.showing import safe_picture

__all__ = ["router"]

_DAY_S: Final = 86_400.0
_MEDIA_TYPES: Final = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}

router = APIRouter(prefix="/operator", dependencies=[Depends(own_site)], include_in_schema=False)


@router.get("")
async def show(request: Request) -> Response:
    """What there is and how it does; to whom nobody knows, the form to sign in."""
    try:
        actor = await operator_of(request)
    except TokenRefused as error:
        return page(request, "signin.html", said="" if error.which == "operator" else error.what)
    shown = await overview(preference_of(request))
    links = f"{request.url.scheme}://{request.url.netloc}"
    settings = preference_of(request).queue.settings
    return page(request, "operator.html", actor=actor, now=time.time(), links=links, settings=settings, **dict(shown))


@router.post("/signin")
async def sign_in(request: Request, token: Annotated[str, Form(max_length=200)]) -> Response:
    """Takes an admin token and keeps its id in a cookie, never the token."""
    preference = preference_of(request)
    known = await preference.tokens.check(token.strip())
    await preference.tokens.count(known)
    if "admin" not in known.scopes:
        raise ScopeMissing("this needs the scope `admin`", known.token_id, "sign in with a token that has it")
    answer = _back(request)
    set_cookie(request, answer, OperatorSession(token_id=known.token_id, until=time.time() + OPERATOR_S))
    await preference.audit.record(known.actor, "operator.sign-in", known.token_id)
    return answer


@router.post("/signout")
async def sign_out(request: Request) -> Response:
    """Forgets the cookie."""
    answer = _back(request)
    end(request, answer, OperatorSession)
    return answer


@router.post("/pause")
async def pause(request: Request, operator: Operator, paused: Annotated[bool, Form()]) -> Response:
    """Stops giving out pairs, or goes on."""
    preference = preference_of(request)
    await preference.queue.pause(paused=paused)
    await preference.audit.record(operator, "queue.pause" if paused else "queue.resume", "preference")
    return _back(request)


@router.post("/rater")
async def pause_rater(
    request: Request,
    operator: Operator,
    rater_id: Annotated[str, Form(max_length=200)],
    paused: Annotated[bool, Form()],
) -> Response:
    """Pauses a rater, or lets one work again."""
    preference = preference_of(request)
    await preference.queue.pause_rater(rater_id, paused=paused, why="by an operator" if paused else "")
    await preference.audit.record(operator, "rater.pause" if paused else "rater.resume", rater_id)
    return _back(request, "#raters")


@router.post("/invite")
async def create_invite(
    request: Request,
    operator: Operator,
    label: Annotated[str, Form(max_length=100)] = "",
    days: Annotated[float, Form(gt=0, le=366, allow_inf_nan=False)] = 7,
    max_raters: Annotated[int, Form(ge=1, le=100_000)] = 1,
    num_choices: Annotated[str, Form(pattern=r"^[0-9]{0,7}$")] = "",
    completion_code: Annotated[str, Form(pattern=r"^[A-Za-z0-9-]{0,64}$")] = "",
) -> Response:
    """Makes an invite; its link is in the list then."""
    wanted = InviteRequest(
        label=label,
        expires_s=days * _DAY_S,
        max_raters=max_raters,
        num_choices=int(num_choices) if num_choices else None,
        completion_code=completion_code or None,
    )
    await preference_of(request).invites.create(wanted, actor=operator)
    return _back(request, "#invites")


@router.post("/revoke")
async def revoke_invite(
    request: Request, operator: Operator, invite_id: Annotated[str, Form(max_length=100)]
) -> Response:
    """Ends an invite, and the sessions of those who came by it."""
    await preference_of(request).invites.revoke(invite_id, actor=operator)
    return _back(request, "#invites")


@router.get("/picture/{digest}")
async def show_picture(request: Request, operator: Operator, digest: str) -> Response:  # noqa: ARG001 - signed in
    """Any picture that is kept."""
    data, media_type = await safe_picture(preference_of(request), digest)
    return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=86400, immutable"})


@router.get("/preferences.{form}")
async def download(
    request: Request, operator: Operator, form: Literal["jsonl", "parquet"], pictures: bool = False
) -> Response:
    """What people said of settled groups, as one file, while it is written."""
    preference = preference_of(request)
    await preference.audit.record(operator, "export", form, pictures=pictures)
    name = {"Content-Disposition": f'attachment; filename="preferences.{form}"'}
    parts = export(preference.queue, form, pictures=pictures)
    return StreamingResponse(parts, media_type=_MEDIA_TYPES[form], headers=name)


def _back(request: Request, part: str = "") -> RedirectResponse:
    return RedirectResponse(f"{preference_of(request).settings.base_path}/operator{part}", 303)
