"""The header Retry-After: seconds, or an HTTP date."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["parse_retry_after"]


def parse_retry_after(header: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds to wait, never negative; None if there is no header, or none that can be read."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            due = parsedate_to_datetime(header)
        except (ValueError, TypeError):
            return None
        if due.tzinfo is None:
            due = due.replace(tzinfo=UTC)
        seconds = (due - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
