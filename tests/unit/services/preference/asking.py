"""Groups that a queue takes over, and raters who choose, by hand and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from rewardmesh.kit.oracle import OracleInput
from rewardmesh.wire.codec import WEBP, decode_picture, encode_picture
from rewardmesh.wire.messages import Checks, Sample
from services.preference.model import Choice, Comparison, Group, GroupPicture, Nothing, Presentation, Rater, digest_of
from services.preference.queue import PreferenceQueue

__all__ = ["accept", "choose", "group_of", "inputs_of", "picture", "rater"]

NOW = 1_700_000_000.0


def picture(shade: int, side: int = 8) -> np.ndarray:
    """A grey one."""
    return np.full((side, side, 3), shade, np.uint8)


def sample(index: int, *, group_id: str = "g1", run_id: str = "run") -> Sample:
    ids = {"run_id": run_id, "group_id": group_id, "sample_id": f"{group_id}.{index}"}
    return Sample(**ids, policy_version=7, boundary_index=4, prompt="two red circles", checks=Checks(tag="counting"))


def inputs_of(num_pictures: int, **ids: str) -> list[OracleInput]:
    """A group as the oracle is asked about it; the picture of index i has the shade 10 · i."""
    return [OracleInput(sample(index, **ids), picture(10 * index), hint=index / 10) for index in range(num_pictures)]


def group_of(num_pictures: int, *, until: float = NOW + 60, **ids: str) -> tuple[Group, list[bytes]]:
    """The same group as the queue keeps it, with its pictures."""
    inputs = inputs_of(num_pictures, **ids)
    pictures = [encode_picture(one.picture, WEBP) for one in inputs]
    named = [
        GroupPicture(sample=one.sample, digest=digest_of(data), hint=one.hint)
        for one, data in zip(inputs, pictures, strict=True)
    ]
    of = inputs[0].sample
    group = Group(
        key=f"{of.run_id}/{of.group_id}",
        run_id=of.run_id,
        group_id=of.group_id,
        prompt=of.prompt,
        pictures=tuple(named),
        accepted=NOW,
        until=until,
    )
    return group, pictures


async def accept(
    queue: PreferenceQueue,
    num_pictures: int,
    pairs: Sequence[tuple[int, int | None]] | None = None,
    *,
    until: float = NOW + 60,
    **ids: str,
) -> Group:
    """Has the queue take a group over, with a question about each pair (or of these)."""
    group, pictures = group_of(num_pictures, until=until, **ids)
    asked = pairs if pairs is not None else list(combinations(range(num_pictures), 2))
    comparisons = [
        Comparison(comparison_id=f"{group.key}/{first}-{second}", group_key=group.key, first=first, second=second)
        for first, second in asked
    ]
    assert await queue.accept(group, pictures, comparisons)
    return group


async def rater(queue: PreferenceQueue, name: str) -> str:
    """Somebody who has joined."""
    return (await queue.join(Rater(rater_id=name, invite_id="i1", joined=NOW))).rater_id


async def choose(queue: PreferenceQueue, rater_id: str, choice: Choice | None = None) -> Presentation | Nothing:
    """One lease and one choice: as told, or for the brighter picture."""
    shown = await queue.lease(rater_id)
    if isinstance(shown, Nothing):
        return shown
    if choice is None:
        choice = "left" if await _shade(queue, shown.left) > await _shade(queue, shown.right) else "right"
    choice_id = f"of-{shown.lease_id}"
    await queue.choose(shown.lease_id, choice, rater_id=rater_id, choice_id=choice_id, look_s=1.25)
    return shown


async def _shade(queue: PreferenceQueue, digest: str | None) -> int:
    data = await queue.picture(digest or "")
    assert data is not None
    return int(decode_picture(data, WEBP)[0, 0, 0])
