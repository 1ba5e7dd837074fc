"""Oracles as if on another machine: their answers come a while after the pictures were sent.

What they compute, they compute here; only the time in which an oracle elsewhere would have kept the trainer waiting is
added, by sleeping or by being used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from trainer.feedback import GroupFeedback, PictureGroup
from trainer.in_process_feedback import InProcessFeedback, InProcessOracle

__all__ = ["DELAY_S", "Elsewhere", "waited_for"]

DELAY_S: Final = 5.0
"""About as long as an iteration of the demo's recipe takes on two cores."""


class Elsewhere(InProcessFeedback):
    """Answers come `delay_s` after they are known; until then the trainer may do something else, unless `blocking`."""

    def __init__(
        self, oracles: Mapping[str, InProcessOracle], *, delay_s: float = DELAY_S, blocking: bool = False
    ) -> None:
        super().__init__(oracles)
        self._delay_s = delay_s
        self._blocking = blocking
        self._on_the_way: list[tuple[float, GroupFeedback]] = []

    def publish(self, groups: Sequence[PictureGroup]) -> None:
        super().publish(groups)
        answers = super().collect()
        self._clock.started([(one.group_id, one.oracle) for one in answers])
        self._on_the_way += [(time.monotonic() + self._delay_s, one) for one in answers]
        if self._blocking and answers:
            self._sleep(self._delay_s)

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        found = super().collect()
        if not found and self._on_the_way:
            self._sleep(min(wait_s, self._on_the_way[0][0] - time.monotonic()))
        now = time.monotonic()
        arrived = [one for due, one in self._on_the_way if due <= now]
        self._on_the_way = [(due, one) for due, one in self._on_the_way if due > now]
        for one in arrived:
            self._clock.finished((one.group_id, one.oracle))
        return found + arrived

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._clock.blocked(True)
            time.sleep(seconds)
            self._clock.blocked(False)


def waited_for(oracles: Mapping[str, InProcessOracle]) -> Elsewhere:
    """The same, waited for with idle hands."""
    return Elsewhere(oracles, blocking=True)
