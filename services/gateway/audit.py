"""The audit: who changed what, when. A bounded stream on the server, and the same line in the structured log.

What is written is ids, names and numbers that an operator may read; never a token, a secret or a picture.
"""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.messages import Message
from rewardmesh.wire.strict_json import dump_json, load_json
from rewardmesh.wire.telemetry import get_logger

__all__ = ["OPERATOR", "Actor", "Audit", "AuditLine"]

KEPT: Final = 10_000
_log = get_logger("gateway.audit")


class Actor(Message):
    """Who asks for a change: a token by its id, never by its text."""

    token_id: str
    team: str


#: Who has a shell on the deployment and the URL of its buffer.
OPERATOR: Final = Actor(token_id="shell", team="operator")  # noqa: S106 - an id


class AuditLine(Message):
    """One change. `at` is the server's clock, unix seconds."""

    at: float
    actor: Actor
    action: str
    subject: str
    detail: dict[str, Any]


class Audit:
    """Writes and reads the audit of one buffer, or another one beside it, under a key of its own."""

    def __init__(self, redis: Redis, key: str = names.GATEWAY_AUDIT) -> None:
        self._redis = redis
        self._key = key

    async def record(self, actor: Actor, action: str, subject: str, **detail: Any) -> None:
        """Writes one line, after the change that it tells of. Not idempotent: a change repeated is two lines.

        Raises: BufferUnavailable; the change has happened then, and the structured log has its line.
        """
        _log.info("audit", action=action, subject=subject, token_id=actor.token_id, team=actor.team, **detail)
        fields: dict[Any, Any] = {"who": actor.to_json(), "what": action, "which": subject, "detail": dump_json(detail)}
        with server_errors("audit"):
            await self._redis.xadd(self._key, fields, maxlen=KEPT, approximate=True)

    async def latest(self, max_count: int) -> list[AuditLine]:
        """The latest changes, newest first."""
        with server_errors("audit"):
            entries: Any = await self._redis.xrevrange(self._key, count=max_count)
        return [
            AuditLine(
                at=int(names.text(entry_id).partition("-")[0]) / 1000,
                actor=Actor.model_validate_json(entry[b"who"]),
                action=names.text(entry[b"what"]),
                subject=names.text(entry[b"which"]),
                detail=load_json(entry[b"detail"]),
            )
            for entry_id, entry in entries
        ]
