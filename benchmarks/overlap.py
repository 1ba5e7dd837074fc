"""How much of the rewards' time learning hides, by how long an oracle elsewhere takes for them.

    python -m benchmarks.overlap [--json FILE]
    python -m benchmarks.overlap --ratio 1 --iterations 20

The demo's recipe with fewer pictures trains for some iterations at a time: the loop in this process; the embedded
server, a reward worker, and an oracle behind HTTP in one of their own each. The oracle sleeps for every picture and
costs no CPU, as if it were elsewhere. For each ratio, an iteration is timed first with rewards that take no time; then
the oracle takes that ratio of it for the pictures of one iteration, and there are two runs:

    overlapped    as the demo does it: two rollouts out, and updates that need no reward while one is awaited
    in turns      one rollout out, and no such update beyond the iteration's own: the control

The first iterations of a run fill the road and the last has nothing left to roll out: they are left out. Shares are of
the sums over the others. `exposed` is the time in which the training thread does nothing but wait for rewards.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import torch
from rich.box import SIMPLE
from rich.table import Table
from starlette.types import ASGIApp

from benchmarks.neighbours import Light, light_endpoint
from benchmarks.record import parser, print_table, write
from benchmarks.road import registered
from benchmarks.served import app_process, embedded_server, worker_process
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import OracleInput, Result
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.telemetry import configure_logging
from trainer.coordination import Solo
from trainer.feedback import Feedback
from trainer.in_process_feedback import InProcessFeedback
from trainer.loop import Loop
from trainer.recipe import Recipe, load_recipe
from trainer.run_folder import RunFolder
from trainer.training_process import build_algorithm, load_family, open_buffer_feedback, training_prompts

__all__ = ["PHASES", "Elsewhere", "Window", "content_of", "elsewhere_app", "phases_of", "table_of"]

AIM: Final = 0.05
"""Of a step, exposed, for oracles that take no longer than generation and learning together."""
RATIOS: Final = (0.25, 0.5, 1.0, 2.0)
PHASES: Final = ("rollout", "surrogate", "fake_score", "free", "student", "exposed", "rest")
"""What an iteration's seconds are made of; `free` is in updates of the fake score beyond the iteration's own."""
OVERLAPPED, IN_TURNS = "overlapped", "in turns"

_NAME: Final = "elsewhere"
_GROUPS, _GROUP_SIZE = 4, 4
_SMALL = (
    f"feedback.oracles=[{{name: {_NAME}}}]",
    f"prompts.groups_per_iteration={_GROUPS}",
    f"prompts.group_size={_GROUP_SIZE}",
    f"algorithm.batch_size={_GROUPS * _GROUP_SIZE}",
)
_ONE_AT_A_TIME = ("feedback.max_inflight=1", "feedback.max_free_updates=0")
_FIRST, _LAST = 3, 1  # iterations that are left out
_CPU = torch.device("cpu")

Line = Mapping[str, Any]


class Elsewhere(Light):
    """Sleeps for every picture: the time of an oracle that computes on another machine."""

    def __init__(self, seconds_a_picture: float) -> None:
        super().__init__(_NAME, service_s=0.0)
        self._seconds_a_picture = seconds_a_picture

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        time.sleep(self._seconds_a_picture * len(batch))
        return super().score(batch)


def elsewhere_app(seconds_a_picture: float) -> ASGIApp:
    """The oracle's app, for a process of its own."""
    return build_app(Elsewhere(seconds_a_picture))


def phases_of(line: Line) -> dict[str, float]:
    """The seconds of one iteration, by phase; they add up to the iteration."""
    seconds, updates = line["seconds"], line["updates"].get("fake_score", 0)
    free = seconds["fake_score"] * line["free_updates"] / updates if updates else 0.0
    found = {
        "rollout": seconds["rollout"],
        "surrogate": seconds["surrogate"],
        "fake_score": seconds["fake_score"] - free,
        "free": free,
        "student": seconds["student"],
        "exposed": seconds["exposed_wait"],
    }
    return {**found, "rest": seconds["iteration"] - sum(found.values())}


