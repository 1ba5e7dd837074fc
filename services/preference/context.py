"""What all routes share: the queue, invites, tokens, audits, settings. One object a process, made when the app starts."""

from __future__ import annotations

import dataclasses

from fastapi import Request
from redis.asyncio import Redis

from rewardmesh.wire import names
from services.gateway.audit import Audit
from services.gateway.tokens import Tokens
from services.preference.invites import Invites
from services.preference.queue import PreferenceQueue
from services.preference.settings import PreferenceSettings

__all__ = ["Preference", "preference_of"]


@dataclasses.dataclass(frozen=True)
class Preference:
    """The parts of one service. `audit` has changes of operators, `refusals` what raters were refused."""

    settings: PreferenceSettings
    queue: PreferenceQueue
    invites: Invites
    tokens: Tokens
    audit: Audit
    refusals: Audit

    @classmethod
    def on(cls, redis: Redis, queue: PreferenceQueue, settings: PreferenceSettings) -> Preference:
        """Around a queue; invites, tokens and audits are on the server. Refusals have a stream of their own: whoever
        knocks with forged links must not push operators' changes out of theirs."""
        return cls(
            settings=settings,
            queue=queue,
            invites=Invites(redis, settings.secret),
            tokens=Tokens(redis),
            audit=Audit(redis),
            refusals=Audit(redis, names.PREFERENCE_AUDIT),
        )


def preference_of(request: Request) -> Preference:
    """The service that a request came to."""
    preference: Preference = request.app.state.preference
    return preference
