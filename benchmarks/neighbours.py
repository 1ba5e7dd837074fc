"""A light oracle with a fixed service time, and the same one sick: what another oracle has for a neighbour."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle, OracleInput, Result
from rewardmesh.wire.codec import encode_picture, raw_media_type
from rewardmesh.wire.messages import Checks, OracleEndpoint, OracleInfo, Sample, Scored
from rewardmesh.wire.stream import Group, PendingSample

__all__ = ["BATCH", "SICKNESSES", "Light", "Sickness", "draw_groups", "light_app", "light_endpoint"]

#: `hang`: takes every request and never answers. `errors`: every other request is a 500. `garbage`: 200 and nonsense.
#: `slow`: ten times as slow.
Sickness = Literal["hang", "errors", "garbage", "slow"]
SICKNESSES: Final[tuple[Sickness, ...]] = get_args(Sickness)

BATCH: Final = 16
SERVICE_S: Final = 0.005
SIDE: Final = 48

_GARBAGE: Final = (
    b"<html>It works!</html>",
    b'{"oracle": "garbage", "version": "1", "results": [{"kind": "scored", "sample_id": "nobody", "reward": 0.5}]}',
    b'{"oracle": "garbage", "version": "1", "results": [{"kind": "scored", "sample_id": "s0", "reward": NaN}]}',
    b'{"oracle": "garbage", "version": "1", "resul',
    b"\xff\xfe\x00",
)


class Light(Oracle):
    """Waits as long as a small detector works on a batch, and returns the share of blue."""

    def __init__(self, name: str, *, service_s: float = SERVICE_S) -> None:
        self._service_s = service_s
        self.info = OracleInfo(
            name=name,
            version="1",
            reward_min=0.0,
            reward_max=1.0,
            media_types=("application/x-raw-rgb",),
            max_batch=BATCH,
        )

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        time.sleep(self._service_s)
        return [Scored(sample_id=one.sample.sample_id, reward=float(one.picture[..., 2].mean() / 255)) for one in batch]


def light_app(name: str, sickness: Sickness | None = None) -> ASGIApp:
    """The app of a light oracle, for a process of its own; a sick one still says what it is."""
    app = build_app(Light(name, service_s=10 * SERVICE_S if sickness == "slow" else SERVICE_S))
    return app if sickness in {None, "slow"} else _Sick(app, sickness)


class _Sick:
    """An app whose answers to score requests are lost on the way."""

    def __init__(self, app: ASGIApp, sickness: Sickness | None) -> None:
        self._app = app
        self._sickness = sickness
        self._num_calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._num_calls += 1
        if self._sickness == "errors" and self._num_calls % 2:
            await self._app(scope, receive, send)
            return
        while (message := await receive())["type"] != "http.disconnect":
            if self._sickness != "hang" and not message.get("more_body", False):
                await self._answer()(scope, receive, send)
                return

    def _answer(self) -> Response:
        if self._sickness == "errors":
            return Response("no", 500)
        return Response(_GARBAGE[self._num_calls % len(_GARBAGE)])


def light_endpoint(name: str, url: str) -> OracleEndpoint:
    """The oracle as the registry is told of it."""
    return OracleEndpoint(name=name, url=url, max_batch=BATCH, concurrency=2)


def draw_groups(num_groups: int, group_size: int) -> list[Group]:
    """Groups of random pictures, raw, as the shapes world sends them."""
    rng = np.random.default_rng(1)
    media_type = raw_media_type(SIDE, SIDE)
    return [
        Group(
            group_id=f"g{index}",
            requests=tuple(
                PendingSample(
                    sample=Sample(
                        run_id="benchmark",
                        group_id=f"g{index}",
                        sample_id=f"s{index * group_size + place}",
                        policy_version=0,
                        boundary_index=4,
                        prompt="two red circles",
                        checks=Checks(tag="counting"),
                    ),
                    media_type=media_type,
                    picture=encode_picture(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), media_type),
                )
                for place in range(group_size)
            ),
        )
        for index in range(num_groups)
    ]
