"""The loop: rollouts go out, rewards come in, the networks learn. Owns the order of things and nothing else.

One iteration, with up to `max_inflight` rollouts out:

    amend     take on oracles that were added since (`amendments`), for what is rolled out from now on
    fill      roll out and publish until so many are out
    await     the oldest; meanwhile fake-score updates, which need no reward: this iteration's own first, then at most
              `max_free_updates` more; then wait, for each oracle at most its bound, and go on with what is there
    learn     surrogate (late answers, then fresh groups and the replay bank), fake score, student and its EMA; the
              policy version grows
    record    one line of metrics; a checkpoint every so often; stop if asked, or if an oracle's policy says so

With several workers every fork is rank 0's decision (`coordination`). Draws of an iteration follow from (seed,
iteration, rank), so a run that is killed and resumed learns what an uninterrupted one would have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.errors import OracleUnavailable
from rewardmesh.wire.telemetry import get_logger
from trainer.algorithms.interface import Algorithm
from trainer.amendments import AmendmentLog, show_amendments
from trainer.checkpoint import Checkpoint, CheckpointFolder
from trainer.coordination import Coordinator, Solo
from trainer.feedback import Feedback, RewardTimes
from trainer.intake import Intake
from trainer.iteration_record import add_counts
from trainer.late_answers import LateAnswers
from trainer.learning import Learner, UpdateTally
from trainer.recipe import Recipe, dump_recipe
from trainer.replay_bank import ReplayBank
from trainer.reporter import MetricsSink, Reporter
from trainer.rewards import RewardRule
from trainer.rollouts import Decode, Prompt, Rollout, RolloutMaker, seed_for
from trainer.run_folder import RunFolder
from trainer.trajectory_store import TrajectoryStore
from trainer.updates import Updates

__all__ = ["Loop", "MetricsSink", "OnCheckpoint", "RunOutcome"]

OnCheckpoint = Callable[[Path | None, Mapping[str, Any]], None]
"""Called on every rank when a checkpoint was made: its folder on rank 0, None elsewhere, and the iteration's line."""
Reason = Literal["finished", "stopped", "time_limit"]

POLL_S = 0.5


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    reason: Reason
    iterations: int
    """Done in all, those before a resume included."""
    elapsed_s: float
    """Spent training, the time before a resume included."""


