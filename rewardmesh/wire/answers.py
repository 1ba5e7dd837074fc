"""Answers that are kept, so that the same question need not be asked again: rewards by what was asked of whom.

    question = question_of(asked, sample, media_type=…, picture=…)
    kept = await answers.recall("object_count", {question: 3600.0})     # none that is older
    await answers.keep("object_count", {question: KeptAnswer(reward=0.5)})

A question is the picture's bytes and media type, prompt, checks, and whom is asked: an oracle's name, version and
options. Kept for all runs together, in a budget of bytes for each oracle; the oldest go first. Rewards only: a failure
may pass, and a deferred answer is none yet. Nothing depends on an answer being kept: what is lost is asked again.
Whether an old answer will do is the recipe's business, and what is recorded of it the stream's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import Field
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.messages import Detail, Message, Number, OracleEndpoint, Sample
from rewardmesh.wire.scripts import script

__all__ = ["AnswerCache", "Answers", "Asked", "KeptAnswer", "MemoryAnswers", "question_of"]

_OVERHEAD_BYTES = 200  # of an entry beside its answer; the script's number
_DEFAULT_MAX_BYTES = 32 * 1024 * 1024


class KeptAnswer(Message):
    """A reward and what explains it, without the sample that it was given for."""

    reward: Number
    detail: Detail = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whom a question is put to, as far as the answer depends on it."""

    endpoint: OracleEndpoint
    version: str

    def parts(self) -> tuple[str, ...]:
        one = self.endpoint
        return one.name, self.version, one.dialect, json.dumps(one.options, sort_keys=True, allow_nan=False)


def question_of(asked: Asked, sample: Sample, *, media_type: str, picture: bytes) -> str:
    """The same for the same question, whichever run, group or sample it comes from; 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in (*asked.parts(), media_type, sample.prompt, sample.checks.to_json()):
        encoded = part.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(encoded) + encoded)
    digest.update(picture)
    return digest.hexdigest()


class AnswerCache(Protocol):
    """What workers ask of kept answers. Failures of the server are raised as `BufferUnavailable`."""

    async def recall(self, oracle: str, wanted: Mapping[str, float]) -> dict[str, KeptAnswer]:
        """The answers that there are, by question, of those no older than `wanted` says, in seconds."""

    async def keep(self, oracle: str, answers: Mapping[str, KeptAnswer]) -> None:
        """Keeps answers that were given now, in place of older ones to the same questions. Idempotent."""


class Answers:
    """Answers kept on the server, for all workers."""

    def __init__(self, redis: Redis, *, max_bytes: int = _DEFAULT_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._script = redis.register_script(script("answers"))

    async def recall(self, oracle: str, wanted: Mapping[str, float]) -> dict[str, KeptAnswer]:
        if not wanted:
            return {}
        args: list[str | int] = []
        for question, age_s in wanted.items():
            args += [question, round(age_s * 1000)]
        found = await self._call(oracle, "recall", *args)
        pairs = zip(wanted, found, strict=True)
        return {question: KeptAnswer.model_validate_json(kept) for question, kept in pairs if kept is not None}

    async def keep(self, oracle: str, answers: Mapping[str, KeptAnswer]) -> None:
        if answers:
            args = [part for question, answer in answers.items() for part in (question, answer.to_json())]
            await self._call(oracle, "keep", self._max_bytes, *args)

    async def _call(self, oracle: str, *args: str | int) -> Any:
        with server_errors(f"answers of {oracle}"):
            return await self._script(keys=list(names.answer_keys(oracle)), args=args)


class MemoryAnswers:
    """Answers kept by a single process. `clock` gives seconds."""

    def __init__(self, *, max_bytes: int = _DEFAULT_MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: dict[str, dict[str, tuple[float, str]]] = {}  # oracle -> question -> when, answer; oldest first

    async def recall(self, oracle: str, wanted: Mapping[str, float]) -> dict[str, KeptAnswer]:
        kept, now_s = self._kept.get(oracle, {}), self._clock()
        return {
            question: KeptAnswer.model_validate_json(kept[question][1])
            for question, age_s in wanted.items()
            if question in kept and now_s - kept[question][0] <= age_s
        }

    async def keep(self, oracle: str, answers: Mapping[str, KeptAnswer]) -> None:
        kept, now_s = self._kept.setdefault(oracle, {}), self._clock()
        for question, answer in answers.items():
            kept.pop(question, None)
            kept[question] = (now_s, answer.to_json())
        in_use = sum(len(answer.encode()) + _OVERHEAD_BYTES for _, answer in kept.values())
        while in_use > self._max_bytes:
            _, oldest = kept.pop(next(iter(kept)))
            in_use -= len(oldest.encode()) + _OVERHEAD_BYTES
