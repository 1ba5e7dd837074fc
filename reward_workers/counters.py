"""What one worker has done since it started; plain numbers, read by whoever exports them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Counters"]


@dataclass(kw_only=True)
class Counters:
    """Samples, except where the name says otherwise. Only `in_flight` ever falls."""

    in_flight: int = 0  # claimed and not yet settled or handed back
    settled: int = 0  # outcomes that this worker was the first to record
    scored: int = 0  # of what it settled, first or not: rewards
    failed: int = 0  # of what it settled, first or not: failures
    deferred: int = 0
    duplicates: int = 0  # outcomes that were there already
    retried: int = 0
    abandoned: int = 0  # every lease of their batch was lost

    def as_dict(self) -> dict[str, int]:
        """The numbers by name."""
        return asdict(self)
