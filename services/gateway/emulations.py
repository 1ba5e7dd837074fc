"""The requests of other trainers, answered here: they change one URL and gain queueing, retries and every oracle.

Written from the schemas of
- Flow-Factory (X-GenGroup/Flow-Factory, commit 696af07): `reward_server/example_server.py` and the client
  `src/flow_factory/rewards/my_reward_remote.py`. The two disagree about names; both spellings are read here.
- OpenRLHF (OpenRLHF/OpenRLHF, commit 58ec6ff): `openrlhf/cli/serve_rm.py`, asked with `query`, `prompts`, `labels`.
  Its requests carry text only; pictures come beside it as `images`, base64 as in Flow-Factory's.

Both expect one number a picture or no answer: a sample that failed fails the whole request, never becomes 0. A request
repeated while its first is under way joins that one. Neither client can set a header: it sends the token as the
password in its URL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewardmesh.wire.codec import PNG, WEBP
from rewardmesh.wire.errors import OracleRejected, OracleTimeout, OracleUnavailable, ProtocolError, UnknownGroup
from rewardmesh.wire.messages import Checks, Scored
from rewardmesh.wire.strict_json import dump_json, load_json
from services.gateway.context import Gateway
from services.gateway.gate import Score
from services.gateway.oracles import OracleName
from services.gateway.scoring import (
    UNCHECKED,
    forget,
    read_submission,
    results,
    submit,
)
from services.gateway.status import Health

__all__ = ["ComputeRequest", "RewardRequest", "router"]

WAIT_S: Final = 50.0  # Flow-Factory's client waits 60 s, and repeats; OpenRLHF's waits 180 s
Base64Pictures = list[str]


class _Foreign(BaseModel):
    """Keys that we do not read are somebody else's business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ComputeRequest(_Foreign):
    """Flow-Factory's `POST /compute`, with the names of its client or of its server."""

    prompt: list[str] | None = None
    prompts: list[str] | None = None
    image: Base64Pictures | None = None
    images: Base64Pictures | None = None
    kwargs: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


class RewardRequest(_Foreign):
    """OpenRLHF's `POST /get_reward`. A label that is a JSON object in GenEval's shape is the sample's checks."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = None
    images: Base64Pictures = Field(default_factory=list)


class Rewards(BaseModel):
    """What Flow-Factory reads."""

    rewards: list[float]


class RewardsAndScores(Rewards):
    """What OpenRLHF reads."""

    scores: list[float]
    extra_logs: dict[str, list[float]]


async def rewards_of(
    gateway: Gateway, team: str, oracle: str, *, prompts: Sequence[str], images: Sequence[str], checks: Sequence[Any]
) -> list[float]:
    """One reward a picture, in order. Idempotent while it is under way.

    Raises: ProtocolError, UnknownOracle, PictureRejected, BufferFull; OracleRejected if a sample failed;
    OracleTimeout after WAIT_S: asked again, the same request goes on waiting.
    """
    if not images or len(prompts) != len(images):
        what = f"{len(prompts)} prompts and {len(images)} pictures"
        raise ProtocolError(what, oracle, "send one base64 picture for each prompt; video is not scored")
    aligned = [*checks, *[None] * len(images)][: len(images)]
    pictures = [
        {"prompt": prompt, "checks": _checks(given), "media_type": _media_type(image), "picture_base64": image}
        for prompt, image, given in zip(prompts, images, aligned, strict=True)
    ]
    body = dump_json({"oracles": [oracle], "pictures": pictures}).encode()
    wanted, data = read_submission("application/json", body)
    group_id = f"same-{hashlib.sha256(body).hexdigest()[:40]}"
    sent = await submit(gateway, team, wanted.model_copy(update={"group_id": group_id}), data)
    try:
        known = (await results(gateway, team, group_id, wait_s=WAIT_S)).oracles[oracle]
    except UnknownGroup as error:
        raise OracleUnavailable("the same request came twice at once", group_id, "send it again") from error
    if not known.complete:
        raise OracleTimeout(f"no whole answer after {WAIT_S:.0f} s", oracle, "send the same request again")
    await forget(gateway, team, group_id)
    rewards = []
    for sample_id in sent.sample_ids:
        result = known.results[sample_id]
        if not isinstance(result, Scored):
            said = f"{result.code}: {result.detail}" if result.kind == "failed" else "deferred"
            raise OracleRejected(f"a sample has no reward: {said}"[:500], sample_id, "see the oracle's dead letters")
        rewards.append(result.reward)
    return rewards


def _media_type(image: str) -> str:
    """By the first bytes, as base64: neither trainer names the format. What is neither PNG nor WebP is refused."""
    return WEBP if image.startswith("UklGR") else PNG


def _checks(given: Any) -> dict[str, Any]:
    """The checks that a label or an extra field holds, or none."""
    if isinstance(given, str):
        try:
            given = load_json(given)
        except (ValueError, RecursionError):
            return UNCHECKED.to_metadata()
    if not isinstance(given, Mapping):
        return UNCHECKED.to_metadata()
    try:
        return Checks.from_metadata(given).to_metadata()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ProtocolError(
            f"checks are not in GenEval's shape: {first['msg']}", "checks", "see docs/protocol.md"
        ) from error


router = APIRouter(prefix="/as", tags=["other trainers"])


@router.get("/flow-factory/{name}/health")
async def flow_factory_health(token: Score, name: OracleName) -> Health:  # noqa: ARG001 - the scope is all
    """What Flow-Factory's client asks first."""
    return Health(status="ok")


@router.post("/flow-factory/{name}/compute")
async def compute(request: Request, token: Score, name: OracleName, wanted: ComputeRequest) -> Rewards:
    """Flow-Factory's request, answered by the oracle of the path. `checks` may come among its extra fields."""
    extra = wanted.kwargs or wanted.extra or {}
    checks = extra.get("checks")
    rewards = await rewards_of(
        request.app.state.gateway,
        token.team,
        name,
        prompts=wanted.prompt or wanted.prompts or [],
        images=wanted.image or wanted.images or [],
        checks=checks if isinstance(checks, list) else [],
    )
    return Rewards(rewards=rewards)


@router.post("/openrlhf/{name}/get_reward")
async def get_reward(request: Request, token: Score, name: OracleName, wanted: RewardRequest) -> RewardsAndScores:
    """OpenRLHF's request, with pictures, answered by the oracle of the path."""
    rewards = await rewards_of(
        request.app.state.gateway,
        token.team,
        name,
        prompts=wanted.prompts or wanted.query,
        images=wanted.images,
        checks=wanted.labels or [],
    )
    return RewardsAndScores(rewards=rewards, scores=rewards, extra_logs={name: rewards})
