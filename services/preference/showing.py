"""What a rater is shown: a pair without anything that would give its answer away, and how they are doing.

Which comparison it is, whether it is gold, and which picture is the first one stays on the server.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field

from rewardmesh.wire.errors import LeaseLost, PictureGone, PictureRejected
from rewardmesh.wire.messages import Count, Message, Number
from services.preference.context import Preference
from services.preference.model import Nothing, Presentation
from services.preference.sessions import Asking

__all__ = ["Me", "NoPair", "Pair", "Shown", "me", "next_pair", "pair_of", "picture", "safe_picture"]

_MIN_PACE_S = 5.0
_MEDIA_TYPES = ((b"\x89PNG\r\n\x1a\n", 0, "image/png"), (b"WEBP", 8, "image/webp"))


class Pair(Message):
    """Two pictures under lease, or one in the mode of single pictures. `pictures` are paths below the service's own."""

    kind: Literal["pair"] = "pair"
    lease_id: str
    prompt: str
    pictures: tuple[str, ...]  # as shown: left, right
    lease_s: Number
    expires_in_s: Number


class NoPair(Message):
    """Why there is none. `done`: the rater made as many choices as their invite is for."""

    kind: Literal["nothing"] = "nothing"
    reason: Literal["empty", "paused", "rater_paused", "too_many_leases", "done"]


Shown = Annotated[Pair | NoPair, Field(discriminator="kind")]


class Me(Message):
    """How a rater is doing. `num_wanted`: what their invite is for; `pace_per_min`: of this sitting."""

    num_choices: Count
    num_wanted: Count | None
    num_waiting: Count
    pace_per_min: Number | None
    completion_code: str | None  # only once they are done


async def next_pair(
    preference: Preference, asking: Asking, have: Collection[str] = (), *, first: str = ""
) -> Pair | NoPair:
    """What the rater holds and does not `have` before them; else a new lease. Safe to ask again after a lost answer.

    Of several that they hold, the lease named `first`, else the oldest; with its whole time from now.
    """
    rater_id = asking.rater.rater_id
    held = await preference.queue.held(rater_id)
    for presentation in sorted(held, key=lambda one: one.lease_id != first):
        if presentation.lease_id not in have:
            with suppress(LeaseLost):  # its time was over since
                return pair_of(preference, await preference.queue.renew(presentation.lease_id, rater_id=rater_id))
    wanted = asking.invite.num_choices
    if wanted is not None and asking.rater.num_choices + len(held) >= wanted:
        return NoPair(reason="done")
    leased = await preference.queue.lease(rater_id)
    return NoPair(reason=leased.reason) if isinstance(leased, Nothing) else pair_of(preference, leased)


def pair_of(preference: Preference, presentation: Presentation) -> Pair:
    """The part of a presentation that a rater may see."""
    digests = (presentation.left,) if presentation.right is None else (presentation.left, presentation.right)
    return Pair(
        lease_id=presentation.lease_id,
        prompt=presentation.prompt,
        pictures=tuple(f"picture/{digest}" for digest in digests),
        lease_s=preference.queue.settings.lease_s,
        expires_in_s=max(0.0, presentation.expires - time.time()),
    )


async def me(preference: Preference, asking: Asking) -> Me:
    """How the rater is doing now. Raises: BufferUnavailable."""
    rater = await preference.queue.rater(asking.rater.rater_id) or asking.rater
    depth = await preference.queue.depth()
    made, lasted_s = rater.num_choices - asking.session.num_before, time.time() - asking.session.since
    wanted = asking.invite.num_choices
    return Me(
        num_choices=rater.num_choices,
        num_wanted=wanted,
        num_waiting=depth.comparisons,
        pace_per_min=made * 60 / lasted_s if made > 0 and lasted_s > _MIN_PACE_S else None,
        completion_code=asking.invite.completion_code if wanted is not None and rater.num_choices >= wanted else None,
    )


async def picture(preference: Preference, asking: Asking, digest: str) -> tuple[bytes, str]:
    """A picture that the rater has before them, and its media type.

    Raises: LeaseLost if no lease of theirs shows it, PictureGone, PictureRejected for what no browser should open.
    """
    held = await preference.queue.held(asking.rater.rater_id)
    if not any(digest in {one.left, one.right} for one in held):
        raise LeaseLost("no pair before you shows this picture", digest[:64], "go on with the pair that the page shows")
    return await safe_picture(preference, digest)


async def safe_picture(preference: Preference, digest: str) -> tuple[bytes, str]:
    """A picture and its media type, by what its bytes are. Raises: PictureGone, PictureRejected."""
    data = await preference.queue.picture(digest)
    if data is None:
        raise PictureGone("this picture is kept no more", digest[:64], "go on with the next pair")
    for magic, at, media_type in _MEDIA_TYPES:
        if data[at : at + len(magic)] == magic:
            return data, media_type
    raise PictureRejected("neither PNG nor WebP", digest[:64], "skip this pair, and tell whoever invited you")
