"""A request that gets no scores: an HTTP status and the protocol's error body. The one place that spells that body."""

from __future__ import annotations

from rewardmesh.wire.messages import Message

__all__ = ["ErrorBody", "ErrorReply", "Refused"]


class ErrorBody(Message):
    """What is wrong, with which, and what to do; each is one line."""

    what: str
    which: str
    what_to_do: str


class ErrorReply(Message):
    """The body of every answer that is an error."""

    error: ErrorBody


class Refused(Exception):
    """The request gets no scores: an HTTP status, and what is wrong, with which, and what to do."""

    def __init__(self, status: int, what: str, which: str, what_to_do: str) -> None:
        super().__init__(what, which, what_to_do)
        self.status = status
        self._said = ErrorReply(error=ErrorBody(what=what, which=which, what_to_do=what_to_do))

    def to_json(self) -> str:
        """The body of the answer."""
        return self._said.to_json()
