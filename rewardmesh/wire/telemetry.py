"""Structured logs: one line an event, with the ids that say what it is about (`names.LOG_FIELDS`).

log = get_logger("worker")
with about(run_id="run-1", oracle="object_count"):
    log.info("settled", settled=8)

Secrets are not logged by those who have them; what looks like one all the same (a URL's password, a bearer token, a
token of the gateway) is struck out of every line before it is written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import AbstractContextManager
from typing import Final, TextIO, cast

import structlog
from structlog.contextvars import bound_contextvars
from structlog.stdlib import ProcessorFormatter
from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

from rewardmesh.wire.names import LOG_FIELDS

__all__ = ["FORMAT", "about", "configure_logging", "get_logger"]

#: The environment variable that decides between `json` and `text`; what else it holds is as if it were not set.
FORMAT: Final = "REWARDMESH_LOG_FORMAT"
_SECRETS: Final = (
    (re.compile(r"(://)[^/?#@\s\"']*@"), r"\1***@"),
    (re.compile(r"\b(rmt_[0-9a-f]{12}_)[A-Za-z0-9_-]{43}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic) [^\s\"'\\]{8,}"), r"\1 ***"),
)


def configure_logging(*, json_lines: bool | None = None, level: str = "INFO") -> None:
    """Sets up logs of this process on stderr: JSON lines, or readable ones (the default on a terminal).

    What libraries log and nobody handles, from warnings on, comes as lines of the same form.
    """
    if json_lines is None:
        said = os.environ.get(FORMAT)
        json_lines = said == "json" if said in {"json", "text"} else not sys.stderr.isatty()
    known: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    written: list[Processor] = [
        structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(),
        _strike_out_secrets,
    ]
    structlog.configure(
        processors=[*known, *written],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(
            ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _add_part, *known],
                processors=[ProcessorFormatter.remove_processors_meta, *written],
            )
        )


def get_logger(part: str) -> FilteringBoundLogger:
    """The logger of one part of the system, which every line names."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=part))


def about(**ids: str | int) -> AbstractContextManager[None]:
    """Binds ids to every line logged inside, in this task; raises ValueError for a field that LOG_FIELDS lacks."""
    if unknown := set(ids) - set(LOG_FIELDS):
        raise ValueError(f"not a log field: {', '.join(sorted(unknown))}")
    return cast("AbstractContextManager[None]", bound_contextvars(**ids))


class _Stderr:
    """Whatever is the standard error when a line is written: a logger outlives a stream that was put in its place."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _add_part(_: WrappedLogger, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A library's logger, by its name."""
    return {"part": event["_record"].name, **event}


def _strike_out_secrets(_: WrappedLogger, __: str, line: structlog.typing.EventDict) -> str:
    """What structlog calls an event is the line here: the renderer came before."""
    text = str(line)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
