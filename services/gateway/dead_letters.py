"""Dead letters: what failed for good, for an operator: look at it, have it asked about again, or drop it."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from rewardmesh.wire.errors import UnknownLetter
from rewardmesh.wire.messages import Message, Sample, ScoreFailure
from rewardmesh.wire.stream import DeadLetter
from services.gateway.audit import Actor
from services.gateway.context import Gateway
from services.gateway.gate import Admin
from services.gateway.oracles import OracleName

__all__ = ["LetterView", "Place", "RunId", "discard", "latest", "requeue", "router", "show"]

RunId = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
LetterId = Annotated[str, Path(max_length=50, pattern=r"^\d{1,19}-\d{1,19}$")]


class Place(Message):
    """Whose dead letters: those of one oracle in one run."""

    run_id: str
    oracle: str


class LetterView(Message):
    """One sample that failed. `picture_base64` only where one letter is shown, and while its picture is kept."""

    letter_id: str
    sample: Sample
    failure: ScoreFailure
    attempts: int
    media_type: str
    has_picture: bool
    picture_base64: str | None = None


async def latest(gateway: Gateway, place: Place, *, max_count: int) -> list[LetterView]:
    """The latest failures, newest first, without their pictures. Raises BufferUnavailable."""
    return [_view(letter) for letter in await gateway.stream(place.run_id).dead_letters(place.oracle, max_count)]


async def show(gateway: Gateway, place: Place, letter_id: str) -> LetterView:
    """One failure with its picture. Raises UnknownLetter."""
    letter = await gateway.stream(place.run_id).dead_letter(place.oracle, letter_id)
    picture = None if letter.picture is None else base64.b64encode(letter.picture).decode()
    return _view(letter).model_copy(update={"picture_base64": picture})


async def requeue(gateway: Gateway, place: Place, letter_id: str, *, actor: Actor) -> None:
    """Has the sample asked about again, its attempts uncounted.

    Raises: UnknownLetter (also for one that was requeued before), UnknownGroup, PictureGone, BufferFull.
    """
    if not await gateway.stream(place.run_id).requeue(place.oracle, letter_id):
        raise _unknown(letter_id)
    await gateway.audit.record(actor, "dead-letter.requeue", letter_id, run_id=place.run_id, oracle=place.oracle)


async def discard(gateway: Gateway, place: Place, letter_id: str, *, actor: Actor) -> None:
    """Drops the letter and its picture; the outcome stays a failure. Raises UnknownLetter."""
    if not await gateway.stream(place.run_id).discard(place.oracle, letter_id):
        raise _unknown(letter_id)
    await gateway.audit.record(actor, "dead-letter.discard", letter_id, run_id=place.run_id, oracle=place.oracle)


def _view(letter: DeadLetter) -> LetterView:
    return LetterView(
        letter_id=letter.letter_id,
        sample=letter.sample,
        failure=letter.failure,
        attempts=letter.attempts,
        media_type=letter.media_type,
        has_picture=letter.picture is not None,
    )


def _unknown(letter_id: str) -> UnknownLetter:
    return UnknownLetter(
        "no such dead letter", letter_id, "it was requeued or discarded, or pushed out by younger ones"
    )


router = APIRouter(prefix="/v1/runs/{run_id}/oracles/{name}/dead-letters", tags=["dead letters"])


@router.get("")
async def list_dead_letters(
    request: Request,
    token: Admin,  # noqa: ARG001 - the scope is all
    run_id: RunId,
    name: OracleName,
    max_count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[LetterView]:
    """The latest failures, newest first, without their pictures."""
    return await latest(request.app.state.gateway, Place(run_id=run_id, oracle=name), max_count=max_count)


@router.get("/{letter_id}")
async def show_dead_letter(
    request: Request,
    token: Admin,  # noqa: ARG001 - the scope is all
    run_id: RunId,
    name: OracleName,
    letter_id: LetterId,
) -> LetterView:
    """One failure, with its picture while that is kept."""
    return await show(request.app.state.gateway, Place(run_id=run_id, oracle=name), letter_id)


@router.post("/{letter_id}/requeue", status_code=204)
async def requeue_dead_letter(
    request: Request, token: Admin, run_id: RunId, name: OracleName, letter_id: LetterId
) -> None:
    """Have the sample asked about again."""
    place = Place(run_id=run_id, oracle=name)
    await requeue(request.app.state.gateway, place, letter_id, actor=token.actor)


@router.delete("/{letter_id}", status_code=204)
async def discard_dead_letter(
    request: Request, token: Admin, run_id: RunId, name: OracleName, letter_id: LetterId
) -> None:
    """Drop the letter and its picture."""
    place = Place(run_id=run_id, oracle=name)
    await discard(request.app.state.gateway, place, letter_id, actor=token.actor)
