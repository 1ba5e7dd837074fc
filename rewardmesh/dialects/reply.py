"""The envelope of an answer: JSON, who answered, and results that nobody has looked at yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from rewardmesh.dialects.failures import InvalidAnswer

__all__ = ["RawReply", "load_answer", "parse_reply", "writable"]

_MAX_VERSION_CHARS: Final = 200
_NOT_A_NUMBER: Final = object()  # stands where JSON said NaN or Infinity, so that it fails one sample and not the batch


@dataclass(frozen=True, kw_only=True)
class RawReply:
    """Who answered, and what; to be checked before anybody believes it."""

    oracle: str
    version: str
    results: list[Any]


def load_answer(body: bytes, *, oracle: str) -> dict[str, Any]:
    """The JSON object that an answer is; NaN and Infinity in it fail where they are used. Raises InvalidAnswer."""
    try:
        answer = json.loads(body, parse_constant=lambda _: _NOT_A_NUMBER)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer("the answer is no JSON", oracle, f"{error}") from error
    if not isinstance(answer, dict):
        raise InvalidAnswer("the answer is no JSON object", oracle)
    return answer


def parse_reply(body: bytes, *, oracle: str) -> RawReply:
    """Reads the envelope. Raises InvalidAnswer if it is no JSON, has another shape, or is another oracle's."""
    reply = load_answer(body, oracle=oracle)
    if set(reply) != {"oracle", "version", "results"}:
        raise InvalidAnswer("the answer is no object of oracle, version and results", oracle)
    if reply["oracle"] != oracle:
        raise InvalidAnswer(
            f"the answer is from {str(reply['oracle'])[:80]!r}", oracle, "check the URL registered for it"
        )
    version, results = reply["version"], reply["results"]
    if not isinstance(version, str) or not 0 < len(version) <= _MAX_VERSION_CHARS or writable(version) != version:
        raise InvalidAnswer(f"the answer's version is no text of 1 to {_MAX_VERSION_CHARS} characters", oracle)
    if not isinstance(results, list):
        raise InvalidAnswer("the answer's results are no list", oracle)
    return RawReply(oracle=oracle, version=version, results=results)


def writable(text: str) -> str:
    """The text as UTF-8 can say it: JSON may hold half a character, and what is kept must be written."""
    return text.encode(errors="replace").decode()
