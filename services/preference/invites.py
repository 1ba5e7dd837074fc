"""Invites: how raters come in. A link is signed, expires, is for so many raters, and can be revoked.

The signature says that an id is ours before anything is looked up; what the invite is, and whether it still holds, is
on the server. A link can be had again from its id (`link_token`), for those who hold the secret. Every change is a line
of the audit.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Final

from itsdangerous import BadSignature, Signer
from pydantic import Field, SecretStr, ValidationError
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.errors import InviteRefused
from rewardmesh.wire.messages import Count, Message, Number
from services.gateway.audit import Actor, Audit

__all__ = ["Invite", "InviteRequest", "Invites"]

_WHICH: Final = "invites"
_SALT: Final = "rewardmesh.preference.invite"
_ASK: Final = "ask who invited you for another link"

Label = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
CompletionCode = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]


class InviteRequest(Message):
    """What an invite is to be. A rater is done after `num_choices`, and is shown `completion_code`, Prolific's."""

    label: Label = ""
    expires_s: Number = Field(default=7 * 86_400.0, gt=0, le=366 * 86_400)
    max_raters: Count = Field(default=1, ge=1, le=100_000)
    num_choices: Count | None = Field(default=None, ge=1, le=1_000_000)
    completion_code: CompletionCode | None = None


class Invite(Message):
    """An invite as it is kept. Times are unix seconds."""

    invite_id: str
    label: Label
    created: Number
    expires: Number
    max_raters: Count
    num_choices: Count | None = None
    completion_code: CompletionCode | None = None
    revoked: bool = False


class Invites:
    """All invites of one buffer. `secret` signs their links: who has another one finds them all forged."""

    def __init__(self, redis: Redis, secret: SecretStr) -> None:
        self._redis = redis
        self._audit = Audit(redis)
        self._signer = Signer(secret.get_secret_value(), salt=_SALT)

    async def create(self, wanted: InviteRequest, *, actor: Actor) -> tuple[Invite, str]:
        """A new invite, and the text that its link ends with. Not idempotent: asked twice, there are two."""
        now = time.time()
        invite = Invite(
            invite_id=secrets.token_hex(6),
            label=wanted.label,
            created=now,
            expires=now + wanted.expires_s,
            max_raters=wanted.max_raters,
            num_choices=wanted.num_choices,
            completion_code=wanted.completion_code,
        )
        await self._put(invite)
        said = {"label": invite.label, "max_raters": invite.max_raters, "expires": invite.expires}
        await self._audit.record(actor, "invite.create", invite.invite_id, **said)
        return invite, self.link_token(invite.invite_id)

    def link_token(self, invite_id: str) -> str:
        """The text that the link of this invite ends with: always the same, and good in a URL."""
        return self._signer.sign(invite_id).decode()

    async def check(self, link_token: str) -> Invite:
        """The invite of a link. Raises: InviteRefused (forged, unknown, revoked, expired), which says which it is."""
        try:
            invite_id = self._signer.unsign(link_token).decode()
        except (BadSignature, UnicodeError) as error:
            raise InviteRefused("this link is not one of ours, or a part of it is missing", "link", _ASK) from error
        return await self.valid(invite_id)

    async def valid(self, invite_id: str) -> Invite:
        """The invite of that id, as `check`: for a rater who is in already, whose invite may have ended since."""
        invite = await self._get(invite_id)
        if invite is None:
            raise InviteRefused("this invite is not known here", invite_id, _ASK)
        if invite.revoked:
            raise InviteRefused("this invite was withdrawn", invite_id, _ASK)
        if invite.expires <= time.time():
            raise InviteRefused("this invite has expired", invite_id, _ASK)
        return invite

    async def admit(self, invite: Invite, rater_id: str) -> None:
        """Counts a rater on the invite. Idempotent; of two who come for the last place, one gets it.

        Raises: InviteRefused if all its places are taken by others.
        """
        key = names.PREFERENCE_INVITED.format(invite.invite_id)
        with server_errors(_WHICH):
            async with self._redis.pipeline(transaction=True) as both:
                both.sadd(key, rater_id)
                both.scard(key)
                is_new, num_raters = await both.execute()
            if is_new and num_raters > invite.max_raters:
                await self._redis.srem(key, rater_id)
                raise InviteRefused("this invite has no place left", invite.invite_id, _ASK)

    async def num_raters(self, invite_id: str) -> int:
        """How many came by this invite."""
        with server_errors(_WHICH):
            return int(await self._redis.scard(names.PREFERENCE_INVITED.format(invite_id)))

    async def revoke(self, invite_id: str, *, actor: Actor) -> Invite:
        """The link is refused from now on, and so are those who came by it. Idempotent.

        Raises: InviteRefused for an id that is not known.
        """
        invite = await self._get(invite_id)
        if invite is None:
            raise InviteRefused("there is no such invite", invite_id[:100], "`rewardmesh preference invite` lists them")
        revoked = invite.model_copy(update={"revoked": True})
        await self._put(revoked)
        await self._audit.record(actor, "invite.revoke", invite_id, label=invite.label)
        return revoked

    async def all(self) -> list[Invite]:
        """All invites, the revoked and the expired too, oldest first."""
        with server_errors(_WHICH):
            kept = await self._redis.hgetall(names.PREFERENCE_INVITES)
        return sorted(map(Invite.model_validate_json, kept.values()), key=lambda invite: invite.created)

    async def _get(self, invite_id: str) -> Invite | None:
        with server_errors(_WHICH):
            raw = await self._redis.hget(names.PREFERENCE_INVITES, invite_id)
        try:
            return None if raw is None else Invite.model_validate_json(raw)
        except ValidationError as error:  # another version wrote it: refused, not a fault
            raise InviteRefused("this invite cannot be read", invite_id, _ASK) from error

    async def _put(self, invite: Invite) -> None:
        with server_errors(_WHICH):
            await self._redis.hset(names.PREFERENCE_INVITES, invite.invite_id, invite.to_json())