@dataclass(frozen=True)
class Window:
    """The iterations of one run that count."""

    how: str
    ratio: float
    """Asked for: the oracle's seconds for one iteration's pictures over those of an iteration without rewards."""
    oracle_s: float
    """The oracle's seconds for one iteration's pictures."""
    without_s: float
    """An iteration whose rewards take no time, measured just before: the median."""
    lines: Sequence[Line]

    def seconds(self, phase: str) -> list[float]:
        return [phases_of(line)[phase] for line in self.lines]

    @property
    def iterations_s(self) -> list[float]:
        return [line["seconds"]["iteration"] for line in self.lines]

    @property
    def exposed_share(self) -> float:
        """Of the time of a step."""
        return sum(self.seconds("exposed")) / sum(self.iterations_s)

    @property
    def exposed_share_of_rewards(self) -> float:
        """Of the time in which a reward was outstanding."""
        hidden = sum(line["seconds"]["hidden_reward"] for line in self.lines)
        exposed = sum(self.seconds("exposed"))
        return exposed / (exposed + hidden) if exposed + hidden else 0.0

    @property
    def ratio_as_it_was(self) -> float:
        """The oracle's seconds over those of generation and learning in these very iterations."""
        own = [
            whole - exposed - free
            for whole, exposed, free in zip(
                self.iterations_s, self.seconds("exposed"), self.seconds("free"), strict=True
            )
        ]
        return self.oracle_s / statistics.median(own)

    @property
    def longer_by(self) -> float:
        """The median step over that without rewards, less one: exposed, free updates, and the road's own CPU."""
        return statistics.median(self.iterations_s) / self.without_s - 1


def counted(lines: Sequence[Line]) -> Sequence[Line]:
    """Those of a run's iterations that count. Raises ValueError if none is left."""
    kept = lines[_FIRST:-_LAST]
    if not kept:
        raise ValueError(f"{len(lines)} iterations: {_FIRST + _LAST} are left out, so ask for more")
    return kept


def table_of(windows: Sequence[Window]) -> Table:
    """One row a run. Seconds: the median, and below it the smallest and the largest."""
    title = "benchmarks.overlap: seconds of an iteration, by phase"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    shares = ("exposed\nof step", "exposed\nof rewards", "step\nlonger by")
    for column in ("ratio", "run", "ratio as\nit was", "step", *PHASES, *shares):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for one in windows:
        table.add_row(
            f"{one.ratio:g}",
            one.how,
            f"{one.ratio_as_it_was:.2f}",
            *map(_spread, (one.iterations_s, *map(one.seconds, PHASES))),
            f"{one.exposed_share:.1%}",
            f"{one.exposed_share_of_rewards:.1%}",
            f"{one.longer_by:+.0%}",
        )
    return table


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}\n{min(values):.2f}–{max(values):.2f}"


def content_of(windows: Sequence[Window]) -> dict[str, Any]:
    """For the JSON file: `overlap.exposed_share` by ratio and what to hold it against, then all values."""

    def by_ratio(how: str, share: Callable[[Window], float]) -> dict[str, float]:
        return {f"{one.ratio:g}": share(one) for one in windows if one.how == how}

    return {
        "overlap": {
            "exposed_share": by_ratio(OVERLAPPED, lambda one: one.exposed_share),
            "exposed_share_in_turns": by_ratio(IN_TURNS, lambda one: one.exposed_share),
            "exposed_share_of_rewards": by_ratio(OVERLAPPED, lambda one: one.exposed_share_of_rewards),
            "longer_by": by_ratio(OVERLAPPED, lambda one: one.longer_by),
        },
        "runs": [
            {
                "ratio": one.ratio,
                "how": one.how,
                "ratio_as_it_was": one.ratio_as_it_was,
                "oracle_s": one.oracle_s,
                "without_rewards_s": one.without_s,
                "exposed_share": one.exposed_share,
                "exposed_share_of_rewards": one.exposed_share_of_rewards,
                "longer_by": one.longer_by,
                "iteration_s": one.iterations_s,
                **{f"{phase}_s": one.seconds(phase) for phase in PHASES},
            }
            for one in windows
        ],
    }


