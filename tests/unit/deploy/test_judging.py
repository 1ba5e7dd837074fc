"""Held-out pictures are judged by oracles that ask for a token; it is the registry's to know."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from deploy.judging import ServedJudge
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import OracleInput
from rewardmesh.wire.errors import OracleRejected
from rewardmesh.wire.messages import OracleEndpoint, Scored
from tests.unit.services.gateway.conftest import Blue, serving

TOKEN = "a-token-of-the-oracles"


class Strict(Blue):
    """Passes what is blue."""

    def score(self, batch: Sequence[OracleInput]) -> list[Any]:
        scored = [one for one in super().score(batch) if isinstance(one, Scored)]
        return [one.model_copy(update={"detail": {"strict": one.reward > 0.5}}) for one in scored]


@dataclass(frozen=True)
class Prompt:
    prompt: str = "two red circles"
    checks: dict[str, Any] = field(default_factory=lambda: {"tag": "counting", "include": [{"class": "circle"}]})
    kind: str = "counting"


@contextmanager
def guarded() -> Iterator[OracleEndpoint]:
    ready, ended, urls = threading.Event(), threading.Event(), []

    async def serve() -> None:
        async with serving(build_app(Strict("object_count"), token=TOKEN)) as url:
            urls.append(url)
            ready.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    try:
        yield OracleEndpoint(name="object_count", url=urls[0], max_batch=4)
    finally:
        ended.set()
        thread.join(30)


def test_the_judge_shows_the_token() -> None:
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    pictures[1] = (0, 0, 255)
    with guarded() as endpoint:
        passed, details = ServedJudge({endpoint.name: endpoint}, {endpoint.name: TOKEN})(pictures, [Prompt(), Prompt()])
        assert list(passed) == [False, True]
        assert details[1]["object_count"]["reward"] == 1.0
        with pytest.raises(OracleRejected, match="401"):
            ServedJudge({endpoint.name: endpoint}, {})(pictures, [Prompt(), Prompt()])
