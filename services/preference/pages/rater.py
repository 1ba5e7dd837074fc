"""The raters' pages: joining by an invite's link, the pair before one, choosing and undoing as plain forms.

Every form is safe to send twice: a choice carries the id that it is kept under, and a lease that is gone is refused. The
page that answers a form is fetched anew (303), so that going back or reloading never sends one.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from services.preference.api import ChoiceId, LeaseId, Made, choose, take_back
from services.preference.context import preference_of
from services.preference.guard import own_site
from services.preference.model import Choice
from services.preference.pages.rendering import page
from services.preference.pages.words import WORDS
from services.preference.sessions import Asking, admit, keep_name, set_cookie
from services.preference.showing import Pair, me, next_pair

__all__ = ["router"]

_MAX_LOOK_S: Final = 86_400.0
ProlificId = Annotated[str, Query(alias="PROLIFIC_PID", max_length=64, pattern=r"^[A-Za-z0-9]*$")]

router = APIRouter(dependencies=[Depends(own_site)], include_in_schema=False)


@router.get("/join/{link}")
async def show_invite(request: Request, link: str, prolific_pid: ProlificId = "") -> Response:
    """What the work is, and a button to begin: looking at a link, as mail programs do, lets nobody in."""
    preference = preference_of(request)
    invite = await preference.invites.check(link)
    settings = preference.queue.settings
    shown = {"link": link, "prolific_pid": prolific_pid, "invite": invite, "mode": settings.mode}
    return page(request, "join.html", **shown)


@router.post("/join/{link}")
async def join(
    request: Request, link: str, prolific_pid: Annotated[str, Form(max_length=64, pattern=r"^[A-Za-z0-9]*$")] = ""
) -> Response:
    """Lets the rater in. Who comes again by the same link in the same browser, or by the same Prolific id, is the same."""
    preference = preference_of(request)
    invite = await preference.invites.check(link)
    name = prolific_pid or keep_name(request, invite)
    _, session = await admit(preference, invite, name=name, prolific_pid=prolific_pid or None)
    answer = _to_the_page(request)
    set_cookie(request, answer, session)
    return answer


@router.get("/")
async def show_pair(request: Request, asking: Asking, lease: Annotated[str, Query(max_length=200)] = "") -> Response:
    """The pair before the rater, that of a `lease` if they hold it, or why there is none."""
    preference = preference_of(request)
    shown = await next_pair(preference, asking, first=lease)
    settings = preference.queue.settings
    return page(
        request,
        "work.html",
        pair=shown if isinstance(shown, Pair) else None,
        reason="" if isinstance(shown, Pair) else shown.reason,
        rater_id=asking.rater.rater_id,
        me=await me(preference, asking),
        words=WORDS,
        mode=settings.mode,
        min_look_s=settings.min_look_s,
        lease_s=settings.lease_s,
        choice_id=secrets.token_urlsafe(12),
        shown_at=time.time(),
    )


@router.post("/choose")
async def post_choice(
    request: Request,
    asking: Asking,
    lease_id: Annotated[LeaseId, Form()],
    choice: Annotated[Choice, Form()],
    choice_id: Annotated[ChoiceId, Form()],
    shown_at: Annotated[float, Form(allow_inf_nan=False)],
) -> Response:
    """Keeps a choice of a page without script. How long was looked is from page to form."""
    look_s = min(max(0.0, time.time() - shown_at), _MAX_LOOK_S)
    made = Made(lease_id=lease_id, choice=choice, choice_id=choice_id, look_s=look_s)
    await choose(preference_of(request), asking, made)
    return _to_the_page(request)


@router.post("/undo")
async def post_undo(request: Request, asking: Asking) -> Response:
    """Takes the last choice back and shows its pair."""
    pair = await take_back(preference_of(request), asking)
    return _to_the_page(request, f"?lease={quote(pair.lease_id)}")


def _to_the_page(request: Request, query: str = "") -> RedirectResponse:
    return RedirectResponse(f"{preference_of(request).settings.base_path}/{query}", 303)
