"""Amendments on their way: whoever adds an oracle to a run that trains puts one down, the run's trainer rules on it.

    asked ──► pending ──► taken: `from_iteration`        (the run's own record of it is `trainer.amendments`)
                     └──► refused: why; it may be asked for again

One for each oracle of a run. What stands here is for those who ask; what a run learns from is in its run folder.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from pydantic import Field, ValidationError
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.messages import Count, Message, Number
from rewardmesh.wire.oracle_use import OracleUse
from rewardmesh.wire.telemetry import get_logger

__all__ = ["Amendment", "Amendments", "MemoryAmendments", "RedisAmendments"]

KEPT_S: Final = 4 * 86400  # after the last word about any of a run's


class Amendment(Message):
    """One oracle, added to a run that is training."""

    amendment_id: str = Field(min_length=1, max_length=64)
    use: OracleUse = Field(description="which oracle, and how the run uses it")
    requested_by: str = Field(default="", max_length=200)
    requested_unix_s: Number
    from_iteration: Count | None = Field(
        default=None, ge=1, description="the first iteration that learns with it; null until the trainer has decided"
    )
    refused: str = Field(default="", description="why the trainer did not take it")

    @property
    def is_pending(self) -> bool:
        """Whether the trainer has yet to rule on it."""
        return self.from_iteration is None and not self.refused


class Amendments(Protocol):
    """Those of one run. Every call is idempotent; failures of the server are raised as `BufferUnavailable`."""

    async def ask(self, amendment: Amendment) -> Amendment:
        """Puts it down for the trainer, and returns it; or the one that stands for its oracle and is not refused."""

    async def all(self) -> list[Amendment]:
        """As they now stand, in the order they were asked for."""

    async def rule(self, amendment: Amendment) -> None:
        """Says what became of it."""


class RedisAmendments:
    """On the server, in one hash by oracle."""

    def __init__(self, client: Redis, run_id: str) -> None:
        self._client = client
        self._which = f"run {run_id}"
        self._key = names.run_key(run_id, "amendments")
        self._log = get_logger("amendments").bind(run_id=run_id)

    async def ask(self, amendment: Amendment) -> Amendment:
        name = amendment.use.name
        with server_errors(self._which):
            if await self._client.hsetnx(self._key, name, amendment.to_json()):
                await self._client.expire(self._key, KEPT_S)
                return amendment
            present = self._read(name, await self._client.hget(self._key, name))
        if present is not None and not present.refused:
            return present
        await self.rule(amendment)
        return amendment

    async def all(self) -> list[Amendment]:
        with server_errors(self._which):
            kept = await self._client.hgetall(self._key)
        return _in_order([one for name, raw in kept.items() if (one := self._read(names.text(name), raw)) is not None])

    async def rule(self, amendment: Amendment) -> None:
        with server_errors(self._which):
            await self._client.hset(self._key, amendment.use.name, amendment.to_json())
            await self._client.expire(self._key, KEPT_S)

    def _read(self, name: str, raw: Any) -> Amendment | None:
        """None for one that another version wrote: it can be asked for anew, and must not end a run."""
        if raw is None:
            return None
        try:
            return Amendment.model_validate_json(raw)
        except ValidationError as error:
            self._log.warning("an amendment cannot be read", oracle=name, error=str(error.errors()[0]["msg"]))
            return None


class MemoryAmendments:
    """In one process."""

    def __init__(self) -> None:
        self._kept: dict[str, Amendment] = {}

    async def ask(self, amendment: Amendment) -> Amendment:
        present = self._kept.get(amendment.use.name)
        if present is not None and not present.refused:
            return present
        await self.rule(amendment)
        return amendment

    async def all(self) -> list[Amendment]:
        return _in_order(self._kept.values())

    async def rule(self, amendment: Amendment) -> None:
        self._kept[amendment.use.name] = amendment


def _in_order(found: Any) -> list[Amendment]:
    return sorted(found, key=lambda one: (one.requested_unix_s, one.amendment_id))
