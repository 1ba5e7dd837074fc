"""The replay bank: which stored groups the surrogate may learn from again. Newest in, oldest out; holds no latents.

A group stands here with the oracles whose rewards the run has taken in. What the store holds beyond that (written by
a run that was killed after its last checkpoint) is not seen until the loop comes to it, so that a resumed run draws
what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from trainer.trajectory_store import TrajectoryStore

__all__ = ["ReplayBank"]


class ReplayBank:
    """Ordered set of group ids over a store."""

    def __init__(self, store: TrajectoryStore, *, max_groups: int) -> None:
        self._store = store
        self._max_groups = max_groups
        self._oracles: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._oracles)

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._oracles

    def add(self, group_id: str, oracles: Iterable[str]) -> None:
        """Lets a group in as the newest; one that is in keeps its place and gets the oracles."""
        self._oracles[group_id] = tuple(sorted(oracles))
        while len(self._oracles) > self._max_groups:
            del self._oracles[next(iter(self._oracles))]

    def oracles(self, group_id: str) -> tuple[str, ...]:
        """Oracles whose rewards of the group were taken in."""
        return self._oracles[group_id]

    def sample(
        self,
        num_groups: int,
        *,
        rng: np.random.Generator,
        exclude: Sequence[str] = (),
        min_policy_version: int | None = None,
    ) -> list[str]:
        """Up to `num_groups` different groups, evenly drawn among those not excluded and not too old."""
        left_out = set(exclude)
        eligible = [
            group_id
            for group_id in self._oracles
            if group_id not in left_out
            and group_id in self._store
            and (min_policy_version is None or self._store.header(group_id).policy_version >= min_policy_version)
        ]
        if len(eligible) <= num_groups:
            return eligible
        return [eligible[i] for i in rng.choice(len(eligible), size=num_groups, replace=False)]

    def state(self) -> list[list[object]]:
        """For a checkpoint: [group id, its oracles], oldest first."""
        return [[group_id, list(oracles)] for group_id, oracles in self._oracles.items()]

    def restore(self, state: Sequence[Sequence[object]]) -> None:
        """Takes a checkpoint's order; groups that the store no longer holds are left out."""
        self._oracles = {}
        for group_id, oracles in state:
            if isinstance(group_id, str) and isinstance(oracles, (list, tuple)) and group_id in self._store:
                self._oracles[group_id] = tuple(str(oracle) for oracle in oracles)
