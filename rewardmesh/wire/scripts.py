"""The Lua scripts of this package (`lua/`), read once."""

from __future__ import annotations

from functools import cache
from importlib import resources

__all__ = ["script"]


@cache
def script(*names: str) -> str:
    """The scripts of these names, one behind the other."""
    lua = resources.files("rewardmesh.wire") / "lua"
    return "\n".join((lua / f"{name}.lua").read_text() for name in names)
