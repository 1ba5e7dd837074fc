"""Held-out pictures judged by the oracles that run: over HTTP, by the same protocol and client as in training.

Strict: a picture passes if every oracle that its checks concern says so in `detail.strict`. Every picture gets an
answer or the evaluation ends with an error: a picture that nobody judged is not one that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.settings import load_settings
from reward_workers.client import OracleClient
from rewardmesh.wire.codec import choose_media_type, encode_picture
from rewardmesh.wire.errors import ChecksMissing, OracleRejected, OracleUnavailable, RewardmeshError
from rewardmesh.wire.messages import Checks, OracleEndpoint, Sample, Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.stream import Claim, Result
from trainer.evaluate import HeldoutPrompt, Pictures

__all__ = ["ServedJudge", "oracles_for"]

_TRIES = 6
_WAIT_S = 0.5


def oracles_for(checks: Checks) -> list[str]:
    """Who judges a picture with these checks. Raises ChecksMissing if nobody could."""
    names = []
    if checks.include or checks.exclude:
        names.append("object_count")
    if checks.text is not None:
        names.append("ocr_spelling")
    if not names:
        raise ChecksMissing("a held-out prompt has no checks", checks.tag, "give it include, exclude or text")
    return names


class ServedJudge:
    """A `trainer.evaluate.Judge` that asks the endpoints given, by name, with the secrets that they want."""

    def __init__(self, endpoints: Mapping[str, OracleEndpoint], secrets: Mapping[str, str]) -> None:
        self._endpoints = endpoints
        self._secrets = secrets

    def __call__(
        self, pictures: Pictures, specs: Sequence[HeldoutPrompt]
    ) -> tuple[Sequence[bool], Sequence[Mapping[str, Any]]]:
        """Strict passes and details, by oracle, of N pictures.

        Raises: ChecksMissing; OracleUnavailable or OracleTimeout after some tries; OracleRejected.
        """
        return asyncio.run(self._judge(pictures, specs))

    async def _judge(
        self, pictures: Pictures, specs: Sequence[HeldoutPrompt]
    ) -> tuple[list[bool], list[dict[str, Any]]]:
        asked: dict[str, list[Claim]] = {}
        for index, (picture, spec) in enumerate(zip(pictures, specs, strict=True)):
            checks = Checks.from_metadata(spec.checks)
            for name in oracles_for(checks):
                asked.setdefault(name, []).append(_claim(index, picture, spec.prompt, checks))
        answers = await asyncio.gather(*(self._ask(name, claims) for name, claims in asked.items()))
        details: list[dict[str, Any]] = [{} for _ in specs]
        for name, results in zip(asked, answers, strict=True):
            for index, detail in results.items():
                details[index][name] = detail
        return [all(bool(one["strict"]) for one in detail.values()) for detail in details], details

    async def _ask(self, name: str, claims: Sequence[Claim]) -> dict[int, dict[str, Any]]:
        if name not in self._endpoints:
            raise OracleUnavailable("an oracle that held-out prompts need is not registered", name, "`rewardmesh up`")
        details: dict[int, dict[str, Any]] = {}
        policy = OutgoingPolicy.parse(load_settings().outgoing_networks)
        async with OracleClient(self._endpoints[name], policy=policy, secret=self._secrets.get(name)) as client:
            await client.info()
            for start in range(0, len(claims), client.max_batch):
                part = claims[start : start + client.max_batch]
                for claim, result in zip(part, await _patiently(client, part), strict=True):
                    details[int(claim.sample.sample_id)] = _detail(result, name)
        return details


async def _patiently(client: OracleClient, claims: Sequence[Claim]) -> Sequence[Result]:
    for attempt in range(1, _TRIES + 1):
        try:
            return (await client.score(claims)).results
        except RewardmeshError as error:
            if not error.retryable or attempt == _TRIES:
                raise
            await asyncio.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("the last try returns or raises")


def _claim(index: int, picture: np.ndarray[Any, Any], prompt: str, checks: Checks) -> Claim:
    media_type = choose_media_type(picture)
    sample = Sample(
        run_id="evaluation",
        group_id="heldout",
        sample_id=str(index),
        policy_version=0,
        boundary_index=0,
        prompt=prompt,
        checks=checks,
    )
    return Claim(
        entry_id=str(index),
        sample=sample,
        media_type=media_type,
        picture=encode_picture(picture, media_type),
        hint=None,
        attempts=0,
        deliveries=1,
    )


def _detail(result: Result, oracle: str) -> dict[str, Any]:
    if not isinstance(result, Scored):
        raise OracleRejected(f"a held-out picture was not judged: {result}", oracle, "see the oracle's log")
    return {"strict": result.detail.get("strict", False), "reward": result.reward, **result.detail}
