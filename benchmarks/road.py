"""Three ways to one oracle, each as pictures a second: called as a class, over HTTP, through the whole road.

The whole road is the trainer's own end of it (`BufferFeedback`: it encodes, enqueues, and collects), the embedded
server, a reward worker in a process of its own, and the oracle behind HTTP in another. The clock runs from handing over
the first group to holding the last one's rewards. Torch has one thread on either side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from starlette.types import ASGIApp

from benchmarks.served import LOOPBACK
from reward_workers.client import OracleClient
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle, OracleInput, Result
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.codec import Picture, choose_media_type, encode_picture
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo, Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Claim, Stream, StreamSettings
from services.catalogue import ORACLES, make_oracle
from trainer.buffer_feedback import BufferFeedback
from trainer.feedback import PictureGroup, PictureSample
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.render import render, scene_for
from trainer.worlds.shapes.vocabulary import PICTURE_SIZE

__all__ = [
    "CONSTANT",
    "NAMES",
    "Constant",
    "app_of",
    "as_class",
    "draw_groups",
    "endpoint_at",
    "inputs_of",
    "new_oracle",
    "over_http",
    "registered",
    "through_the_road",
]

GROUP_SIZE = 8
BATCH = 64
CONSTANT = "constant"
NAMES = (CONSTANT, *ORACLES)

_SETTINGS = StreamSettings(budget_bytes=256 * 1024 * 1024)  # all of a value's pictures, also the large ones, may wait
_GRAIN = 4.0  # grey levels: an enlarged picture is as many bytes as a photograph, some 0.6 of its raw size


class Constant(Oracle):
    """The same reward for all: what is left is the road."""

    info = OracleInfo(
        name=CONSTANT,
        version="1",
        reward_min=0.0,
        reward_max=1.0,
        media_types=("image/webp", "application/x-raw-rgb"),
        max_batch=BATCH,
    )

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        return [Scored(sample_id=one.sample.sample_id, reward=0.5) for one in batch]


def new_oracle(name: str) -> Oracle:
    """One of `NAMES`. Raises WeightsMissing."""
    return Constant() if name == CONSTANT else make_oracle(name, {})


def app_of(name: str) -> ASGIApp:
    """The oracle's app, for a process of its own."""
    torch.set_num_threads(1)
    return build_app(new_oracle(name))


def endpoint_at(name: str, url: str) -> OracleEndpoint:
    """The oracle as the registry is told of it: with its next batch under way while it scores."""
    return OracleEndpoint(name=name, url=url, max_batch=BATCH, concurrency=2, deadline_s=120)


