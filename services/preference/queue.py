"""The queue's contract. One object a process; what it says is on the server before a call returns.

Life cycle of one (comparison, rater):

    accept ──► open ──lease──► leased ──choose──► answered ──undo──► open again, for that rater too
                 ▲                │ renew           │
                 └── expired ◄────┘                 └── its group is closed: the choice is used, undo is refused

A comparison is open to a rater while fewer than k raters have answered it or hold it, and this one has not. Groups are
closed once: when every comparison has its k answers, or at their deadline, by `close_due`; a choice that comes
after is refused as late. What a closed group said is kept for the export until its bytes are needed.

Promises: a choice for which `choose` returned is counted exactly once, however often it is sent; two raters never hold
one lease; no rater is asked the same question twice, but for repeats, which count for no reward. Left and right are
decided here, evenly and independently, when a lease is given. Times are the clock's that the queue was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.preference.model import (
    Answer,
    Choice,
    Comparison,
    GoldPair,
    Group,
    Nothing,
    Presentation,
    QueueDepth,
    QueueSettings,
    Rater,
    Saved,
)

__all__ = ["PreferenceQueue"]


class PreferenceQueue(Protocol):
    """Durable questions, and the people who answer them."""

    @property
    def settings(self) -> QueueSettings: ...

    async def accept(self, group: Group, pictures: Sequence[bytes], comparisons: Sequence[Comparison]) -> bool:
        """Takes a group over with its pictures (PNG or WebP); False if it was taken over before, and nothing changes.

        Raises: BufferFull, with nothing kept, if its bytes do not fit in the budget; ValueError if group, pictures and
        comparisons do not belong together (`rules.require_acceptable` says how they do).
        """
        ...

    async def lease(self, rater_id: str) -> Presentation | Nothing:
        """A comparison for this rater: the one whose group is due first, now and then gold or a repeat instead.

        Raises: UnknownRater.
        """
        ...

    async def held(self, rater_id: str) -> list[Presentation]:
        """What this rater holds now, oldest lease first: what is shown after the page is loaded again."""
        ...

    async def renew(self, lease_id: str, *, rater_id: str) -> Presentation:
        """Prolongs a lease that is still held. Raises: LeaseLost."""
        ...

    async def release(self, lease_id: str, *, rater_id: str) -> None:
        """Gives a lease back unanswered. Idempotent."""
        ...

    async def choose(self, lease_id: str, choice: Choice, *, rater_id: str, choice_id: str, look_s: float) -> Saved:
        """Keeps a choice. `choice_id` is the rater's own: sent again, even after the lease is gone, or after an undo,
        it changes nothing. A skip is an answer too: this rater could not tell.

        Raises: LeaseLost if the lease expired, is another's, or its group was closed; ChoiceRefused if the comparison
        has no such choice, or another choice was made under this lease.
        """
        ...

    async def undo(self, *, rater_id: str) -> Presentation:
        """Takes this rater's last choice back and leases its comparison to them again, in the same order of sides.

        Raises: NothingToUndo if there is none, or a reward has used it.
        """
        ...

    async def picture(self, digest: str) -> bytes | None:
        """The picture's bytes, or None if they are gone."""
        ...

    async def group(self, key: str) -> Group | None: ...

    async def answers(self, key: str) -> list[Answer]:
        """All answers of a group, oldest first, those that do not count too."""
        ...

    async def close_due(self, *, max_groups: int = 16) -> list[Group]:
        """Closes groups that are answered or past their deadline, and returns all closed ones not yet settled.

        From then on their choices are used, and leases on them are lost. Called again (after a crash, say), it returns
        them again until `settled`; it closes no more than make `max_groups` of them.
        """
        ...

    async def settled(self, key: str) -> None:
        """The rewards of a closed group are with the trainer. Idempotent."""
        ...

    async def settled_groups(self, *, after: str = "", max_groups: int = 100) -> list[Group]:
        """Settled groups that are still kept, oldest first, after the one of that key: for the export."""
        ...

    async def add_gold(self, pair: GoldPair, pictures: Sequence[bytes]) -> None:
        """Adds a comparison with a known answer. Idempotent by its id."""
        ...

    async def gold(self) -> list[GoldPair]: ...

    async def join(self, rater: Rater) -> Rater:
        """Makes a rater known; one who is known already is returned as they are."""
        ...

    async def rater(self, rater_id: str) -> Rater | None: ...

    async def raters(self) -> list[Rater]: ...

    async def pause_rater(self, rater_id: str, *, paused: bool, why: str = "") -> Rater:
        """Pauses a rater, or lets one work again. A paused rater's later answers are kept and do not count.

        Whom gold pauses, their earlier answers do not count either, where the group is not closed yet. Who works again
        is judged by the gold answers since. Raises: UnknownRater.
        """
        ...

    async def pause(self, *, paused: bool) -> None:
        """Stops giving out leases, or goes on. Held ones may be answered."""
        ...

    async def depth(self) -> QueueDepth: ...

    async def latest(self, max_count: int) -> list[Answer]:
        """The latest choices of all, newest first."""
        ...
