"""Taking answers in: into the store, to the rollout that waits for them, and late ones into the replay bank.

published ──► in flight: rollouts, oldest first, each with the pairs it awaits
                  └─ learnt from ──► watched: groups of which some oracle has not answered yet
                                        └─ its answer comes ──► bank, and `arrived_late`
nothing outstanding any more, too old, or too many: forgotten
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.wire.messages import Scored
from rewardmesh.wire.telemetry import get_logger
from trainer.feedback import Feedback, GroupFeedback
from trainer.replay_bank import ReplayBank
from trainer.rollouts import Rollout, RolloutMaker
from trainer.trajectory_store import OracleRewards, TrajectoryStore

__all__ = ["Intake"]


class Intake:
    """One worker's rollouts in flight, and its groups that are watched for late answers."""

    def __init__(
        self,
        feedback: Feedback,
        maker: RolloutMaker,
        *,
        store: TrajectoryStore,
        bank: ReplayBank,
        boundaries: Sequence[int],
        max_late_groups: int,
    ) -> None:
        self._feedback = feedback
        self._maker = maker
        self._store = store
        self._bank = bank
        self._boundaries = tuple(boundaries)
        self._max_late_groups = max_late_groups
        self._watched: dict[str, set[str]] = {}
        self._log = get_logger("intake")
        self.inflight: deque[Rollout] = deque()
        self.arrived_late: list[str] = []
        self.policy_version = 0
        self.next_rollout = 0

    def advance_policy(self) -> None:
        """The student has learnt."""
        self.policy_version += 1
        self._feedback.set_policy_version(self.policy_version)

    def start(self, policy_version: int | None = None) -> None:
        """Rolls out, stores and publishes; what a killed run had stored is neither made nor asked again."""
        rollout = self._maker.make(self.next_rollout, self.policy_version if policy_version is None else policy_version)
        self.next_rollout += 1
        self.inflight.append(rollout)
        pairs = rollout.awaited | rollout.late
        if pairs:
            self._feedback.publish(self._maker.pictures(pairs))

    def collect(self, *, wait_s: float) -> int:
        """Takes in what has come; returns how many answers."""
        arrived = self._feedback.collect(wait_s=wait_s)
        for answer in arrived:
            self._take(answer)
        return len(arrived)

    def finish(self, rollout: Rollout) -> None:
        """The rollout has been learnt from: what is outstanding is watched for, the rest forgotten."""
        self.inflight.remove(rollout)
        done = set(rollout.group_ids)
        for group_id, oracle in rollout.awaited | rollout.late:
            self._watched.setdefault(group_id, set()).add(oracle)
            done.discard(group_id)
        if done:
            self._feedback.forget(sorted(done))

    def give_up(self, *, oldest_version: int) -> int:
        """Forgets watched groups of older policy versions, and the oldest beyond the limit; returns how many."""
        too_old = [
            group_id
            for group_id in self._watched
            if group_id not in self._store or self._store.header(group_id).policy_version < oldest_version
        ]
        rest = [group_id for group_id in self._watched if group_id not in set(too_old)]
        given_up = too_old + rest[: max(0, len(rest) - self._max_late_groups)]
        for group_id in given_up:
            del self._watched[group_id]
        if given_up:
            self._feedback.forget(given_up)
        return len(given_up)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: strict JSON."""
        return {
            "next_rollout": self.next_rollout,
            "inflight": [[rollout.index, rollout.policy_version] for rollout in self.inflight],
            "watched": [[group_id, sorted(oracles)] for group_id, oracles in self._watched.items()],
            "arrived_late": list(self.arrived_late),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint: watches again, and publishes again what was in flight (which is idempotent)."""
        self.arrived_late = [group_id for group_id in state["arrived_late"] if group_id in self._bank]
        pairs = []
        for group_id, oracles in state["watched"]:
            if group_id not in self._store:
                continue
            self._watched[group_id] = set(oracles)
            pairs += [(group_id, oracle) for oracle in oracles if oracle not in self._store.rewards(group_id)]
            for oracle in set(oracles) & set(self._store.rewards(group_id)):
                self._late_answer(group_id, oracle)
        # What was stored after the checkpoint will be found in the store when its turn comes: it is not done.
        self.next_rollout = min((index for index, _ in state["inflight"]), default=int(state["next_rollout"]))
        done = [
            group_id
            for group_id in self._store.group_ids()
            if self._store.header(group_id).rollout_index < self.next_rollout and group_id not in self._watched
        ]
        self._feedback.resume(pairs, done=done)
        for _, policy_version in state["inflight"]:
            self.start(policy_version)

    def _take(self, answer: GroupFeedback) -> None:
        pair = (answer.group_id, answer.oracle)
        if answer.status == "complete" and answer.group_id in self._store:
            self._store.add_rewards(answer.group_id, self._rewards(answer))
        for rollout in self.inflight:
            if rollout.answered(pair):
                rollout.refused += answer.status == "refused"
                rollout.lost += answer.status == "lost"
                return
        if answer.oracle in self._watched.get(answer.group_id, ()):
            self._late_answer(answer.group_id, answer.oracle)

    def _late_answer(self, group_id: str, oracle: str) -> None:
        known = self._store.rewards(group_id) if group_id in self._store else {}
        if oracle in known:
            taken_in = self._bank.oracles(group_id) if group_id in self._bank else ()
            self._bank.add(group_id, {*taken_in, oracle, *(() if taken_in else known)})
            if group_id not in self.arrived_late:
                self.arrived_late.append(group_id)
        self._watched[group_id].discard(oracle)
        if not self._watched[group_id]:
            del self._watched[group_id]
            self._feedback.forget([group_id])

    def _rewards(self, answer: GroupFeedback) -> OracleRewards:
        size = self._store.header(answer.group_id).group_size
        ids = self._maker.sample_ids(answer.group_id, size)
        rows = []
        for row in ids:
            results = [answer.results.get(sample_id) for sample_id in row]
            rows.append(tuple(result.reward if isinstance(result, Scored) else None for result in results))
        failed = [result for result in answer.results.values() if not isinstance(result, Scored)]
        if failed:
            codes = sorted({getattr(result, "code", result.kind) for result in failed})
            self._log.warning(
                "samples without a reward",
                group_id=answer.group_id,
                oracle=answer.oracle,
                failed=len(failed),
                codes=codes,
            )
        return OracleRewards(
            oracle=answer.oracle,
            oracle_version=answer.oracle_version,
            policy_version=self.policy_version,
            boundary_indices=self._boundaries,
            rewards=tuple(rows),
        )
