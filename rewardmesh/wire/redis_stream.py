"""The stream on a server: Redis 6.2 or newer, or Valkey.

Each call is one Lua script (`lua/`), atomic on the server, so that a process may die between any two calls. Pictures
pass beside the scripts: uploaded to a staging hash in chunks and renamed into place, and fetched after a claim.
Life cycle and promises: `rewardmesh.wire.stream`; keys: `rewardmesh.wire.names`.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, cast
from uuid import uuid4

from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.amendments import RedisAmendments
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.errors import UnknownGroup, UnknownLetter
from rewardmesh.wire.messages import Deferred, Message, Number, Sample, Scored, ScoreFailure, parse_result
from rewardmesh.wire.scripts import script
from rewardmesh.wire.stream import (
    Admission,
    Claim,
    DeadLetter,
    Depth,
    Group,
    GroupOutcome,
    Provenance,
    Result,
    SettleReport,
    StreamSettings,
    require_enqueueable,
    require_requeued,
)
from rewardmesh.wire.strict_json import dump_json

__all__ = ["RedisStream", "open_redis_stream"]

SCRIPTS: Final = (
    "enqueue",
    "claim",
    "heartbeat",
    "settle",
    "retry",
    "outcomes",
    "forget",
    "depth",
    "requeue",
    "discard",
)
UPLOAD_CHUNK_BYTES: Final = 4 * 1024 * 1024  # one command must not block the server for long
STAGE_TTL_MS: Final = 60_000
_LETTER_ID: Final = re.compile(r"\d{1,20}-\d{1,20}")
LONGEST_BLOCK_S: Final = 0.25  # a waiting call looks this often; a claim for due retries and expired leases too


class _Parcel(Message):
    """What the server keeps of a sample beside its picture, once for all oracles."""

    sample: Sample
    media_type: str
    hint: Number | None
    traceparent: str | None = None


def open_redis_stream(client: Redis, run_id: str, *, settings: StreamSettings | None = None) -> RedisStream:
    """The stream of one run, through a client from `buffer.connect`.

    Settings hold for the whole run: those of the process that enqueues win, whatever the others were opened with.
    """
    return RedisStream(client, run_id, settings or StreamSettings())


class RedisStream:
    """`rewardmesh.wire.stream.Stream` on a server. The client belongs to the caller and stays open."""

    def __init__(self, client: Redis, run_id: str, settings: StreamSettings) -> None:
        self._client = client
        self._run_id, self._settings = run_id, settings
        self._settings_json = _settings_json(settings)
        self._prefix = names.prefix(run_id)
        self.amendments = RedisAmendments(client, run_id)
        self._scripts = {name: client.register_script(script("common", name)) for name in SCRIPTS}

    @property
    def run_id(self) -> str:
        return self._run_id

    async def enqueue(self, group: Group, *, oracles: Sequence[str]) -> dict[str, Admission]:
        need, budget = require_enqueueable(group, oracles, self._settings), self._settings.budget_bytes
        standing = await self._standing(group.group_id, oracles)
        if all(known or in_use + need > budget for known, in_use in standing.values()):
            return {  # nothing to be accepted, so nothing is uploaded
                oracle: Admission(accepted=known, bytes_in_use=in_use, budget_bytes=budget)
                for oracle, (known, in_use) in standing.items()
            }
        stage = self._key("stage", uuid4().hex)
        args: list[str | int] = [group.group_id, stage, need, len(oracles)]
        for oracle in oracles:
            args += [oracle, _ms(group.reuse_answers_s.get(oracle, 0.0))]
        for request in group.requests:
            sample = request.sample
            parcel = _Parcel(
                sample=sample, media_type=request.media_type, hint=request.hint, traceparent=request.traceparent
            )
            args += [sample.sample_id, len(request.picture), request.media_type]
            args += [sample.policy_version, parcel.to_json()]
        await self._upload(stage, ((request.sample.sample_id, request.picture) for request in group.requests))
        answer = await self._call("enqueue", *args)
        return {
            oracle: Admission(accepted=bool(taken), bytes_in_use=in_use, budget_bytes=budget)
            for oracle, (taken, in_use) in zip(oracles, answer, strict=True)
        }

    async def claim(
        self,
        oracle: str,
        *,
        consumer: str,
        max_samples: int,
        lease_s: float,
        wait_s: float = 0.0,
        begun_only: bool = False,
        whole_groups: bool = False,
    ) -> list[Claim]:
        deadline = time.monotonic() + wait_s
        while True:
            args = (oracle, consumer, max_samples, _ms(lease_s), int(begun_only), int(whole_groups))
            leased, last_id, more = await self._call("claim", *args)
            claims = await self._with_pictures(leased)
            left_s = deadline - time.monotonic()
            if claims or (left_s <= 0 and not more):
                return claims
            if not more:
                await self._wait_for_entry(self._key("stream", oracle), last_id, min(left_s, LONGEST_BLOCK_S))

    async def heartbeat(
        self,
        oracle: str,
        *,
        consumer: str,
        claims: Sequence[Claim],
        lease_s: float,  # noqa: ARG002 - who claims judges a lease
    ) -> list[Claim]:
        held = set(
            map(names.text, await self._call("heartbeat", oracle, consumer, *(claim.entry_id for claim in claims)))
        )
        return [claim for claim in claims if claim.entry_id in held]

    async def settle(
        self,
        oracle: str,
        *,
        consumer: str,  # noqa: ARG002 - the first outcome counts, whoever brings it
        outcomes: Sequence[tuple[Claim, Result]],
        version: str,
        cached: bool = False,
    ) -> SettleReport:
        if not outcomes:
            return SettleReport()
        args: list[str | int] = [oracle, version, int(cached)]
        for claim, result in outcomes:
            until_ms = _ms(result.until) if isinstance(result, Deferred) else 0
            args += [claim.sample.group_id, claim.sample.sample_id, _kind(result), until_ms, result.to_json()]
        settled, duplicates, deferred = await self._call("settle", *args)
        return SettleReport(settled=settled, duplicates=duplicates, deferred=deferred)

    async def retry(
        self, oracle: str, *, consumer: str, claim: Claim, failure: ScoreFailure | None, delay_s: float
    ) -> bool:
        ids = (claim.entry_id, claim.sample.group_id, claim.sample.sample_id)
        counted = ("", "") if failure is None else (failure.code, failure.to_json())
        return bool(await self._call("retry", oracle, consumer, *ids, _ms(delay_s), *counted))

    async def settle_late(self, oracle: str, *, group_id: str, result: Scored | ScoreFailure, version: str) -> bool:
        args = (group_id, result.sample_id, _kind(result), 0, result.to_json())
        settled, _, _ = await self._call("settle", oracle, version, 0, *args)
        return bool(settled)

    async def completions(
        self, *, after: str = "0", wait_s: float = 0.0, max_count: int = 1000
    ) -> tuple[list[tuple[str, str]], str]:
        key = self._key("results")
        deadline = time.monotonic() + wait_s
        while True:
            left_s = deadline - time.monotonic()
            entries = await self._read(key, after, block_s=min(left_s, LONGEST_BLOCK_S), count=max_count)
            if entries or left_s <= 0:
                pairs = [(names.text(entry[b"g"]), names.text(entry[b"o"])) for _, entry in entries]
                return pairs, names.text(entries[-1][0]) if entries else after

    async def outcomes(self, group_id: str, oracle: str) -> GroupOutcome:
        answer = await self._call("outcomes", oracle, group_id)
        if answer is None:
            raise UnknownGroup("never accepted, or forgotten", f"{group_id} for {oracle}", "enqueue it first")
        left, version, *flat = answer
        parsed = [parse_result(result) for result in flat[::4]]
        sources = [
            Provenance(version=names.text(by), media_type=names.text(media_type), cached=bool(cached))
            for by, media_type, cached in zip(flat[1::4], flat[2::4], flat[3::4], strict=True)
        ]
        return GroupOutcome(
            group_id=group_id,
            oracle=oracle,
            complete=left == 0,
            results={result.sample_id: result for result in parsed},
            version=names.text(version),
            provenance={result.sample_id: source for result, source in zip(parsed, sources, strict=True)},
        )

    async def groups(self) -> list[str]:
        return [names.text(group_id) for group_id in await self._ask(self._client.zrange(self._key("groups"), 0, -1))]

    async def forget(self, group_id: str) -> None:
        await self._call("forget", group_id)

    async def set_policy_version(self, version: int) -> None:
        await self._ask(self._client.zadd(self._key("policy"), {"version": version}, gt=True))

    async def set_iteration(self, iteration: int) -> None:
        await self._ask(self._client.zadd(self._key("policy"), {"iteration": iteration}))

    async def iteration(self) -> int | None:
        known = await self._ask(self._client.zscore(self._key("policy"), "iteration"))
        return None if known is None else int(known)

    async def depth(self, oracle: str) -> Depth:
        lag, pending, retrying, deferred, in_use, budget, oldest_ms, dead, settled = await self._call("depth", oracle)
        return Depth(
            lag=lag,
            pending=pending,
            retrying=retrying,
            deferred=deferred,
            bytes_in_use=in_use,
            budget_bytes=budget,
            oldest_pending_s=oldest_ms / 1000,
            dead_letters=dead,
            settled=settled,
        )

    async def dead_letters(self, oracle: str, max_count: int) -> list[DeadLetter]:
        return await self._letters(oracle, self._client.xrevrange(self._key("dead", oracle), count=max_count))

    async def dead_letter(self, oracle: str, letter_id: str) -> DeadLetter:
        if _LETTER_ID.fullmatch(letter_id):
            entries = self._client.xrange(self._key("dead", oracle), letter_id, letter_id)
            for letter in await self._letters(oracle, entries):
                return letter
        raise UnknownLetter("no such dead letter", f"{letter_id} of {oracle}", "list those that there are")

    async def requeue(self, oracle: str, letter_id: str) -> bool:
        if not _LETTER_ID.fullmatch(letter_id):
            return False
        said = names.text(await self._call("requeue", oracle, letter_id))
        require_requeued(said, f"{letter_id} of {oracle}")
        return said == "requeued"

    async def discard(self, oracle: str, letter_id: str) -> bool:
        return bool(_LETTER_ID.fullmatch(letter_id) and await self._call("discard", oracle, letter_id))

    async def close(self) -> None:
        """Nothing to let go of: the client belongs to the caller."""

    async def _letters(self, oracle: str, asked: Awaitable[Any]) -> list[DeadLetter]:
        entries = await self._ask(asked)
        if not entries:
            return []
        pictures = await self._ask(
            self._client.hmget(self._key("deadpics", oracle), [entry_id for entry_id, _ in entries])
        )
        letters = []
        for (entry_id, entry), picture in zip(entries, pictures, strict=True):
            request = _Parcel.model_validate_json(entry[b"m"])
            letters.append(
                DeadLetter(
                    letter_id=names.text(entry_id),
                    sample=request.sample,
                    oracle=oracle,
                    failure=ScoreFailure.model_validate_json(entry[b"f"]),
                    attempts=int(entry[b"a"]),
                    picture=picture,
                    media_type=request.media_type,
                )
            )
        return letters

    def _key(self, kind: str, name: str = "") -> str:
        return names.run_key(self._run_id, kind, name)

    async def _call(self, script: str, *args: str | int) -> Any:
        return await self._ask(self._scripts[script](keys=[self._prefix], args=[self._settings_json, *args]))

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        with server_errors(f"run {self._run_id}"):
            return await answer

    async def _standing(self, group_id: str, oracles: Sequence[str]) -> dict[str, tuple[bool, int]]:
        """Whether each oracle has the group, and its bytes in use. The script decides; this may save the upload."""
        pipe = self._client.pipeline(transaction=False)
        for oracle in oracles:
            pipe.hexists(self._key("group", group_id), f"o:{oracle}")
            pipe.hget(self._key("stat", oracle), "bytes")
        answers = await self._ask(pipe.execute())
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return {oracle: (bool(known), int(raw or 0)) for oracle, (known, raw) in zip(oracles, pairs, strict=True)}

    async def _upload(self, stage: str, pictures: Iterable[tuple[str, bytes]]) -> None:
        chunk: dict[str, bytes] = {}
        size = 0
        for sample_id, picture in pictures:
            if chunk and size + len(picture) > UPLOAD_CHUNK_BYTES:
                await self._put(stage, chunk)
                chunk, size = {}, 0
            chunk[sample_id] = picture
            size += len(picture)
        await self._put(stage, chunk)

    async def _put(self, stage: str, chunk: dict[str, bytes]) -> None:
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(stage, mapping=cast("dict[Any, Any]", chunk))
        pipe.pexpire(stage, STAGE_TTL_MS)
        await self._ask(pipe.execute())

    async def _with_pictures(self, leased: Sequence[Any]) -> list[Claim]:
        """Fetches the pictures; a sample whose group was forgotten meanwhile is left out."""
        requests = [_Parcel.model_validate_json(message) for _, message, *_ in leased]
        by_group: dict[str, list[Sample]] = defaultdict(list)
        for request in requests:
            by_group[request.sample.group_id].append(request.sample)
        pipe = self._client.pipeline(transaction=False)
        for group_id, samples in by_group.items():
            pipe.hmget(self._key("blobs", group_id), [sample.sample_id for sample in samples])
        found = await self._ask(pipe.execute()) if by_group else []
        pictures = {
            (group_id, sample.sample_id): picture
            for (group_id, samples), answers in zip(by_group.items(), found, strict=True)
            for sample, picture in zip(samples, answers, strict=True)
        }
        claims = []
        for request, lease in zip(requests, leased, strict=True):
            entry_id, _, attempts, by_class, deliveries, reuse_ms, waited_ms, staleness = lease
            picture = pictures[request.sample.group_id, request.sample.sample_id]
            if picture is not None:
                claims.append(
                    Claim(
                        entry_id=names.text(entry_id),
                        sample=request.sample,
                        media_type=request.media_type,
                        picture=picture,
                        hint=request.hint,
                        attempts=attempts,
                        deliveries=deliveries,
                        failures=json.loads(by_class),
                        traceparent=request.traceparent,
                        reuse_answers_s=reuse_ms / 1000,
                        waited_s=waited_ms / 1000,
                        staleness=staleness,
                    )
                )
        return claims

    async def _wait_for_entry(self, key: str, last_id: bytes, wait_s: float) -> None:
        """Returns when the stream got an entry after `last_id`, or the time is over; reads nothing for good."""
        await self._read(key, names.text(last_id), block_s=wait_s, count=1)

    async def _read(
        self, key: str, after: str, *, block_s: float, count: int
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        block_ms = max(1, _ms(block_s)) if block_s > 0 else None  # to a server, 0 means for ever
        reply = await self._ask(self._client.xread({key: after}, count=count, block=block_ms))
        return list(reply[0][1]) if reply else []


def _settings_json(settings: StreamSettings) -> str:
    return dump_json(
        {
            "budget_bytes": settings.budget_bytes,
            "dead_letter_bytes": settings.dead_letter_bytes,
            "deferred_bytes": settings.deferred_bytes,
            "group_ttl_ms": _ms(settings.group_ttl_s),
            "max_dead_letters": settings.max_dead_letters,
            "max_deliveries": settings.max_deliveries,
            "max_staleness": -1 if settings.max_staleness is None else settings.max_staleness,
        }
    )


def _kind(result: Result) -> str:
    """What the settle script is told: only `failed` makes a dead letter, and nobody can mend a stale sample."""
    return "stale" if isinstance(result, ScoreFailure) and result.code == "stale" else result.kind


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
