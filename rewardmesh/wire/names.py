"""Every name that more than one process must agree on: keys of the server, metrics, log fields.

All keys of a run share one hash tag (`{run_id}`), so that one Lua call may touch them, also on a cluster.
"""

from __future__ import annotations

__all__ = ["REGISTRY_ORACLES", "REGISTRY_RUNS", "run_prefix", "text"]

REGISTRY_ORACLES = "rm:registry:oracles"
REGISTRY_RUNS = "rm:registry:runs"


def run_prefix(run_id: str) -> str:
    """The beginning of all keys of a run."""
    return f"rm:{{{run_id}}}:"


def text(raw: bytes | str) -> str:
    """A server's answer as text, whether or not its client decodes answers."""
    return raw.decode() if isinstance(raw, bytes) else raw
