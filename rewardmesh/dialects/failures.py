"""How a call to an oracle fails: leaves of the error tree, each with the failure code that it is recorded under.

OracleUnavailable
├── Unreachable     "unreachable"     no connection, or nothing of ours at that URL (yet)
├── Dropped         "dropped"         the connection broke before the answer was whole
├── Overloaded      "overloaded"      429 or 503; `retry_after_s` is obeyed
└── ServerError     "server_error"    another 5xx
OracleTimeout
└── TimedOut        "timeout"         no whole answer within the deadline
OracleRejected
├── RequestRefused  "oracle_error"    400, 413, 415, 422: the request is to blame, perhaps one sample of it
└── CallerRefused   "oracle_error"    any other refusal: the registration is to blame
ProtocolError
└── InvalidAnswer   "invalid_answer"  (retryable) an answer that makes no sense as a whole
"""

from __future__ import annotations

from typing import ClassVar

from rewardmesh.wire.errors import OracleRejected, OracleTimeout, OracleUnavailable, ProtocolError
from rewardmesh.wire.messages import FailureCode, ScoreFailure

__all__ = [
    "CallFailure",
    "CallerRefused",
    "Dropped",
    "InvalidAnswer",
    "Overloaded",
    "RequestRefused",
    "ServerError",
    "TimedOut",
    "Unreachable",
    "failure_of",
]


class Unreachable(OracleUnavailable):
    """No connection could be made, or the URL is not (yet) that of an oracle."""

    code: ClassVar[FailureCode] = "unreachable"


class Dropped(OracleUnavailable):
    """The connection broke before the answer was whole."""

    code: ClassVar[FailureCode] = "dropped"


class Overloaded(OracleUnavailable):
    """It asks to be left alone for `retry_after_s` seconds (None: it did not say)."""

    code: ClassVar[FailureCode] = "overloaded"

    def __init__(self, what: str, which: str = "", what_to_do: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(what, which, what_to_do)
        self.retry_after_s = retry_after_s


class ServerError(OracleUnavailable):
    """It failed by its own account."""

    code: ClassVar[FailureCode] = "server_error"


class TimedOut(OracleTimeout):
    """No whole answer within the deadline."""

    code: ClassVar[FailureCode] = "timeout"


class RequestRefused(OracleRejected):
    """The request is to blame; perhaps only one of its samples, so a smaller request may succeed."""

    code: ClassVar[FailureCode] = "oracle_error"


class CallerRefused(OracleRejected):
    """The registration is to blame: wrong URL, wrong name, no permission."""

    code: ClassVar[FailureCode] = "oracle_error"


class InvalidAnswer(ProtocolError):
    """An answer that makes no sense as a whole: cut short, too long, no JSON, for other samples."""

    code: ClassVar[FailureCode] = "invalid_answer"
    retryable: ClassVar[bool] = True  # a proxy's error page passes; attempts are bounded anyway


CallFailure = (
    Unreachable | Dropped | Overloaded | ServerError | TimedOut | RequestRefused | CallerRefused | InvalidAnswer
)


def failure_of(error: CallFailure, sample_id: str) -> ScoreFailure:
    """What a failed call means for one of its samples."""
    return ScoreFailure(sample_id=sample_id, code=error.code, detail=str(error), retryable=error.retryable)
