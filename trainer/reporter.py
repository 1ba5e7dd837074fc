"""What a run says of itself: one line of metrics an iteration, and status.json for whoever watches. Rank 0 only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.feedback import Feedback
from trainer.iteration_record import reward_figures
from trainer.late_answers import late_figures
from trainer.learning import UpdateTally
from trainer.recipe import Recipe
from trainer.run_folder import RunFolder

__all__ = ["MetricsSink", "Reporter"]

MetricsSink = Callable[[Mapping[str, Any]], None]
"""Called with each iteration's line."""


class Reporter:
    """Writes metrics.jsonl and status.json, and feeds the sinks. Does nothing on other ranks but keep the last line."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, feedback: Feedback, *, sinks: Sequence[MetricsSink], rank: int
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._feedback = feedback
        self._sinks = tuple(sinks)
        self._writes = rank == 0
        self.line: Mapping[str, Any] = {}

    def record(
        self,
        where: Mapping[str, Any],
        *,
        counts: Mapping[str, Any],
        tally: UpdateTally,
        free_updates: int,
        seconds: Mapping[str, float],
    ) -> None:
        """One iteration's line. `where`: iteration, versions, sizes; `counts`: added over workers."""
        self.line = {
            **where,
            "form": self._recipe.algorithm.surrogate.form,
            "pictures": self._recipe.feedback.pictures,
            "permuted": self._recipe.run.permute_rewards,
            **reward_figures(counts),
            "pairs": dict(counts["pairs"]),
            "late": late_figures(counts["late"]),
            "updates": dict(tally.counts),
            "free_updates": free_updates,
            "figures": tally.means(),
            "samples_scored_per_s": counts["samples"]["scored"] / seconds["iteration"],
            "depth": self._depth(),
            "seconds": dict(seconds),
            "unix_s": time.time(),
        }
        if self._writes:
            self._folder.append_metrics(self.line)
            for sink in self._sinks:
                sink(self.line)

    def status(self, state: str, doing: str, *, iteration: int, elapsed_s: float, **more: Any) -> None:
        """Replaces status.json. `state`: training, waiting, finished, stopped, time_limit or failed."""
        if not self._writes:
            return
        times = self._feedback.times()
        self._folder.write_status(
            {
                "run_id": self._folder.run_id,
                "recipe": self._recipe.name,
                "form": self._recipe.algorithm.surrogate.form,
                "state": state,
                "doing": doing,
                "iteration": iteration,
                "iterations": self._recipe.run.iterations,
                "rewards": self.line.get("rewards", {}),
                **{key: self.line.get(key) for key in ("reward", "strict_share", "samples_scored_per_s")},
                "depth": self._depth(),
                "exposed_s": times.exposed_s,
                "hidden_s": times.hidden_s,
                "elapsed_s": elapsed_s,
                "seconds_left": self._seconds_left(iteration, elapsed_s),
                "seconds": self.line.get("seconds", {}),
                **more,
            }
        )

    def _seconds_left(self, iteration: int, elapsed_s: float) -> float | None:
        """By the pace so far, and never beyond the time limit; None before there is a pace or a limit."""
        run = self._recipe.run
        paced = elapsed_s / iteration * (run.iterations - iteration) if iteration else None
        limited = None if run.time_limit_s is None else max(0.0, run.time_limit_s - elapsed_s)
        known = [seconds for seconds in (paced, limited) if seconds is not None]
        return min(known) if known else None

    def _depth(self) -> dict[str, dict[str, Any]]:
        return {name: dict(vars(depth)) for name, depth in self._feedback.depth().items()}
