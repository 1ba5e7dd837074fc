"""What is kept of each run of `benchmarks.ablations`: small enough to commit, and all that tables and figure need.

    RESULTS/ARM-seed-N.json

Run folders are some hundred megabytes an arm and stay on the machine that trained them. A run whose result is there is
done, wherever it was trained, so that arms can be shared out among machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.ablation_evaluation import read_evaluation_of, start_folder
from benchmarks.ablation_runs import Options, Run, shipped_weights, start_recipe
from benchmarks.raters import replace_json
from rewardmesh.wire.strict_json import dump_json, load_json
from trainer.evaluate import Evaluation, HeldoutPicture, Outcome
from trainer.report import read_metrics
from trainer.training_process import heldout_plan

__all__ = ["Result", "checksum_of", "keep_result", "plan_of", "read_kept", "read_result"]


@dataclass(frozen=True)
class Result:
    """One arm with one seed. Passes are a string of 0 and 1, a held-out picture each, in the order of the plan."""

    arm: str
    seed: int
    minutes: float
    threads: list[int]
    diverged: bool
    iterations: int
    pictures_scored: int
    weights: str
    """SHA-256 of the list of checksums of what it began with."""
    asked: str
    """SHA-256 of the held-out plan."""
    start: str
    """Passes of the student that it began with, sampled as the arm samples."""
    passed: str
    """Passes of its averaged student."""
    snapshots: Mapping[str, str]
    """The same after so many iterations, of forms of the surrogate."""
    curve: Sequence[tuple[float, float]]
    """(minutes of training, mean graded reward of the pictures scored), an iteration each; stages one after another."""

    def evaluation(self, plan: Sequence[HeldoutPicture], *, at: int | None = None) -> Evaluation:
        """Of its end, or of a snapshot. Raises KeyError for one that was not kept."""
        return _evaluation(self.arm, self.passed if at is None else self.snapshots[str(at)], plan)

    def evaluation_of_start(self, plan: Sequence[HeldoutPicture]) -> Evaluation:
        """Of the student that it began with."""
        return _evaluation("start", self.start, plan)


def _evaluation(name: str, passed: str, plan: Sequence[HeldoutPicture]) -> Evaluation:
    outcomes = [
        Outcome(one.spec.prompt, one.spec.kind, one.spec.key, one.seed, mark == "1")
        for one, mark in zip(plan, passed, strict=True)
    ]
    return Evaluation(name, 0, tuple(outcomes), 0.0, 0.0)


def _file(run: Run) -> Path:
    return run.options.results / f"{run.arm.name}-seed-{run.seed}.json"


def keep_result(run: Run) -> bool:
    """Writes the result of a run that is trained and judged; True if that was to be done."""
    evaluation, start = read_evaluation_of(run.folder), read_evaluation_of(start_folder(run.arm, run.options))
    if run.next_stage() is not None or evaluation is None or start is None:
        return False
    ended = [done for stage in run.arm.stages if (done := run.trained(stage)) is not None]
    metrics = [(stage, line) for stage in run.arm.stages for line in read_metrics(run.stage_folder(stage))]
    result = Result(
        arm=run.arm.name,
        seed=run.seed,
        minutes=run.options.minutes,
        threads=sorted({int(done["threads"]) for done in ended}),
        diverged=any("diverged" in done for done in ended),
        iterations=len(metrics),
        pictures_scored=sum(int(one["scored"]) for _, line in metrics for one in line["outcomes"].values()),
        weights=shipped_weights(start_recipe(run.options)),
        asked=checksum_of(plan_of(run.options)),
        start=_passes(start),
        passed=_passes(evaluation),
        snapshots={
            str(at): _passes(found)
            for at in sorted(run.snapshots())
            if (found := read_evaluation_of(run.folder, at)) is not None
        },
        curve=_curve(run),
    )
    run.options.results.mkdir(parents=True, exist_ok=True)
    replace_json(_file(run), asdict(result))
    return True


def _curve(run: Run) -> list[tuple[float, float]]:
    points, before = [], 0.0
    for stage in run.arm.stages:
        points += [
            (round((before + line["elapsed_s"]) / 60, 3), round(line["reward"] + 0.5, 4))
            for line in read_metrics(run.stage_folder(stage))
            if line["reward"] is not None
        ]
        before += run.options.minutes * 60 * stage.share
    return points


def _passes(evaluation: Evaluation) -> str:
    return "".join("1" if outcome.passed else "0" for outcome in evaluation.outcomes)


def plan_of(options: Options) -> list[HeldoutPicture]:
    """The held-out pictures that every arm is judged by."""
    return heldout_plan(start_recipe(options))


def checksum_of(plan: Sequence[HeldoutPicture]) -> str:
    """Says which held-out pictures a result is of: SHA-256 of prompts, kinds and seeds."""
    return hashlib.sha256(dump_json([[one.spec.prompt, one.spec.kind, one.seed] for one in plan]).encode()).hexdigest()


def read_result(run: Run) -> Result | None:
    """What was kept of a run; None if nothing was, or of less time.

    Raises: SystemExit if it is of other weights or other held-out pictures than there are now, or of more time.
    """
    file = _file(run)
    if not file.exists():
        return None
    result = read_kept(file, run.options)
    if result.minutes > run.options.minutes:
        raise SystemExit(f"{file} is of {result.minutes:g} minutes: use them, or another --results")
    return result if result.minutes == run.options.minutes or result.diverged else None


def read_kept(file: Path, options: Options) -> Result:
    """A result as it was kept.

    Raises: SystemExit if it is none, or is of other weights or other held-out pictures than there are now.
    """
    try:
        result = Result(**load_json(file.read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"{file} is no result of an ablation: {error}") from None
    now = (shipped_weights(start_recipe(options)), checksum_of(plan_of(options)))
    if (result.weights, result.asked) != now:
        raise SystemExit(f"{file} is of other weights or held-out prompts than there are now: use another --results")
    return result
