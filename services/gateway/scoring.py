"""Pictures in, results out: the road of the trainer, for notebooks, evaluation jobs and other trainers.

What is sent becomes a group in a run of the team's own, `gateway.<team>`, whose budgets are its own too: nobody's
pictures take room from a training run. Teams see their own groups only. Delivery is the stream's: one recorded outcome
a sample and oracle.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final
from uuid import uuid4

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field, ValidationError, model_validator

from rewardmesh.kit.multipart import split_parts
from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.codec import decode_picture
from rewardmesh.wire.errors import BufferFull, PictureRejected, ProtocolError, UnknownGroup, UnknownOracle
from rewardmesh.wire.messages import Checks, Message, Name, Sample, ScoreResult
from rewardmesh.wire.stream import Group, GroupOutcome, PendingSample, StreamSettings
from rewardmesh.wire.tracing import span
from services.gateway.context import Gateway
from services.gateway.gate import Score
from services.gateway.openapi import body_of

__all__ = [
    "MAX_WAIT_S",
    "TEAM_RUNS",
    "GroupResults",
    "PictureToScore",
    "Submission",
    "forget",
    "results",
    "router",
    "run_of",
    "submit",
]

MAX_WAIT_S: Final = 30.0
TEAM_RUNS: Final = "gateway."  # what the runs of teams begin with; nobody trains in them
UNCHECKED: Final = Checks(tag="none")
GroupId = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class PictureToScore(Message):
    """One picture: a part of the multipart body by its name, or base64."""

    prompt: str = Field(max_length=20_000)
    checks: Checks = UNCHECKED
    media_type: str = Field(max_length=100)
    picture: str | None = Field(default=None, max_length=200)
    picture_base64: str | None = None

    @model_validator(mode="after")
    def _one_picture(self) -> PictureToScore:
        if (self.picture is None) == (self.picture_base64 is None):
            raise ValueError("exactly one of picture and picture_base64 must be given")
        return self


class Submission(Message):
    """Pictures for oracles. With a `group_id` of the sender's own the same submission may be sent again."""

    oracles: tuple[Name, ...] = Field(min_length=1, max_length=64)
    pictures: tuple[PictureToScore, ...] = Field(min_length=1, max_length=1024)
    group_id: Name | None = None


class Submitted(Message):
    """Where the pictures are now. `accepted`: an oracle whose budget is full takes none of the group."""

    group_id: str
    sample_ids: tuple[str, ...]
    accepted: dict[str, bool]


class ProvenanceView(Message):
    """Where an outcome is from: the oracle's version, and the codec that the picture travelled in.

    `cached`: it is an earlier answer to the same question, taken again without asking.
    """

    version: str
    media_type: str
    cached: bool = False


class OracleResults(Message):
    """What one oracle has answered so far, by sample id. `complete`: there will be no more."""

    complete: bool
    version: str
    results: dict[str, ScoreResult]
    provenance: dict[str, ProvenanceView]


class GroupResults(Message):
    """What is known of a group, by oracle. `complete`: every oracle that took it is through with it."""

    group_id: str
    complete: bool
    oracles: dict[str, OracleResults]


def run_of(team: str) -> str:
    """The run that a team's pictures wait in."""
    return f"{TEAM_RUNS}{team}"


async def submit(
    gateway: Gateway, team: str, wanted: Submission, pictures: Sequence[bytes], *, traceparent: str | None = None
) -> Submitted:
    """Offers the pictures (bytes in the order of `wanted.pictures`) to the oracles; when it returns they are safe.

    Idempotent by (team, group_id, oracle): sent again, nothing is asked twice. The group's trace goes on from the
    sender's `traceparent`, or begins here. Raises: UnknownOracle, PictureRejected
    (says which), ProtocolError for more pictures than an oracle of whole groups takes, BufferFull if no oracle takes
    the group, BufferUnavailable.
    """
    known = {endpoint.name: endpoint for endpoint in await gateway.registry.oracles()}
    if missing := [name for name in wanted.oracles if name not in known]:
        raise UnknownOracle("no such oracle is registered", missing[0], f"choose among {', '.join(sorted(known))}")
    for name in wanted.oracles:
        if known[name].granularity == "group" and len(pictures) > known[name].max_batch:
            what = f"it judges whole groups of at most {known[name].max_batch} pictures, and these are {len(pictures)}"
            raise ProtocolError(what, name, "send fewer at once, or raise its max_batch")
    await asyncio.to_thread(_require_pictures, wanted, pictures)
    ids = {"run_id": run_of(team), "group_id": wanted.group_id or uuid4().hex}
    group_id = ids["group_id"]
    with span("enqueue", parent=traceparent, samples=len(pictures), **ids) as trace:
        group = Group(group_id=group_id, requests=tuple(_requests(wanted, pictures, ids, trace.traceparent)))
        await gateway.registry.put_run(ids["run_id"])
        admissions = await gateway.stream(ids["run_id"]).enqueue(group, oracles=wanted.oracles)
        taken = [name for name, admission in admissions.items() if admission.accepted]
        trace.set(oracles=len(wanted.oracles), accepted=len(taken))
    if not taken:
        raise BufferFull("the team's budget is full for every oracle asked", group_id, "fetch results, then send again")
    key = names.GATEWAY_GROUP.format(team, group_id)
    with server_errors("group"):
        await gateway.redis.sadd(key, *taken)
        await gateway.redis.expire(key, round(StreamSettings().group_ttl_s))
    return Submitted(
        group_id=group_id,
        sample_ids=tuple(request.sample.sample_id for request in group.requests),
        accepted={name: name in taken for name in wanted.oracles},
    )