def draw_groups(oracle: str, number: int, *, side: int = PICTURE_SIZE) -> list[PictureGroup]:
    """Groups of rendered pictures of held-out prompts that fit the oracle, `number` pictures in all."""
    rng = np.random.default_rng(1)
    specs = [spec for spec in heldout_prompts() if (spec.kind == "spelling") == (oracle == "ocr_spelling")]
    groups = []
    for index in range(number // GROUP_SIZE):
        spec = specs[index * 7919 % len(specs)]  # a prime stride: all kinds, in no order
        samples = tuple(
            PictureSample(
                sample_id=f"s{index * GROUP_SIZE + place}",
                boundary_index=4,
                picture=_enlarged(render(scene_for(spec.checks, rng)).picture, side, rng),
            )
            for place in range(GROUP_SIZE)
        )
        groups.append(
            PictureGroup(
                run_id="benchmark",
                group_id=f"g{index}",
                policy_version=0,
                prompt=spec.prompt,
                checks=spec.checks,
                samples=samples,
                awaited=(oracle,),
            )
        )
    return groups


def _enlarged(picture: Picture, side: int, rng: np.random.Generator) -> Picture:
    """The picture at that size, with grain if it had to be enlarged."""
    if picture.shape[0] == side:
        return picture
    large = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    return (large + rng.normal(0.0, _GRAIN, large.shape)).round().clip(0, 255).astype(np.uint8)


def inputs_of(groups: Sequence[PictureGroup]) -> list[OracleInput]:
    """The same samples as an oracle is given them."""
    return [
        OracleInput(sample, pictured.picture)
        for group in groups
        for sample, pictured in zip(group.wire_samples(), group.samples, strict=True)
    ]


def as_class(oracle: Oracle, inputs: Sequence[OracleInput]) -> float:
    """Pictures a second of plain calls, in batches."""
    began = time.perf_counter()
    for start in range(0, len(inputs), BATCH):
        batch = inputs[start : start + BATCH]
        _require_scored(len(batch), oracle.score(batch))
    return len(inputs) / (time.perf_counter() - began)


def over_http(endpoint: OracleEndpoint, inputs: Sequence[OracleInput]) -> float:
    """Pictures a second of the worker's own client, one batch after another; pictures are encoded before."""
    claims = [_claim(one) for one in inputs]

    async def ask() -> float:
        async with OracleClient(endpoint, policy=OutgoingPolicy.parse(LOOPBACK)) as client:
            began = time.perf_counter()
            for start in range(0, len(claims), BATCH):
                batch = claims[start : start + BATCH]
                _require_scored(len(batch), (await client.score(batch)).results)
            return len(claims) / (time.perf_counter() - began)

    return asyncio.run(ask())


def through_the_road(redis_url: str, endpoint: OracleEndpoint, groups: Sequence[PictureGroup]) -> float:
    """Pictures a second from the first hand-over to the last reward, after a group that shows that the worker works."""
    run_id = f"bench-{uuid4().hex[:8]}"
    warm_up = replace(groups[0], group_id="warm-up")
    with registered(redis_url, run_id, endpoint):
        feedback = BufferFeedback(partial(_open_stream, redis_url, run_id), oracles=[endpoint.name])
        try:
            feedback.publish([warm_up])
            _collect(feedback, [warm_up])
            began = time.perf_counter()
            feedback.publish(groups)
            _collect(feedback, groups)
            elapsed_s = time.perf_counter() - began
            feedback.forget([group.group_id for group in (warm_up, *groups)])
        finally:
            feedback.close()
    return len(groups) * GROUP_SIZE / elapsed_s


def _collect(feedback: BufferFeedback, groups: Sequence[PictureGroup]) -> None:
    """Until every group has its rewards. Raises RuntimeError if one is refused or not wholly scored."""
    left = {group.group_id for group in groups}
    while left:
        for one in feedback.collect(wait_s=1.0):
            _require_scored(GROUP_SIZE, list(one.results.values()))
            left.discard(one.group_id)


def _require_scored(asked: int, results: Sequence[Result]) -> None:
    scored = sum(isinstance(result, Scored) for result in results)
    if scored != asked:
        raise RuntimeError(f"{asked - scored} of {asked} samples were not scored")


@contextmanager
def registered(redis_url: str, run_id: str, endpoint: OracleEndpoint) -> Iterator[None]:
    """The run and the oracle are in the registry, where the worker finds them."""

    async def change(*, begins: bool) -> None:
        client = await connect(redis_url)
        registry = Registry(client)
        try:
            if begins:
                await registry.put_oracle(endpoint)
                await registry.put_run(run_id)
            else:
                await registry.end_run(run_id)
                await registry.remove_oracle(endpoint.name)
        finally:
            await client.aclose()

    asyncio.run(change(begins=True))
    try:
        yield
    finally:
        asyncio.run(change(begins=False))


@asynccontextmanager
async def _open_stream(redis_url: str, run_id: str) -> AsyncIterator[Stream]:
    client = await connect(redis_url)
    try:
        yield open_redis_stream(client, run_id, settings=_SETTINGS)
    finally:
        await client.aclose()


def _claim(one: OracleInput) -> Claim:
    media_type = choose_media_type(one.picture)
    return Claim(
        entry_id=one.sample.sample_id,
        sample=one.sample,
        media_type=media_type,
        picture=encode_picture(one.picture, media_type),
        hint=None,
        attempts=0,
        deliveries=1,
    )
