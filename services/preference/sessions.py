"""Who asks: a rater by cookie or by the text of an invite, an operator by cookie.

Cookies are signed and hold ids, no secrets; HttpOnly, SameSite=Strict, for the service's own path alone. What they say
is looked up at every request: an invite that was revoked ends its raters' sessions, a revoked token its operator's.

A program is a rater too, without cookies: `Authorization: Bearer <what the invite's link ends with>` and
`X-Rater: <a name of its own>`. One rater is one name under one invite, however they ask.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Request, Response
from itsdangerous import BadSignature, URLSafeSerializer

from rewardmesh.wire.errors import ProtocolError, ScopeMissing, TokenRefused
from rewardmesh.wire.messages import Count, Message, Number
from services.gateway.audit import Actor
from services.preference.context import Preference, preference_of
from services.preference.invites import Invite
from services.preference.model import Rater

__all__ = [
    "OPERATOR_S",
    "Asking",
    "Operator",
    "OperatorSession",
    "RaterSession",
    "admit",
    "end",
    "keep_name",
    "operator_of",
    "set_cookie",
]

RATER_S: Final = 30 * 86_400
OPERATOR_S: Final = 12 * 3_600
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RaterSession(Message):
    """`since` and `num_before`: when this sitting began, and with how many choices, for the pace."""

    rater_id: str
    invite_id: str
    since: Number
    num_before: Count


class OperatorSession(Message):
    """Who signed in, by the id of their token."""

    token_id: str
    until: Number


Session = TypeVar("Session", RaterSession, OperatorSession)


@dataclass(frozen=True)
class _Asking:
    """A rater whose invite holds, and this sitting of theirs."""

    rater: Rater
    invite: Invite
    session: RaterSession


async def admit(
    preference: Preference, invite: Invite, *, name: str, prolific_pid: str | None = None
) -> tuple[Rater, RaterSession]:
    """Lets a rater in by their name under an invite; one who was let in before comes back as they are.

    Raises: InviteRefused if its places are taken; ProtocolError for what is no name.
    """
    if not _NAME.fullmatch(name):
        raise ProtocolError("not a rater's name", name[:64], "use up to 64 letters, digits, dots, dashes")
    rater_id = f"{invite.invite_id}.{name}"
    rater = await preference.queue.rater(rater_id)
    if rater is None:
        await preference.invites.admit(invite, rater_id)
        rater = await preference.queue.join(
            Rater(rater_id=rater_id, invite_id=invite.invite_id, joined=time.time(), prolific_pid=prolific_pid)
        )
        await preference.audit.record(Actor(token_id=rater_id, team="raters"), "rater.join", rater_id)
    session = RaterSession(
        rater_id=rater_id, invite_id=invite.invite_id, since=time.time(), num_before=rater.num_choices
    )
    return rater, session


def keep_name(request: Request, invite: Invite) -> str:
    """The name that a browser has under an invite already, or a new one. An invite for one person knows one name."""
    session = _session(request, RaterSession)
    if session is not None and session.invite_id == invite.invite_id:
        return session.rater_id.partition(".")[2]
    return "1" if invite.max_raters == 1 else secrets.token_hex(6)


def set_cookie(request: Request, response: Response, session: RaterSession | OperatorSession) -> None:
    """Sends the session along, in place of one of the same kind that there was."""
    preference = preference_of(request)
    forwarded = request.headers.get("x-forwarded-proto", request.url.scheme)
    response.set_cookie(
        _cookie(type(session)),
        _signer(preference, type(session)).dumps(session.model_dump()),
        max_age=RATER_S if isinstance(session, RaterSession) else OPERATOR_S,
        path=f"{preference.settings.base_path}/",
        secure=forwarded == "https",
        httponly=True,
        samesite="strict",
    )


def end(request: Request, response: Response, kind: type[RaterSession | OperatorSession]) -> None:
    """Has the browser forget the session."""
    response.delete_cookie(_cookie(kind), path=f"{preference_of(request).settings.base_path}/")


async def asking_of(request: Request) -> _Asking:
    """The rater who asks. Raises: TokenRefused if nobody says who; InviteRefused if their invite has ended."""
    preference = preference_of(request)
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise TokenRefused("not a bearer token", "Authorization", "send `Authorization: Bearer INVITE`")
        invite = await preference.invites.check(text.strip())
        rater, session = await admit(preference, invite, name=request.headers.get("x-rater", ""))
        request.state.rater_id = rater.rater_id
        return _Asking(rater, invite, session)
    kept = _session(request, RaterSession)
    rater_or_none = None if kept is None else await preference.queue.rater(kept.rater_id)
    if kept is None or rater_or_none is None:
        raise TokenRefused("nobody is signed in", "session", "open your invite link again")
    request.state.rater_id = kept.rater_id
    return _Asking(rater_or_none, await preference.invites.valid(kept.invite_id), kept)


async def operator_of(request: Request) -> Actor:
    """The operator who asks. Raises: TokenRefused without a session, or if its token holds no more; ScopeMissing."""
    preference = preference_of(request)
    session = _session(request, OperatorSession)
    if session is None or session.until <= time.time():
        raise TokenRefused("nobody is signed in", "operator", "sign in with an admin token")
    tokens = {token.token_id: token for token in await preference.tokens.all()}
    token = tokens.get(session.token_id)
    if token is None or token.revoked or (token.expires is not None and token.expires <= time.time()):
        raise TokenRefused("the token you signed in with holds no more", session.token_id, "sign in with another")
    if "admin" not in token.scopes:
        raise ScopeMissing("this needs the scope `admin`", token.token_id, "sign in with a token that has it")
    return token.actor


Asking = Annotated[_Asking, Depends(asking_of)]
Operator = Annotated[Actor, Depends(operator_of)]


def _cookie(kind: type[RaterSession | OperatorSession]) -> str:
    return "rewardmesh_rater" if kind is RaterSession else "rewardmesh_operator"


def _signer(preference: Preference, kind: type[RaterSession | OperatorSession]) -> URLSafeSerializer:
    return URLSafeSerializer(
        preference.settings.secret.get_secret_value(), salt=f"rewardmesh.preference.{_cookie(kind)}"
    )


def _session(request: Request, kind: type[Session]) -> Session | None:
    """What the cookie says, if we signed it."""
    try:
        said = _signer(preference_of(request), kind).loads(request.cookies.get(_cookie(kind), ""))
        return kind.model_validate(said)
    except (BadSignature, ValueError):
        return None
