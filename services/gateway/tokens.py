"""Tokens: who may do what, until when, and how often. Kept on the server, so that every replica knows them at once.

A token reads `rmt_<id>_<secret>`. Its secret is 32 random bytes, shown once; the server keeps its SHA-256 alone. Owns
creating, listing, revoking, checking and counting; what a scope allows is said where the routes are.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.errors import AccessError, RateExceeded, TokenRefused
from rewardmesh.wire.messages import Message, Name, Number
from services.gateway.audit import Actor, Audit

__all__ = ["Scope", "Team", "Token", "TokenRequest", "Tokens"]

Scope = Literal["score", "admin", "rate"]
Team = Annotated[str, Field(max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_FORM: Final = re.compile(r"rmt_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_WHICH: Final = "token"


class TokenRequest(Message):
    """What a token is to be. `score`: send pictures; `admin`: change things; `rate`: answer late for one oracle."""

    team: Team
    scopes: tuple[Scope, ...] = Field(min_length=1)
    oracle: Name | None = None
    expires_s: Number | None = Field(default=None, gt=0)
    requests_per_s: Number = Field(default=50.0, ge=0.01, le=10_000)

    @model_validator(mode="after")
    def _rate_is_for_one_oracle(self) -> TokenRequest:
        if ("rate" in self.scopes) != (self.oracle is not None):
            raise ValueError("a token with the scope `rate` names its oracle, and no other token does")
        return self


class Token(Message):
    """A token without its secret."""

    token_id: str
    team: Team
    scopes: tuple[Scope, ...]
    oracle: Name | None
    created: float
    expires: float | None
    revoked: bool
    requests_per_s: float

    @property
    def actor(self) -> Actor:
        """Who this is, in the audit."""
        return Actor(token_id=self.token_id, team=self.team)


class _Kept(Message):
    token: Token
    sha256: str


class Tokens:
    """All tokens of one buffer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._audit = Audit(redis)
        self._rate: Any = redis.register_script(_rate_script())

    async def create(self, wanted: TokenRequest, *, actor: Actor) -> tuple[Token, str]:
        """A new token, and its text, which cannot be had again. Not idempotent: asked twice, there are two."""
        token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        now = time.time()
        token = Token(
            token_id=token_id,
            team=wanted.team,
            scopes=tuple(sorted(set(wanted.scopes))),
            oracle=wanted.oracle,
            created=now,
            expires=None if wanted.expires_s is None else now + wanted.expires_s,
            revoked=False,
            requests_per_s=wanted.requests_per_s,
        )
        await self._put(_Kept(token=token, sha256=_digest(secret)))
        await self._audit.record(actor, "token.create", token_id, token_team=token.team, scopes=list(token.scopes))
        return token, f"rmt_{token_id}_{secret}"

    async def all(self) -> list[Token]:
        """All tokens, the revoked and the expired too, oldest first."""
        with server_errors(_WHICH):
            kept = await self._redis.hgetall(names.GATEWAY_TOKENS)
        return sorted((_Kept.model_validate_json(raw).token for raw in kept.values()), key=lambda token: token.created)

    async def revoke(self, token_id: str, *, actor: Actor) -> Token:
        """The token is refused from now on, by every replica. Idempotent. Raises AccessError for an unknown id."""
        kept = await self._get(token_id)
        if kept is None:
            raise AccessError("there is no such token", token_id[:100], "`rewardmesh token list` shows the ids")
        token = kept.token.model_copy(update={"revoked": True})
        await self._put(kept.model_copy(update={"token": token}))
        await self._audit.record(actor, "token.revoke", token_id, token_team=token.team)
        return token

    async def check(self, text: str) -> Token:
        """The token of that text. Raises TokenRefused, which says why and never what was sent."""
        form = _FORM.fullmatch(text)
        kept = await self._get(form[1]) if form else None
        if form is None or kept is None or not hmac.compare_digest(kept.sha256, _digest(form[2])):
            raise TokenRefused("the token is not known", "Authorization", "ask who runs this gateway for one")
        token = kept.token
        if token.revoked:
            raise TokenRefused("the token was revoked", token.token_id, "ask who runs this gateway for another")
        if token.expires is not None and token.expires <= time.time():
            raise TokenRefused("the token has expired", token.token_id, "ask who runs this gateway for another")
        return token

    async def count(self, token: Token) -> None:
        """Counts one request, atomically for all replicas.

        Raises: RateExceeded, whose `retry_after_s` says when the next one is due.
        """
        with server_errors(_WHICH):
            wait_ms = await self._rate(keys=[names.GATEWAY_RATE.format(token.token_id)], args=[token.requests_per_s])
        if wait_ms:
            error = RateExceeded(f"more than {token.requests_per_s:g} requests a second", token.token_id, "ask later")
            error.retry_after_s = max(1, math.ceil(wait_ms / 1000))
            raise error

    async def _get(self, token_id: str) -> _Kept | None:
        with server_errors(_WHICH):
            raw = await self._redis.hget(names.GATEWAY_TOKENS, token_id)
        try:
            return None if raw is None else _Kept.model_validate_json(raw)
        except ValidationError as error:  # another version wrote it: refused, not a fault
            raise TokenRefused("the token cannot be read", token_id, "create another") from error

    async def _put(self, kept: _Kept) -> None:
        with server_errors(_WHICH):
            await self._redis.hset(names.GATEWAY_TOKENS, kept.token.token_id, kept.to_json())


def _digest(secret: str) -> str:
    """At rest. A fast hash is enough: 256 random bits cannot be guessed, however fast one tries."""
    return hashlib.sha256(secret.encode()).hexdigest()


@cache
def _rate_script() -> str:
    return (resources.files("services.gateway") / "rate.lua").read_text()
