"""Taking answers in: into the store, to the rollout that waits for them, and late ones into their queue.

published ──► in flight: rollouts, oldest first, each with the pairs it awaits
                  └─ learnt from ──► watched: groups of which some oracle has not answered yet
                                        └─ its answer comes ──► `late_answers`
a second answer (a failed sample was asked about again) ──► the same; before its rollout's turn it replaces the first
nothing outstanding any more, no longer in the store, or too many: forgotten
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from rewardmesh.wire.messages import Deferred, Scored, ScoreFailure
from rewardmesh.wire.telemetry import get_logger
from rewardmesh.wire.tracing import span
from trainer.feedback import Feedback, GroupFeedback
from trainer.late_answers import LateAnswer, LateAnswers
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
        late_answers: LateAnswers,
        boundaries: Sequence[int],
        max_late_groups: int,
    ) -> None:
        self._feedback = feedback
        self._maker = maker
        self._store = store
        self._boundaries = tuple(boundaries)
        self._max_late_groups = max_late_groups
        self._watched: dict[str, set[str]] = {}
        self._log = get_logger("intake")
        self.inflight: deque[Rollout] = deque()
        self.late_answers = late_answers
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
            ids = {"group_id": answer.group_id, "oracle": answer.oracle}
            parent = self._store.header(answer.group_id).traceparent if answer.group_id in self._store else None
            with span("collect", parent=parent, status=answer.status, **ids):
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

    def give_up(self) -> int:
        """Lets go of what nobody learns from any more; returns how many watched groups are forgotten.

        The store may drop what no rollout in flight needs; watched groups that it did drop are forgotten, and the
        oldest beyond the limit.
        """
        self._store.release(before_rollout=self.inflight[0].index if self.inflight else self.next_rollout)
        gone = [group_id for group_id in self._watched if group_id not in self._store]
        rest = [group_id for group_id in self._watched if group_id in self._store]
        given_up = gone + rest[: max(0, len(rest) - self._max_late_groups)]
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
            "late_answers": self.late_answers.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint: watches again, and publishes again what was in flight (which is idempotent)."""
        self.late_answers.restore(state["late_answers"])
        pairs = []
        for group_id, oracles in state["watched"]:
            if group_id not in self._store:
                continue
            self._watched[group_id] = set(oracles)
            pairs += [(group_id, oracle) for oracle in oracles if oracle not in self._store.rewards(group_id)]
            for oracle in sorted(set(oracles) & set(self._store.rewards(group_id))):
                self.late_answers.came(LateAnswer(group_id, oracle, self._num_scored(group_id, oracle)))
                self._unwatch(group_id, oracle)
        # What was stored after the checkpoint will be found in the store when its turn comes: it is not done.
        self.next_rollout = min((index for index, _ in state["inflight"]), default=int(state["next_rollout"]))
        done = [
            group_id
            for group_id in self._store.group_ids()
            if self._store.header(group_id).rollout_index < self.next_rollout and group_id not in self._watched
        ]
        self._feedback.resume(pairs, done=done)
        self._store.release(before_rollout=self.next_rollout)
        for _, policy_version in state["inflight"]:
            self.start(policy_version)

    def _take(self, answer: GroupFeedback) -> None:
        group_id, oracle = answer.group_id, answer.oracle
        before, is_new = self._num_scored(group_id, oracle), False
        if answer.status == "complete" and group_id in self._store:
            is_new = self._store.add_rewards(group_id, self._rewards(answer))
        for rollout in self.inflight:
            if group_id in rollout.group_ids:
                if rollout.answered((group_id, oracle)) and answer.status != "complete":
                    (rollout.refused if answer.status == "refused" else rollout.lost).add((group_id, oracle))
                return
        if is_new:
            self.late_answers.came(LateAnswer(group_id, oracle, self._num_scored(group_id, oracle) - before))
        self._unwatch(group_id, oracle)

    def _num_scored(self, group_id: str, oracle: str) -> int:
        known = self._store.rewards(group_id) if group_id in self._store else {}
        return known[oracle].num_scored if oracle in known else 0

    def _unwatch(self, group_id: str, oracle: str) -> None:
        outstanding = self._watched.get(group_id)
        if outstanding is None:
            return
        outstanding.discard(oracle)
        if not outstanding:
            del self._watched[group_id]
            self._feedback.forget([group_id])

    def _rewards(self, answer: GroupFeedback) -> OracleRewards:
        size = self._store.header(answer.group_id).group_size
        ids = self._maker.sample_ids(answer.group_id, size)
        rows = []
        for row in ids:
            results = [answer.results.get(sample_id) for sample_id in row]
            rows.append(tuple(result.reward if isinstance(result, Scored) else None for result in results))
        failures = Counter(self._code(answer.results.get(name)) for row in ids for name in row)
        del failures[""]
        if failures:
            self._log.warning(
                "samples without a reward",
                group_id=answer.group_id,
                oracle=answer.oracle,
                failed=failures.total(),
                codes=sorted(failures),
            )
        return OracleRewards(
            oracle=answer.oracle,
            oracle_version=answer.oracle_version,
            policy_version=self.policy_version,
            boundary_indices=self._boundaries,
            rewards=tuple(rows),
            failures=dict(sorted(failures.items())),
        )

    @staticmethod
    def _code(result: Scored | ScoreFailure | Deferred | None) -> str:
        """Why there is no reward; empty if there is one."""
        if isinstance(result, Scored):
            return ""
        return result.code if isinstance(result, ScoreFailure) else "unanswered"
