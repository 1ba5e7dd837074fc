"""People as an oracle of the protocol: takes whole groups over into the queue, and answers later.

Guarantee: a group that was answered `deferred` is on the server, with its pictures, before the answer leaves.
Idempotent by run and group: asked again, it says the same and keeps nothing twice. A full queue fails the whole group
as `overloaded`, a buffer that is away as `oracle_error`, both to be asked again. The conformance check's known pictures
are answered like any others, and never shown to anybody.

`score` runs in the app's scoring thread, the queue in the app's loop; the answers themselves are `settling`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.kit.probe import known_sample
from rewardmesh.wire.codec import PNG, RAW, WEBP, encode_picture
from rewardmesh.wire.errors import BufferFault, BufferFull
from rewardmesh.wire.messages import Deferred, OracleInfo, Sample
from services.preference.model import Group, GroupPicture, QueueSettings, digest_of
from services.preference.pairing import comparisons_of
from services.preference.queue import PreferenceQueue

__all__ = ["NAME", "PreferenceOracle", "info_of"]

NAME: Final = "preference"
#: Group and request are one; 256 pictures of 512 x 512 are what an app opens at once.
MAX_BATCH: Final = 256
#: Between a group's deadline and the latest that its rewards may come: the gateway may be away for so long.
GRACE_S: Final = 3600.0
_QUEUE_S: Final = 20.0  # for the queue to take a group

T = TypeVar("T")


def info_of(settings: QueueSettings) -> OracleInfo:
    """What the oracle says of itself. The version changes with what a reward means."""
    return OracleInfo(
        name=NAME,
        version="bradley-terry.1" if settings.mode == "pairs" else "like-share.1",
        reward_min=0.0,
        reward_max=1.0,
        media_types=(WEBP, PNG, RAW),
        max_batch=MAX_BATCH,
        granularity="group",
        deferred=True,
    )


class PreferenceOracle(Oracle):
    """The oracle of one queue, whose coroutines run in `loop`."""

    def __init__(
        self, queue: PreferenceQueue, *, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.time
    ) -> None:
        self.info = info_of(queue.settings)
        self._queue = queue
        self._loop = loop
        self._clock = clock

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        """Deferred for every sample, or one failure for all of them: a group is taken over whole."""
        samples = [one.sample for one in batch]
        if all(_is_known(one) for one in samples):
            return _deferred(samples, self._clock() + self._queue.settings.deadline_s)
        if len({(one.run_id, one.group_id) for one in samples}) > 1:
            return _all_failed(samples, "one request, one group: people compare pictures of one prompt")
        group, pictures = self._group_of(batch)
        comparisons = comparisons_of(group, self._queue.settings)
        if not comparisons:
            return _all_failed(samples, "a group of one picture has no pair to choose from")
        try:
            is_new = self._call(self._queue.accept(group, pictures, comparisons))
            kept = group if is_new else self._call(self._queue.group(group.key))
        except BufferFull as error:
            return [failed(one, "overloaded", str(error), retryable=True) for one in samples]
        except (BufferFault, TimeoutError) as error:
            reason = f"the queue does not take it now: {error}"
            return [failed(one, "oracle_error", reason, retryable=True) for one in samples]
        if kept is None or _contents(kept) != _contents(group):
            return _all_failed(samples, "another group was taken over under this id")
        return _deferred(samples, kept.until)

    def _group_of(self, batch: Sequence[OracleInput]) -> tuple[Group, list[bytes]]:
        """The group, and its pictures as every browser opens them, without loss."""
        pictures = [encode_picture(one.picture, WEBP) for one in batch]
        first, now = batch[0].sample, self._clock()
        group = Group(
            key=f"{first.run_id}/{first.group_id}",
            run_id=first.run_id,
            group_id=first.group_id,
            prompt=first.prompt,
            pictures=tuple(
                GroupPicture(sample=one.sample, digest=digest_of(picture), hint=one.hint)
                for one, picture in zip(batch, pictures, strict=True)
            ),
            accepted=now,
            until=now + self._queue.settings.deadline_s,
        )
        return group, pictures

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine of the loop gives, waited for in this thread. Raises: TimeoutError, and what it raises."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(_QUEUE_S)
        except TimeoutError:
            future.cancel()
            raise


def _is_known(sample: Sample) -> bool:
    """Whether it is one of the conformance check's, in every field: a run may be called like its run."""
    return sample == known_sample(sample.group_id, sample.sample_id)


def _contents(group: Group) -> list[tuple[str, str]]:
    return [(one.sample.sample_id, one.digest) for one in group.pictures]


def _deferred(samples: Sequence[Sample], until: float) -> list[Result]:
    return [Deferred(sample_id=one.sample_id, until=until + GRACE_S) for one in samples]


def _all_failed(samples: Sequence[Sample], reason: str) -> list[Result]:
    return [failed(one, "oracle_error", reason) for one in samples]
