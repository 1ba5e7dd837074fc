"""The queue on a server: Redis 6.2 or newer, or Valkey.

Each call is one Lua script (`lua/`), atomic on the server, so that a process may die between any two calls; nothing
runs in the background. Pictures pass beside the scripts: uploaded before, under names that expire until something needs
them. Life cycle and promises: `services.preference.queue`; keys: `services.preference.names`. What an acknowledged
choice outlives is the server's business: with an append-only file its own death, with `appendfsync always` a power cut.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from random import Random, SystemRandom
from typing import Any, Final, cast
from uuid import uuid4

from redis.asyncio import Redis

from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.names import text
from rewardmesh.wire.strict_json import dump_json
from services.preference import names
from services.preference.model import (
    Answer,
    Choice,
    Comparison,
    GoldPair,
    Group,
    Nothing,
    Presentation,
    QueueDepth,
    QueueSettings,
    Rater,
    Saved,
)
from services.preference.redis_records import (
    answer_from,
    meanings_of,
    presentation_from,
    rater_fields,
    rater_from,
    script_settings,
    to_ms,
)
from services.preference.rules import (
    answered_otherwise,
    draw_lease,
    full,
    lease_lost,
    no_such_choice,
    nothing_to_undo,
    require_acceptable,
    require_gold,
    unknown_rater,
)

__all__ = ["RedisQueue"]

SCRIPTS: Final = (
    "accept",
    "add_gold",
    "choose",
    "close",
    "depth",
    "held",
    "join",
    "lease",
    "pause_rater",
    "release",
    "renew",
    "settled",
    "undo",
)
UPLOAD_TTL_MS: Final = 60_000


class RedisQueue:
    """`services.preference.queue.PreferenceQueue` on a server. The client, of `buffer.connect`, belongs to the caller.

    Times are the server's, unless there is a `clock` that gives unix seconds. Queues of different names share nothing.
    """

    def __init__(
        self,
        client: Redis,
        settings: QueueSettings | None = None,
        *,
        name: str = "default",
        clock: Callable[[], float] | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client, self._name = client, name
        self._settings = settings or QueueSettings()
        self._clock, self._rng = clock, rng or SystemRandom()
        self._scripts = {script: client.register_script(_script(script)) for script in SCRIPTS}

    @property
    def settings(self) -> QueueSettings:
        return self._settings

    async def accept(self, group: Group, pictures: Sequence[bytes], comparisons: Sequence[Comparison]) -> bool:
        require_acceptable(group, pictures, comparisons)
        need, budget = sum(map(len, pictures)), self._settings.budget_bytes
        known, in_use = await self._standing(group.key)
        said = "known" if known else "full"
        if not known and in_use + need <= budget:  # the script decides; this may save the upload
            digests = [picture.digest for picture in group.pictures]
            await self._upload(zip(digests, pictures, strict=True))
            args: list[str | int] = [group.key, group.to_json(), to_ms(group.accepted), to_ms(group.until), need]
            args += [len(digests), *digests]
            for one in comparisons:
                args += [one.comparison_id, str(one.first) if one.second is None else f"{one.first} {one.second}"]
            answer = await self._call("accept", *args)
            said, in_use = text(answer[0]), answer[1]
        if said == "full":
            raise full(group.key, need, in_use=in_use, budget=budget)
        return said == "accepted"

    async def lease(self, rater_id: str) -> Presentation | Nothing:
        draw = draw_lease(self._settings, self._rng)
        said = await self._call("lease", rater_id, uuid4().hex, draw.wanted, repr(draw.pick), int(draw.swapped))
        if isinstance(said, list):
            return presentation_from(said)
        if said == b"unknown":
            raise unknown_rater(rater_id)
        return Nothing.model_validate({"reason": text(said)})

    async def held(self, rater_id: str) -> list[Presentation]:
        return [presentation_from(shown) for shown in await self._call("held", rater_id)]

    async def renew(self, lease_id: str, *, rater_id: str) -> Presentation:
        shown = await self._call("renew", rater_id, lease_id)
        if shown is None:
            raise lease_lost(lease_id)
        return presentation_from(shown)

    async def release(self, lease_id: str, *, rater_id: str) -> None:
        await self._call("release", rater_id, lease_id)

    async def choose(self, lease_id: str, choice: Choice, *, rater_id: str, choice_id: str, look_s: float) -> Saved:
        meanings = meanings_of(choice)
        said, *rest = await self._call("choose", rater_id, lease_id, choice_id, choice, to_ms(look_s), *meanings)
        if said == b"lost":
            raise lease_lost(lease_id)
        if said == b"otherwise":
            raise answered_otherwise(lease_id)
        if said == b"no_such_choice":
            raise no_such_choice(choice)
        return Saved(choice_id=choice_id, comparison_id=text(rest[0]), first_time=said == b"saved")

    async def undo(self, *, rater_id: str) -> Presentation:
        shown = await self._call("undo", rater_id, uuid4().hex)
        if shown is None:
            raise nothing_to_undo(rater_id)
        return presentation_from(shown)

    async def picture(self, digest: str) -> bytes | None:
        return cast("bytes | None", await self._ask(self._client.get(self._key("picture", digest))))

    async def group(self, key: str) -> Group | None:
        (group,) = await self._each("group", [key])
        return Group.model_validate_json(group) if group else None

    async def answers(self, key: str) -> list[Answer]:
        kept = [json.loads(answer) for answer in await self._ask(self._client.hvals(self._key("answers", key)))]
        return [answer_from(one) for one in sorted(kept, key=lambda one: one["number"])]

    async def close_due(self, *, max_groups: int = 16) -> list[Group]:
        return [Group.model_validate_json(group) for group in await self._call("close", max_groups)]

    async def settled(self, key: str) -> None:
        await self._call("settled", key)

    async def settled_groups(self, *, after: str = "", max_groups: int = 100) -> list[Group]:
        settled = self._key("settled")
        rank = await self._ask(self._client.zrank(settled, after))
        start = 0 if rank is None else rank + 1  # what was dropped was older than all that are kept
        keys = await self._ask(self._client.zrange(settled, start, start + max_groups - 1))
        return [Group.model_validate_json(group) for group in await self._each("group", keys) if group]

    async def add_gold(self, pair: GoldPair, pictures: Sequence[bytes]) -> None:
        require_gold(pair, pictures)
        await self._upload(zip((pair.first, pair.second), pictures, strict=True))
        await self._call("add_gold", pair.gold_id, pair.to_json(), pair.preferred, pair.first, pair.second)

    async def gold(self) -> list[GoldPair]:
        ids = await self._ask(self._client.lrange(self._key("golds"), 0, -1))
        return [GoldPair.model_validate_json(pair) for pair in await self._each("gold", ids) if pair]

    async def join(self, rater: Rater) -> Rater:
        fields = await self._call("join", rater.rater_id, to_ms(rater.joined), *rater_fields(rater))
        return rater_from(dict(zip(fields[::2], fields[1::2], strict=True)))

    async def rater(self, rater_id: str) -> Rater | None:
        fields = await self._ask(self._client.hgetall(self._key("rater", rater_id)))
        return rater_from(fields) if fields else None

    async def raters(self) -> list[Rater]:
        pipe = self._client.pipeline(transaction=False)
        for rater_id in await self._ask(self._client.zrange(self._key("raters"), 0, -1)):
            pipe.hgetall(self._key("rater", text(rater_id)))
        return [rater_from(fields) for fields in await self._ask(pipe.execute())]

    async def pause_rater(self, rater_id: str, *, paused: bool, why: str = "") -> Rater:
        fields = await self._call("pause_rater", rater_id, int(paused), why if paused else "")
        if not fields:
            raise unknown_rater(rater_id)
        return rater_from(dict(zip(fields[::2], fields[1::2], strict=True)))

    async def pause(self, *, paused: bool) -> None:
        await self._ask(self._client.hset(self._key("state"), "paused", str(int(paused))))

    async def depth(self) -> QueueDepth:
        num_groups, comparisons, leased, in_use, oldest_ms, paused = await self._call("depth")
        return QueueDepth(
            groups=num_groups,
            comparisons=comparisons,
            leased=leased,
            bytes_in_use=in_use,
            budget_bytes=self._settings.budget_bytes,
            oldest_s=oldest_ms / 1000,
            paused=bool(paused),
        )

    async def latest(self, max_count: int) -> list[Answer]:
        entries = [json.loads(entry) for entry in await self._ask(self._client.lrange(self._key("latest"), 0, -1))]
        pipe = self._client.pipeline(transaction=False)
        for _, group, field in entries:
            pipe.hget(self._key("answers", group), field)
        kept = [json.loads(answer) if answer else {} for answer in await self._ask(pipe.execute())]
        pairs = zip(entries, kept, strict=True)  # what is not there, or is another one, was undone or dropped
        return [answer_from(answer) for (number, *_), answer in pairs if answer.get("number") == number][:max_count]

    def _key(self, kind: str, of: str = "") -> str:
        return names.queue_key(self._name, kind, of)

    async def _call(self, script: str, *args: str | int) -> Any:
        settings = script_settings(self._settings)
        if self._clock is not None:
            settings["now"] = to_ms(self._clock())
        return await self._ask(
            self._scripts[script](keys=[names.prefix(self._name)], args=[dump_json(settings), *args])
        )

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        with server_errors(f"preference queue {self._name}"):
            return await answer

    async def _each(self, kind: str, ids: Iterable[bytes | str]) -> list[bytes | None]:
        """The field named like its kind of each hash: a group's or gold pair's own JSON."""
        pipe = self._client.pipeline(transaction=False)
        for one in ids:
            pipe.hget(self._key(kind, text(one)), kind)
        return cast("list[bytes | None]", await self._ask(pipe.execute()))

    async def _standing(self, key: str) -> tuple[bool, int]:
        """Whether the group is known, and the bytes in use."""
        pipe = self._client.pipeline(transaction=False)
        pipe.exists(self._key("group", key))
        pipe.hget(self._key("state"), "bytes")
        known, in_use = await self._ask(pipe.execute())
        return bool(known), int(in_use or 0)

    async def _upload(self, pictures: Iterable[tuple[str, bytes]]) -> None:
        """One command each: a large one would block the server for long."""
        pipe = self._client.pipeline(transaction=False)
        for digest, picture in pictures:
            pipe.set(self._key("picture", digest), picture, nx=True, px=UPLOAD_TTL_MS)
        await self._ask(pipe.execute())


@cache
def _script(name: str) -> str:
    """A script's text, behind what all of them share."""
    lua = resources.files("services.preference") / "lua"
    return "\n".join((lua / f"{part}.lua").read_text() for part in ("common", name))
