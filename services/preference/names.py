"""The keys of a queue on the server. All begin with its prefix, whose hash tag lets one Lua call touch them all."""

from __future__ import annotations

from typing import Final

__all__ = ["KEYS_BY_NAME", "QUEUE_KEYS", "prefix", "queue_key"]

QUEUE_KEYS: Final[dict[str, str]] = {
    "state": "hash: paused, bytes and kept_bytes of pictures, unanswered comparisons, seq",
    "open": "sorted set: `<group> <comparison>` with a place left, by their group's deadline",
    "due": "sorted set: open groups, by deadline; 0 once they are answered",
    "waiting": "sorted set: open groups, by the time they were accepted",
    "closed": "sorted set: closed groups, in order",
    "settled": "sorted set: settled groups, in order; the oldest go when their pictures need too much room",
    "leases": "sorted set: leases, by expiry",
    "refs": "hash: digest of a picture -> how many groups and gold pairs need it",
    "golds": "list: ids of gold pairs",
    "raters": "sorted set: raters, by the time they joined",
    "latest": "list: the latest choices of all; trimmed",
}
KEYS_BY_NAME: Final[dict[str, str]] = {
    "group": "hash by group: itself, comparisons, places taken, answers, leases; its fields are in lua/common.lua",
    "answers": "hash by group: `<kind> <comparison> <rater>` -> the answer as JSON",
    "picture": "string by digest; expires until a group or a gold pair needs it",
    "gold": "hash by gold pair: itself, and which of its pictures is preferred",
    "lease": "hash by lease: who holds what, and how it is shown",
    "rater": "hash by rater: themselves as they joined, whether paused, counts",
    "held": "sorted set by rater: leases, in order",
    "met": "set by rater: `<kind> <group> <comparison>` that they hold, or have answered",
    "made": "list by rater: ids of the choices they made, in order; trimmed",
    "choices": "hash by rater: what became of each of those, by choice and by lease",
}


def prefix(name: str) -> str:
    """The beginning of all keys of a queue; the colon inside the braces keeps it apart from those of a run."""
    return f"rm:{{preference:{name}}}:"


def queue_key(name: str, kind: str, of: str = "") -> str:
    """One key of a queue: one of QUEUE_KEYS alone, one of KEYS_BY_NAME with a name."""
    known = KEYS_BY_NAME if of else QUEUE_KEYS
    if kind not in known:
        raise ValueError(f"no such key: {kind}")
    return f"{prefix(name)}{kind}:{of}" if of else f"{prefix(name)}{kind}"