def _requests(
    wanted: Submission, pictures: Sequence[bytes], ids: Mapping[str, str], traceparent: str | None
) -> Iterator[PendingSample]:
    """One a picture, in order: what a sample is where nobody trains."""
    for index, (one, data) in enumerate(zip(wanted.pictures, pictures, strict=True)):
        sample = Sample(
            **ids,
            sample_id=f"{ids['group_id']}.{index}",
            policy_version=0,
            boundary_index=0,
            prompt=one.prompt,
            checks=one.checks,
        )
        yield PendingSample(sample=sample, media_type=one.media_type, picture=data, traceparent=traceparent)


async def results(gateway: Gateway, team: str, group_id: str, *, wait_s: float = 0.0) -> GroupResults:
    """What is known of the group, as soon as it is complete, and after `wait_s` at the latest. Repeatable.

    Raises: UnknownGroup for a group of another team, or one that was forgotten; BufferUnavailable.
    """
    with server_errors("group"):
        members = await gateway.redis.smembers(names.GATEWAY_GROUP.format(team, group_id))
    if not members:
        raise UnknownGroup("no such group", group_id, "it was never sent by this team, or was forgotten")
    stream = gateway.stream(run_of(team))
    deadline, pause_s = time.monotonic() + wait_s, 0.01
    while True:
        outcomes = [await stream.outcomes(group_id, name) for name in sorted(map(names.text, members))]
        left_s = deadline - time.monotonic()
        if left_s <= 0 or all(outcome.complete for outcome in outcomes):
            break
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, 0.25)
    return GroupResults(
        group_id=group_id,
        complete=all(outcome.complete for outcome in outcomes),
        oracles={outcome.oracle: _results_of(outcome) for outcome in outcomes},
    )


async def forget(gateway: Gateway, team: str, group_id: str) -> None:
    """Removes the group and what waits for it. Idempotent. A group that nobody forgets goes after a day."""
    await gateway.stream(run_of(team)).forget(group_id)
    with server_errors("group"):
        await gateway.redis.delete(names.GATEWAY_GROUP.format(team, group_id))


def _results_of(outcome: GroupOutcome) -> OracleResults:
    provenance = {
        sample_id: ProvenanceView(version=one.version, media_type=one.media_type, cached=one.cached)
        for sample_id, one in outcome.provenance.items()
    }
    return OracleResults(
        complete=outcome.complete, version=outcome.version, results=dict(outcome.results), provenance=provenance
    )


def _require_pictures(wanted: Submission, pictures: Sequence[bytes]) -> None:
    """Each opens, in the format that it claims, within the codec's limits. Raises PictureRejected that says which."""
    for index, (one, data) in enumerate(zip(wanted.pictures, pictures, strict=True)):
        try:
            decode_picture(data, one.media_type)
        except PictureRejected as error:
            raise PictureRejected(error.what, f"picture {index}", error.what_to_do) from error


def read_submission(content_type: str, body: bytes) -> tuple[Submission, list[bytes]]:
    """The submission and its pictures, of either form. Raises ProtocolError."""
    kind = content_type.partition(";")[0].strip().lower()
    parts: Mapping[str, bytes] = {}
    if kind == "multipart/form-data":
        try:
            parts = split_parts(content_type, body)
        except ValueError as error:
            raise ProtocolError("multipart body cannot be read", str(error)[:200], "send well-formed parts") from error
        body = parts.get("request", b"")
    elif kind != "application/json":
        raise ProtocolError("content type is not readable", "", "send multipart/form-data or application/json")
    try:
        wanted = Submission.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise ProtocolError(f"not a Submission: {first['msg']}"[:500], place, "see /v1/openapi.json") from error
    pictures = [_bytes_of(index, one, parts) for index, one in enumerate(wanted.pictures)]
    return wanted, pictures


def _bytes_of(index: int, one: PictureToScore, parts: Mapping[str, bytes]) -> bytes:
    if one.picture is not None:
        if one.picture not in parts:
            raise ProtocolError("a part is missing", f"picture {index}", "send each part that a picture names")
        return parts[one.picture]
    try:
        return base64.b64decode(one.picture_base64 or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureRejected("picture_base64 is not base64", f"picture {index}", "encode the bytes") from error


router = APIRouter(prefix="/v1", tags=["scoring"])


@router.post("/groups", status_code=202, openapi_extra=body_of(Submission))
async def submit_pictures(request: Request, token: Score) -> Submitted:
    """Send pictures: `application/json` with base64, or multipart with the part `request` and one part a picture."""
    body = await request.body()
    wanted, pictures = await asyncio.to_thread(read_submission, request.headers.get("content-type", ""), body)
    traceparent = request.headers.get("traceparent")
    return await submit(request.app.state.gateway, token.team, wanted, pictures, traceparent=traceparent)


@router.get("/groups/{group_id}")
async def fetch_results(
    request: Request, token: Score, group_id: GroupId, wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0
) -> GroupResults:
    """Fetch what is known, or wait for it to be complete, for `wait_s` at most."""
    return await results(request.app.state.gateway, token.team, group_id, wait_s=wait_s)


@router.delete("/groups/{group_id}", status_code=204)
async def forget_group(request: Request, token: Score, group_id: GroupId) -> None:
    """Forget the group; what nobody forgets goes after a day."""
    await forget(request.app.state.gateway, token.team, group_id)
