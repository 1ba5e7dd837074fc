"""What one iteration is remembered by: counts that add up over workers, and the line that is logged of them.

Outcomes are counted by oracle, in pictures (every scored boundary is one):

    asked = scored + failed + stale + dropped + missing      as it stood when the iteration learnt
    dropped   refused by a full budget, lost with the buffer, or deferred and never answered
    missing   no answer yet; it may come late
    masked    of those without a reward, the ones whose group was learnt from all the same
    late      rewards of earlier iterations that came since the last one
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from rewardmesh.wire.oracle_use import OracleUse
from trainer.rewards import CombinedRewards
from trainer.trajectory_store import OracleRewards

__all__ = ["OUTCOMES", "GroupCounts", "add_counts", "reward_figures"]

OUTCOMES: Final = ("asked", "scored", "failed", "stale", "dropped", "missing", "masked", "late")

Counts = dict[str, Any]
"""Nested dictionaries of numbers: plain JSON, added key by key."""


class GroupCounts:
    """Counts over the groups of one worker's rollout. Every oracle that holds for it has its outcomes, zeros too."""

    def __init__(self, oracles: Sequence[OracleUse]) -> None:
        self._oracles = {use.name: use for use in oracles}
        self.counts: Counts = {
            "groups": {"rewarded": 0, "unrewarded": 0, "tied": 0},
            "samples": {"scored": 0, "failed": 0},
            "reward": {"sum": 0.0, "square": 0.0, "count": 0},
            "oracles": {},
            "outcomes": {name: dict.fromkeys(OUTCOMES, 0) for name in self._oracles},
        }

    def add_outcomes(self, oracle: str, answer: OracleRewards | None, *, num_pictures: int, is_gone: bool) -> None:
        """What became of a group's pictures with one oracle. `is_gone`: no answer will come."""
        counts = self.counts["outcomes"][oracle]
        counts["asked"] += num_pictures
        if answer is None:
            counts["dropped" if is_gone else "missing"] += num_pictures
            return
        stale, dropped = (answer.failures.get(code, 0) for code in ("stale", "expired"))
        counts["scored"] += answer.num_scored
        counts["stale"] += stale
        counts["dropped"] += dropped
        counts["failed"] += num_pictures - answer.num_scored - stale - dropped

    def add_late(self, oracle: str, num_scored: int) -> None:
        """Rewards that came after their iteration."""
        self.counts["outcomes"].setdefault(oracle, dict.fromkeys(OUTCOMES, 0))["late"] += num_scored

    def add(self, combined: CombinedRewards | None, answers: Mapping[str, OracleRewards]) -> None:
        """Takes one group in: what its oracles said, and what it came to."""
        groups, samples, reward = self.counts["groups"], self.counts["samples"], self.counts["reward"]
        for name, answer in answers.items():
            values, known = answer.table()
            samples["scored"] += int(known.sum())
            samples["failed"] += int((~known).sum())
            self._add_oracle(name, answer.boundary_indices, values, known)
        if combined is None:
            groups["unrewarded"] += 1
            return
        for name, count in combined.masked.items():
            self.counts["outcomes"][name]["masked"] += count
        groups["rewarded"] += 1
        groups["tied"] += int(combined.tied)
        reward["sum"] += float(combined.rewards.sum())
        reward["square"] += float(np.square(combined.rewards - combined.rewards.mean()).sum())
        reward["count"] += len(combined.rewards)

    def _add_oracle(
        self, name: str, boundaries: tuple[int, ...], values: np.ndarray[Any, Any], known: np.ndarray[Any, Any]
    ) -> None:
        top = self._oracles[name].reward_max if name in self._oracles else 1.0
        at = self.counts["oracles"].setdefault(name, {})
        for boundary, row, seen in zip(boundaries, values, known, strict=True):
            cell = at.setdefault(str(boundary), {"sum": 0.0, "count": 0, "strict": 0})
            cell["sum"] += float(row[seen].sum())
            cell["count"] += int(seen.sum())
            cell["strict"] += int((row[seen] >= top).sum())


def add_counts(views: Iterable[Mapping[str, Any]]) -> Counts:
    """Sum of nested counts, key by key; keys that some lack count as zero."""
    total: Counts = {}
    for view in views:
        for key, value in view.items():
            if isinstance(value, Mapping):
                total[key] = add_counts([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def reward_figures(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an iteration's line that is about rewards.

    `rewards`: mean by oracle, of finished pictures; `strict_share`: share of those at the highest reward, over oracles
    (for ours: those that pass); `rewards_by_boundary`: mean by oracle and boundary; `spread`: standard deviation of the
    combined reward inside groups; `outcomes`: pictures by oracle and what became of them.
    """
    rewards, by_boundary = {}, {}
    strict = scored = 0
    for oracle, cells in counts["oracles"].items():
        means = {index: cell["sum"] / cell["count"] for index, cell in cells.items() if cell["count"]}
        by_boundary[oracle] = means
        last = str(max(int(index) for index in cells))
        if last in means:
            rewards[oracle] = means[last]
        strict += cells[last]["strict"]
        scored += cells[last]["count"]
    combined = counts["reward"]
    return {
        "rewards": rewards,
        "rewards_by_boundary": by_boundary,
        "strict_share": strict / scored if scored else None,
        "reward": combined["sum"] / combined["count"] if combined["count"] else None,
        "spread": (combined["square"] / combined["count"]) ** 0.5 if combined["count"] else None,
        "groups": dict(counts["groups"]),
        "samples": dict(counts["samples"]),
        "outcomes": {oracle: dict(outcomes) for oracle, outcomes in counts["outcomes"].items()},
    }
