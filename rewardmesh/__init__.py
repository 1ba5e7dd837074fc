"""rewardmesh: rewards that cannot be differentiated, carried to a trainer through a buffer.

This package is what other people import and what all parts share: `rewardmesh.wire` (what crosses a process
boundary), `rewardmesh.dialects` (what an oracle is asked over HTTP) and `rewardmesh.kit` (an oracle in ten lines).
Importing it imports none of them; the names below are fetched when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rewardmesh.kit.client import Client
    from rewardmesh.kit.function import oracle
    from rewardmesh.kit.oracle import Oracle

__all__ = ["Client", "Oracle", "__version__", "oracle"]

__version__ = "0.1.0"

_HOMES: Final = {
    "Client": "rewardmesh.kit.client",
    "Oracle": "rewardmesh.kit.oracle",
    "oracle": "rewardmesh.kit.function",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
