"""Structured logs: one line an event, with the ids that say what it is about (`names.LOG_FIELDS`).

log = get_logger("worker")
with about(run_id="run-1", oracle="object_count"):
    log.info("settled", settled=8)
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import cast

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import FilteringBoundLogger, Processor

from rewardmesh.wire.names import LOG_FIELDS

__all__ = ["about", "configure_logging", "get_logger"]


def configure_logging(*, json_lines: bool | None = None, level: str = "INFO") -> None:
    """Sets up logs of this process on stderr: JSON lines, or readable ones (the default on a terminal)."""
    if json_lines is None:
        json_lines = not sys.stderr.isatty()
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    processors.append(structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(part: str) -> FilteringBoundLogger:
    """The logger of one part of the system, which every line names."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=part))


def about(**ids: str | int) -> AbstractContextManager[None]:
    """Binds ids to every line logged inside, in this task; raises ValueError for a field that LOG_FIELDS lacks."""
    if unknown := set(ids) - set(LOG_FIELDS):
        raise ValueError(f"not a log field: {', '.join(sorted(unknown))}")
    return cast("AbstractContextManager[None]", bound_contextvars(**ids))
