"""The JSON side, for the page's own module and for programs that rate as people do.

    POST /api/lease   {"have": [lease ids]}                          a pair that is not among those, or why there is none
    POST /api/choice  {"lease_id", "choice", "choice_id", "look_s"}  keeps a choice; sent again, it changes nothing
    POST /api/renew   {"lease_id"}                                   the same pair, for longer
    POST /api/undo    {}                                             the pair of one's last choice again
    GET  /api/me                                                     how one is doing
    GET  /picture/DIGEST                                             a picture of a pair before one, as pairs name it

Who asks is said by the page's cookie, or by `Authorization: Bearer INVITE` (what an invite's link ends with) together
with `X-Rater: NAME`. `choice_id` is the sender's, new for each choice. A choice other than skip counts only after a look
of `min_look_s` (GET /api/me says it). What cannot be done is answered
`{"error": {"kind", "what", "which", "what_to_do"}}`: 409 for a lease that is gone, a choice that was made already, or
nothing to take back; 401 and 403 for who may not ask; 422 for what is none of the above; 503 to ask again later.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import Field

from rewardmesh.wire.errors import ChoiceRefused
from rewardmesh.wire.messages import Message, Number
from rewardmesh.wire.telemetry import get_logger
from services.preference.context import Preference, preference_of
from services.preference.guard import own_site
from services.preference.model import Choice, Saved
from services.preference.sessions import Asking
from services.preference.showing import Me, Pair, Shown, me, next_pair, pair_of, picture

__all__ = ["ChoiceId", "LeaseId", "Made", "choose", "router", "take_back"]

LeaseId = Annotated[str, Field(min_length=1, max_length=200)]
ChoiceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
_log = get_logger("preference.audit")


class Wanted(Message):
    """`have`: leases of pairs that the sender has before them, or whose choice is still on its way."""

    have: tuple[LeaseId, ...] = Field(default=(), max_length=16)


class Made(Message):
    """A choice, and how long was looked."""

    lease_id: LeaseId
    choice: Choice
    choice_id: ChoiceId
    look_s: Number = Field(ge=0, le=86_400)


class Kept(Message):
    """The choice is kept, and how the rater is doing with it."""

    choice_id: str
    first_time: bool
    me: Me


class OneLease(Message):
    """Which lease."""

    lease_id: LeaseId


class Empty(Message):
    """Nothing needs to be said."""


class MeHere(Me):
    """How a rater is doing, and what is asked of them."""

    rater_id: str
    min_look_s: Number


async def choose(preference: Preference, asking: Asking, made: Made) -> Saved:
    """Keeps a choice and tells the log. Idempotent by its choice_id. Raises: LeaseLost, ChoiceRefused."""
    rater_id = asking.rater.rater_id
    saved = await preference.queue.choose(
        made.lease_id, made.choice, rater_id=rater_id, choice_id=made.choice_id, look_s=made.look_s
    )
    if saved.first_time:
        _log.info(
            "choice",
            rater_id=rater_id,
            comparison_id=saved.comparison_id,
            choice_id=made.choice_id,
            choice=made.choice,
            look_s=round(made.look_s, 2),
        )
    return saved


async def take_back(preference: Preference, asking: Asking) -> Pair:
    """Takes the rater's last choice back and tells the log. Raises: NothingToUndo."""
    presentation = await preference.queue.undo(rater_id=asking.rater.rater_id)
    _log.info("undo", rater_id=asking.rater.rater_id, comparison_id=presentation.comparison_id)
    return pair_of(preference, presentation)


router = APIRouter(dependencies=[Depends(own_site)], tags=["raters"])


@router.post("/api/lease")
async def post_lease(request: Request, asking: Asking, wanted: Wanted) -> Shown:
    """A pair to look at, or why there is none."""
    return await next_pair(preference_of(request), asking, wanted.have)


@router.post("/api/choice")
async def post_choice(request: Request, asking: Asking, made: Made) -> Kept:
    """Keeps a choice."""
    preference = preference_of(request)
    if made.choice != "skip" and made.look_s < preference.queue.settings.min_look_s:
        raise ChoiceRefused(f"chosen after {made.look_s:.2f} s", made.lease_id, "look for min_look_s first")
    saved = await choose(preference, asking, made)
    return Kept(choice_id=saved.choice_id, first_time=saved.first_time, me=await me(preference, asking))


@router.post("/api/renew")
async def post_renew(request: Request, asking: Asking, one: OneLease) -> Pair:
    """The same pair, for longer."""
    preference = preference_of(request)
    return pair_of(preference, await preference.queue.renew(one.lease_id, rater_id=asking.rater.rater_id))


@router.post("/api/undo")
async def post_undo(request: Request, asking: Asking, _: Empty) -> Pair:
    """The pair of one's last choice again."""
    return await take_back(preference_of(request), asking)


@router.get("/api/me")
async def get_me(request: Request, asking: Asking) -> MeHere:
    """How one is doing."""
    preference = preference_of(request)
    doing = await me(preference, asking)
    return MeHere(rater_id=asking.rater.rater_id, min_look_s=preference.queue.settings.min_look_s, **doing.model_dump())


@router.get("/picture/{digest}")
async def get_picture(request: Request, asking: Asking, digest: str) -> Response:
    """A picture of a pair before the rater."""
    data, media_type = await picture(preference_of(request), asking, digest)
    return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=86400, immutable"})
