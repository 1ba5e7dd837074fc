"""What a worker measures, under the names of `rewardmesh.wire.names.METRICS`; where it is shown is somebody else's."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Protocol

__all__ = ["Meter", "TallyMeter"]


class Meter(Protocol):
    """Takes measurements. All calls are cheap and never raise."""

    def count(self, name: str, amount: int, **labels: str) -> None:
        """Adds to a number that only grows."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds one value to a distribution."""

    def level(self, name: str, value: float, **labels: str) -> None:
        """Says how much there is now; to be said again every few seconds, or it is taken to be gone."""


class TallyMeter:
    """Keeps counts and levels in memory, of distributions their number and sum; passes all on to another meter."""

    def __init__(self, then: Meter | None = None) -> None:
        self.counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self.observed: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])  # number, sum
        self.levels: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._then = then

    def count(self, name: str, amount: int, **labels: str) -> None:
        if amount == 0:
            return
        self.counts[name, tuple(sorted(labels.items()))] += amount
        if self._then is not None:
            self._then.count(name, amount, **labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        tally = self.observed[name]
        tally[0] += 1
        tally[1] += value
        if self._then is not None:
            self._then.observe(name, value, **labels)

    def level(self, name: str, value: float, **labels: str) -> None:
        self.levels[name, tuple(sorted(labels.items()))] = value
        if self._then is not None:
            self._then.level(name, value, **labels)

    def total(self, name: str, **labels: str) -> int:
        """The sum of a count over all labels that are not given."""
        wanted = set(labels.items())
        return sum(amount for (known, has), amount in self.counts.items() if known == name and wanted <= set(has))
