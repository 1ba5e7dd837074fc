"""Held-out pictures take the trainer's road: a real buffer, a real worker, and an oracle that asks for a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from benchmarks.served import serving
from deploy import judging
from deploy.judging import StackJudge
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import OracleInput, Result
from rewardmesh.wire.errors import OracleRejected, OracleTimeout, UnknownOracle
from rewardmesh.wire.messages import OracleEndpoint, Scored
from rewardmesh.wire.registry import Registry
from tests.contract.conftest import Server
from tests.unit.services.conftest import buffer, redis
from tests.unit.services.gateway.conftest import Blue, worker

__all__ = ["buffer", "redis", "worker"]  # fixtures

TOKEN = "a-token-of-the-oracles"


class Strict(Blue):
    """Passes what is blue."""

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        return [
            one.model_copy(update={"detail": {"strict": one.reward > 0.5}}) if isinstance(one, Scored) else one
            for one in super().score(batch)
        ]


@dataclass(frozen=True)
class Prompt:
    prompt: str = "two red circles"
    checks: dict[str, Any] = field(default_factory=lambda: {"tag": "counting", "include": [{"class": "circle"}]})
    kind: str = "counting"
    key: str = "two"


@pytest.fixture
async def registry(redis: Redis) -> AsyncIterator[Registry]:
    """With one oracle, which works."""
    known = Registry(redis)
    async with serving(build_app(Strict("object_count"), token=TOKEN)) as url:
        await known.put_oracle(OracleEndpoint(name="object_count", url=url, max_batch=4), secret=TOKEN)
        yield known


def pictures(*colors: tuple[int, int, int]) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), color, np.uint8) for color in colors])


BLACK, BLUE, RED = (0, 0, 0), (0, 0, 255), (255, 0, 0)


async def judged(judge: StackJudge, *colors: tuple[int, int, int], spec: Prompt | None = None) -> Any:
    return await asyncio.to_thread(judge, pictures(*colors), [spec or Prompt()] * len(colors))


@pytest.mark.usefixtures("worker")
async def test_pictures_are_judged_by_a_worker_in_a_run_that_ends(
    buffer: Server, redis: Redis, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_GROUP_BYTES", 100)  # two pictures
    judge = StackJudge(buffer.url)
    passed, details = await judged(judge, BLACK, BLUE, BLUE, BLACK, BLUE)
    assert list(passed) == [False, True, True, False, True]
    assert details[1] == {"object_count": {"strict": True, "reward": 1.0}}
    (run_id,) = await registry.runs()
    assert run_id.startswith("gateway.evaluation-")
    assert await redis.zcard(f"rm:{{{run_id}}}:groups") == 0  # forgotten
    await asyncio.to_thread(judge.__exit__, None, None, None)
    assert await registry.runs() == []


@pytest.mark.usefixtures("worker", "registry")
async def test_a_picture_that_nobody_judged_is_an_error(buffer: Server) -> None:
    judge = StackJudge(buffer.url)
    with pytest.raises(OracleRejected, match="red"):
        await judged(judge, BLUE, RED)
    spelling = Prompt(checks={"tag": "spelling", "text": "CAT"})
    with pytest.raises(UnknownOracle, match="ocr_spelling"):
        await judged(judge, BLUE, spec=spelling)


@pytest.mark.usefixtures("registry")
async def test_a_stack_without_a_worker_is_not_waited_for_for_ever(buffer: Server) -> None:
    with pytest.raises(OracleTimeout, match=r"not judged within 0\.3 s.*object_count"):
        await judged(StackJudge(buffer.url, wait_s=0.3), BLUE)
