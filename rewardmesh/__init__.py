"""rewardmesh: rewards that cannot be differentiated, carried to a trainer through a buffer.

This package is what other people import and what all parts share: `rewardmesh.wire` (what crosses a process
boundary) and `rewardmesh.kit` (an oracle in ten lines). Importing it imports neither of them.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
