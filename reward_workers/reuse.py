"""Takes answers that were given before instead of asking again, for the samples whose run allows it.

A hit is settled like any outcome, by the worker that holds the lease: once, and it says that it is cached. An oracle's
version is asked of it again every `VERSION_TRUSTED_S`, so that a new one is not hidden behind answers of the old. One
that judges whole groups is always asked: what a sample gets depends on the others. Whatever goes wrong here costs a
call and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from reward_workers.link import OracleLink
from reward_workers.meter import Meter
from reward_workers.recorder import Outcome
from rewardmesh.wire.answers import AnswerCache, Asked, KeptAnswer, question_of
from rewardmesh.wire.errors import BufferFault, OracleError, ProtocolError
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.stream import Claim
from rewardmesh.wire.telemetry import get_logger

__all__ = ["VERSION_TRUSTED_S", "Reuse"]

VERSION_TRUSTED_S = 30.0

_log = get_logger("reward_workers.reuse")


class Reuse:
    """Kept answers of one oracle, for the claims of one run."""

    def __init__(self, answers: AnswerCache, link: OracleLink, *, run_id: str, meter: Meter) -> None:
        self._answers = answers
        self._link = link
        self._run_id = run_id
        self._meter = meter

    async def recall(self, claims: Sequence[Claim]) -> list[Outcome]:
        """What is answered already, of the claims that may be answered so."""
        allowed = [claim for claim in claims if claim.reuse_answers_s > 0]
        if not allowed:
            return []
        try:
            info = await self._link.info(max_age_s=VERSION_TRUSTED_S)
            if info.granularity == "group":
                return []
            asked_of_each = await self._questions(allowed, info.version)
            wanted = {one: claim.reuse_answers_s for one, claim in zip(asked_of_each, allowed, strict=True)}
            kept = await self._answers.recall(self._oracle, wanted)
        except (BufferFault, OracleError, ProtocolError) as error:
            _log.warning("answers.not_looked_up", oracle=self._oracle, detail=str(error))
            return []
        hits = [
            Outcome(claim=claim, result=_scored(claim, kept[question]), version=info.version, cached=True)
            for question, claim in zip(asked_of_each, allowed, strict=True)
            if question in kept
        ]
        labels = {"run": self._run_id, "oracle": self._oracle, "version": info.version}
        self._meter.count("rewardmesh_answers_reused", len(hits), kind="hit", **labels)
        self._meter.count("rewardmesh_answers_reused", len(allowed) - len(hits), kind="miss", **labels)
        return hits

    async def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Keeps the rewards among them that the oracle has just given, for those who allow to reuse them."""
        given = [
            (outcome, outcome.result)
            for outcome in outcomes
            if isinstance(outcome.result, Scored) and outcome.claim.reuse_answers_s > 0 and not outcome.cached
        ]
        if not given or self._link.endpoint.granularity == "group":
            return
        version = given[0][0].version
        if any(outcome.version != version for outcome, _ in given):  # redeployed in between; the next ones are kept
            return
        questions = await self._questions([outcome.claim for outcome, _ in given], version)
        answers = {
            question: KeptAnswer(reward=result.reward, detail=result.detail)
            for question, (_, result) in zip(questions, given, strict=True)
        }
        try:
            await self._answers.keep(self._oracle, answers)
        except (BufferFault, ProtocolError) as error:
            _log.warning("answers.not_kept", oracle=self._oracle, detail=str(error))

    @property
    def _oracle(self) -> str:
        return self._link.endpoint.name

    async def _questions(self, claims: Sequence[Claim], version: str) -> list[str]:
        asked = Asked(endpoint=self._link.endpoint, version=version)

        def digests() -> list[str]:
            return [question_of(asked, one.sample, media_type=one.media_type, picture=one.picture) for one in claims]

        return await asyncio.to_thread(digests)


def _scored(claim: Claim, kept: KeptAnswer) -> Scored:
    return Scored(sample_id=claim.sample.sample_id, reward=kept.reward, detail=kept.detail)