class Loop:
    """One worker's loop."""

    def __init__(  # noqa: PLR0913 - the parts of a run
        self,
        recipe: Recipe,
        algorithm: Algorithm,
        *,
        decode: Decode,
        prompts: Sequence[Prompt],
        feedback: Feedback,
        folder: RunFolder,
        coordinator: Coordinator | None = None,
        sinks: Sequence[MetricsSink] = (),
        on_checkpoint: OnCheckpoint | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: unix seconds, by which the store ages and late answers are late.

        Raises ChecksMissing if all rewards of some prompt may be masked, CheckpointCorrupt for a damaged store.
        """
        self._recipe = recipe
        self._algorithm = algorithm
        self._feedback = feedback
        self._folder = folder
        self._coordinator = coordinator or Solo()
        self._on_checkpoint = on_checkpoint
        self._log = get_logger("loop")
        rank, run = self._coordinator.rank, recipe.run
        self._rule = rule = RewardRule(
            recipe.feedback, num_steps=algorithm.num_steps, permute_seed=run.seed if run.permute_rewards else None
        )
        rule.check_prompts((one.prompt, one.checks) for one in prompts)
        self._amendments = AmendmentLog(folder.path, recipe)
        self._store = TrajectoryStore(folder.store(rank), recipe.store, clock=clock)
        self._bank = ReplayBank(self._store, max_groups=recipe.store.bank_groups)
        maker = RolloutMaker(
            algorithm,
            decode,
            prompts=prompts,
            settings=recipe.prompts,
            rule=rule,
            store=self._store,
            run_id=folder.run_id,
            seed=run.seed,
            rank=rank,
            world_size=self._coordinator.world_size,
        )
        self._intake = Intake(
            feedback,
            maker,
            store=self._store,
            late_answers=LateAnswers(self._store, self._bank, bound=recipe.algorithm.surrogate.late_bound, clock=clock),
            boundaries=rule.boundaries,
            max_late_groups=recipe.feedback.max_late_groups,
        )
        self._learner = Learner(
            algorithm,
            recipe.algorithm,
            group_size=recipe.prompts.group_size,
            rule=rule,
            store=self._store,
            bank=self._bank,
        )
        self._updates = Updates(
            recipe,
            self._learner,
            intake=self._intake,
            store=self._store,
            bank=self._bank,
            rule=rule,
            coordinator=self._coordinator,
        )
        self._reporter = Reporter(recipe, folder, feedback, sinks=sinks, rank=rank)
        self._checkpoints = CheckpointFolder(folder.checkpoints, keep=run.checkpoints_kept)
        self._iteration = 0
        self._empty_in_a_row = 0
        self._elapsed_before_s = 0.0
        self._began = time.monotonic()
        self._stop_requested = False

    def request_stop(self) -> None:
        """Asks for the end after this iteration; may be called from a signal handler or another thread."""
        self._stop_requested = True

    def run(self) -> RunOutcome:
        """Trains until the recipe's end, its time limit, or a request to stop; leaves a checkpoint in any case.

        Resumes by itself if the folder holds a checkpoint.
        Raises: OracleUnavailable if no group was rewarded for too many iterations, or an oracle whose policy is `abort`
        left one without a reward; CheckpointCorrupt, and what feedback raises.
        """
        self._began = time.monotonic()
        try:
            self._restore()
            self._feedback.set_iteration(self._iteration)
            reason = self._decide_end()
            while reason is None:
                self._iterate()
                reason = self._decide_end()
                if reason is not None or self._iteration % self._recipe.run.checkpoint_every == 0:
                    self._checkpoint()
            self._status(reason, "done")
            return RunOutcome(reason, self._iteration, self._elapsed_s())
        except Exception as error:
            self._status("failed", " ".join(str(error).split()) or type(error).__name__)
            raise
        finally:
            self._store.close()

    def _iterate(self) -> None:
        began, before, iteration = time.perf_counter(), self._feedback.times(), self._iteration + 1
        seed, rank = self._recipe.run.seed, self._coordinator.rank
        torch.manual_seed(seed_for(seed, 3, iteration, rank))
        rng = np.random.default_rng([seed, 4, iteration, rank])
        tally = UpdateTally()
        self._amend(self._decide_amendments)
        self._fill()
        rolled_out = time.perf_counter()
        rollout = self._intake.inflight[0]
        free_updates = self._await(rollout, tally, rng)
        self._status("training", "learning")
        learned = self._updates.learn(rollout, tally, rng)
        self._iteration = iteration
        self._feedback.set_iteration(iteration)
        counts = add_counts(self._coordinator.gather(learned.counts))
        self._reporter.record(
            {
                "iteration": iteration,
                "policy_version": self._intake.policy_version,
                "staleness": learned.staleness,
                "inflight": len(self._intake.inflight),
                "bank_groups": len(self._bank),
                "elapsed_s": self._elapsed_s(),
            },
            counts=counts,
            tally=tally,
            free_updates=free_updates,
            seconds={
                "iteration": time.perf_counter() - began,
                "rollout": rolled_out - began,
                **{network: tally.seconds.get(network, 0.0) for network in ("surrogate", "fake_score", "student")},
                **_spent(before, self._feedback.times()),
            },
        )
        self._status("training", "iteration done")
        self._empty_in_a_row = self._empty_in_a_row + 1 if learned.empty else 0
        if learned.aborting:
            what = f"in iteration {iteration} an oracle left groups without a reward, and its policy is abort"
            self._fail(what, learned.aborting)
        if self._empty_in_a_row >= self._recipe.feedback.max_empty_iterations:
            waited_for = sorted({oracle for _, oracle in rollout.awaited}) or self._rule.bounds_s(rollout.index)
            self._fail(f"not one group was rewarded in {self._empty_in_a_row} iterations", waited_for)

    def _amend(self, decide: Callable[[], Sequence[Amendment]]) -> None:
        """What rank 0 decides holds, on every rank."""

        def plan(_views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {"held": [one.model_dump(mode="json") for one in decide()]}

        held = map(Amendment.model_validate, self._coordinator.decide({}, plan)["held"])
        self._rule.amend((one.from_iteration - 1, one.use) for one in held if one.from_iteration is not None)

    def _decide_amendments(self) -> Sequence[Amendment]:
        def knows(oracle: str) -> bool:
            self._status("waiting", f"waiting for the registry, which is asked for oracle {oracle}")
            return self._feedback.knows(oracle)

        asked, next_iteration = self._feedback.asked(), self._intake.next_rollout + 1
        for ruling in self._amendments.rule(asked, from_iteration=next_iteration, knows=knows):
            self._feedback.rule(ruling)
        return self._amendments.held()

    def _fill(self) -> None:
        """Keeps up to `max_inflight` rollouts out; none beyond the run's end, nor while an oracle turns groups away.

        One that is never waited for may turn away what it likes.
        """
        intake = self._intake
        intake.collect(wait_s=0.0)
        out = len(intake.inflight)
        room = min(self._recipe.feedback.max_inflight - out, self._recipe.run.iterations - self._iteration - out)

        def plan(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            return {"rollouts": 0 if any(view["refused"] for view in views) else room}

        refused = any(
            self._rule.bounds_s(rollout.index)[oracle] > 0
            for rollout in intake.inflight
            for _, oracle in rollout.refused
        )
        for _ in range(self._coordinator.decide({"refused": refused}, plan)["rollouts"]):
            self._status("training", "rolling out")
            intake.start()

    def _await(self, rollout: Rollout, tally: UpdateTally, rng: np.random.Generator) -> int:
        """Until each oracle has answered or its bound has passed. Returns the free updates done meanwhile."""
        settings, began = self._recipe.feedback, time.monotonic()
        bounds_s, own = self._rule.bounds_s(rollout.index), self._recipe.algorithm.fake_score.updates_per_iteration

        def plan(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            gone_s = time.monotonic() - began
            awaited = add_counts(view["awaited"] for view in views)
            left_s = {oracle: bounds_s[oracle] - gone_s for oracle in awaited if bounds_s[oracle] > gone_s}
            if not left_s:
                return {"next": "learn"}
            if tally.counts.get("fake_score", 0) < own + settings.max_free_updates:
                return {"next": "update"}
            said = [f"{oracle} ({awaited[oracle]} groups, at most {left_s[oracle]:.0f} s more)" for oracle in left_s]
            return {"next": "wait", "wait_s": min(POLL_S, *left_s.values()), "for": ", ".join(sorted(said))}

        while True:
            self._intake.collect(wait_s=0.0)
            awaited = Counter(oracle for _, oracle in rollout.awaited)
            decision = self._coordinator.decide({"awaited": dict(awaited)}, plan)
            if decision["next"] == "learn":
                return max(0, tally.counts.get("fake_score", 0) - own)
            if decision["next"] == "update":
                self._status("training", "learning while rewards are awaited")
                self._learner.update_fake_score(rollout.group_ids, tally, rng=rng)
                continue
            self._status("waiting", f"waiting for {decision['for']}")
            if awaited:
                self._intake.collect(wait_s=decision["wait_s"])
            else:
                time.sleep(0.05)  # another worker's share is not there yet

    def _checkpoint(self) -> None:
        """Saves what learning goes on from; rank 0 writes, all ranks report."""
        self._status("training", "writing a checkpoint")
        self._store.sync()
        ranks = self._coordinator.gather(
            {"intake": self._intake.state(), "bank": self._bank.state(), "position": self._store.position()}
        )
        path = None
        if self._coordinator.rank == 0:
            state = self._algorithm.state_dict()
            cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
            checkpoint = Checkpoint(
                iteration=self._iteration,
                recipe_yaml=dump_recipe(self._recipe),
                loop={"policy_version": self._intake.policy_version, "elapsed_s": self._elapsed_s(), "ranks": ranks},
                networks=state["networks"],
                state={
                    "algorithm": {key: value for key, value in state.items() if key != "networks"},
                    "torch_rng": torch.get_rng_state(),
                    "cuda_rng": cuda,
                },
            )
            path = self._checkpoints.write(checkpoint)
        if self._on_checkpoint is not None:
            self._on_checkpoint(path, self._reporter.line)

    def _restore(self) -> None:
        checkpoint = self._checkpoints.read_latest()
        self._amend(self._amendments.held)
        if self._coordinator.rank == 0:
            self._folder.rewind_metrics(checkpoint.iteration if checkpoint else 0)
        if checkpoint is None:
            return
        networks = {name: dict(tensors) for name, tensors in checkpoint.networks.items()}
        self._algorithm.load_state_dict({**checkpoint.state["algorithm"], "networks": networks})
        torch.set_rng_state(checkpoint.state["torch_rng"])
        if torch.cuda.is_available() and checkpoint.state["cuda_rng"]:
            torch.cuda.set_rng_state_all(checkpoint.state["cuda_rng"])
        self._iteration = checkpoint.iteration
        self._elapsed_before_s = float(checkpoint.loop["elapsed_s"])
        self._intake.policy_version = int(checkpoint.loop["policy_version"])
        self._feedback.set_policy_version(self._intake.policy_version)
        ranks = checkpoint.loop["ranks"]
        if self._coordinator.rank < len(ranks):
            mine = ranks[self._coordinator.rank]
            self._store.require(mine["position"])
            self._bank.restore(mine["bank"])
            self._intake.restore(mine["intake"])
        else:  # more workers than before: this one had nothing out; it rolls out its share of what the others had
            self._intake.restore({**ranks[0]["intake"], "watched": [], "late_answers": {"waiting": [], "num_new": 0}})
        self._log.info("resumed", iteration=self._iteration, policy_version=self._intake.policy_version)

    def _decide_end(self) -> Reason | None:
        run = self._recipe.run
        last_s = self._reporter.line.get("seconds", {}).get("iteration", 0.0)

        def plan(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            if self._iteration >= run.iterations:
                return {"reason": "finished"}
            if any(view["stop"] for view in views):
                return {"reason": "stopped"}
            if run.time_limit_s is not None and self._elapsed_s() + last_s > run.time_limit_s:
                return {"reason": "time_limit"}
            return {"reason": None}

        stop = self._stop_requested or self._folder.stop_asked()
        reason: Reason | None = self._coordinator.decide({"stop": stop}, plan)["reason"]
        return reason

    def _fail(self, what: str, oracles: Iterable[str]) -> NoReturn:
        self._checkpoint()
        raise OracleUnavailable(
            what,
            f"run {self._folder.run_id}, oracles {', '.join(oracles)}",
            "see why with `rewardmesh status`; the same command goes on from here",
        )

    def _status(self, state: str, doing: str) -> None:
        self._reporter.status(
            state,
            doing,
            iteration=self._iteration,
            elapsed_s=self._elapsed_s(),
            inflight=len(self._intake.inflight),
            policy_version=self._intake.policy_version,
            amendments=show_amendments(self._folder.path),
        )

    def _elapsed_s(self) -> float:
        return self._elapsed_before_s + time.monotonic() - self._began


def _spent(before: RewardTimes, after: RewardTimes) -> dict[str, float]:
    return {
        "encode": after.encode_s - before.encode_s,
        "exposed_wait": after.exposed_s - before.exposed_s,
        "hidden_reward": after.hidden_s - before.hidden_s,
    }