class Trainings:
    """Short trainings of one small recipe, each from the start."""

    def __init__(self, redis_url: str, *, iterations: int) -> None:
        self._redis_url = redis_url
        self._iterations = iterations
        self._family = load_family(self._recipe(), device=_CPU)

    def windows(self, ratio: float) -> list[Window]:
        """Three trainings: with rewards that take no time, then in the two ways."""
        instant = InProcessFeedback({_NAME: Light(_NAME, service_s=0.0)})
        alone = self._train(self._recipe(*_ONE_AT_A_TIME), instant, "without-rewards")
        without_s = statistics.median(line["seconds"]["iteration"] for line in alone)
        oracle_s = ratio * without_s
        made = []
        with app_process(partial(elsewhere_app, oracle_s / (_GROUPS * _GROUP_SIZE))) as url:
            endpoint = light_endpoint(_NAME, url).model_copy(update={"deadline_s": 120.0})
            for how, overrides in ((OVERLAPPED, ()), (IN_TURNS, _ONE_AT_A_TIME)):
                lines = self._through_the_road(endpoint, self._recipe(*overrides))
                made.append(Window(how, ratio, oracle_s, without_s, lines))
        return made

    def _recipe(self, *overrides: str) -> Recipe:
        iterations = (f"run.iterations={self._iterations}", f"run.checkpoint_every={self._iterations}")
        return load_recipe("demo", [*_SMALL, *iterations, *overrides])

    def _through_the_road(self, endpoint: OracleEndpoint, recipe: Recipe) -> Sequence[Line]:
        run_id = f"overlap-{uuid4().hex[:8]}"
        with registered(self._redis_url, run_id, endpoint):
            feedback = open_buffer_feedback(
                recipe.feedback, run_id=run_id, url=self._redis_url, group_pictures=_GROUP_SIZE
            )
            try:
                return self._train(recipe, feedback, run_id)
            finally:
                feedback.close()

    def _train(self, recipe: Recipe, feedback: Feedback, run_id: str) -> Sequence[Line]:
        lines: list[Line] = []
        with tempfile.TemporaryDirectory(prefix="rewardmesh-bench-") as folder:
            loop = Loop(
                recipe,
                build_algorithm(recipe, self._family, workers=Solo()),
                decode=self._family.decode,
                prompts=training_prompts(recipe),
                feedback=feedback,
                folder=RunFolder(Path(folder) / run_id),
                sinks=[lines.append],
            )
            loop.run()
        return counted(lines)


def main() -> None:
    """Runs the benchmark and prints the table."""
    made = parser(__doc__, repeats=False)
    made.add_argument("--ratio", type=float, action="append", metavar="X", help="this one only (may be repeated)")
    made.add_argument("--iterations", type=int, default=10, metavar="N", help="of each run (default 10)")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    configure_logging(level="ERROR")
    windows: list[Window] = []
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_server())
        stack.enter_context(worker_process(redis_url))
        trainings = Trainings(redis_url, iterations=arguments.iterations)
        for ratio in arguments.ratio or RATIOS:
            print(f"ratio {ratio:g}", file=sys.stderr, flush=True)
            windows += trainings.windows(ratio)
    said = f"aim: {AIM:.0%} of a step at most, overlapped, up to ratio 1; without rewards a step takes "
    said += ", ".join(f"{one.without_s:.2f}" for one in windows if one.how == OVERLAPPED) + " s"
    print_table(table_of(windows), said)
    write("overlap", content_of(windows), json_file=arguments.json)


if __name__ == "__main__":
    main()
