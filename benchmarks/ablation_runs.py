"""The runs of `benchmarks.ablations`: the bank that arms start from, and each arm's training.

    FOLDER/start/                    the bank: rollouts of the shipped student, scored
    FOLDER/ARM/seed-N/STAGE/         a run folder; when its time is over: network.safetensors, trained.json
    FOLDER/ARM/seed-N/STAGE/snapshots/ITERATION.safetensors      of forms: the averaged student on the way
    FOLDER/results/                  what `benchmarks.ablation_results` keeps of them

Nothing is done twice: a run goes on from its checkpoint, one that was given fewer minutes before too, and what is done
is passed over.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.arms.catalogue import ARMS, BASE, FORMS, PAPER, START, Arm, Stage
from benchmarks.raters import replace_json
from deploy.oracles_in_process import OraclesInProcess
from rewardmesh.wire.strict_json import load_json
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.checkpoint import Checkpoint, CheckpointFolder
from trainer.loop import Loop, RunOutcome
from trainer.models.sd3 import Sd3Family
from trainer.recipe import Recipe, dump_recipe, load_recipe
from trainer.rollouts import seed_for
from trainer.run_folder import RunFolder
from trainer.training_process import build_roles, load_family, model_folder, training_prompts
from trainer.worlds.shapes.weights_folder import CHECKSUMS

__all__ = [
    "CPU",
    "SNAPSHOT_EVERY",
    "Options",
    "Run",
    "collect_bank",
    "evaluation_file",
    "oracles",
    "read_network",
    "runs_of",
    "shipped_weights",
    "start_recipe",
    "train_stage",
]

CPU: Final = torch.device("cpu")
SNAPSHOT_EVERY: Final = 20
"""Iterations from one kept student of a form of the surrogate to the next; a multiple of the recipe's checkpoints."""
_ENDLESS: Final = 1_000_000
_STANDING_STILL: Final = tuple(
    f"algorithm.{name}.updates_per_iteration=0" for name in ("surrogate", "fake_score", "student")
)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    folder: Path
    minutes: float = 20.0
    seeds: int = 3
    bank_groups: int = 1200
    overrides: tuple[str, ...] = ()
    piece_s: float | None = None
    kept: Path | None = None
    """Where results are kept; in the folder, unless said otherwise."""

    @property
    def results(self) -> Path:
        return self.kept or self.folder / "results"


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    arm: Arm
    seed: int
    options: Options

    @property
    def folder(self) -> Path:
        return self.options.folder / self.arm.name / f"seed-{self.seed}"

    def stage_folder(self, stage: Stage) -> Path:
        return self.folder / stage.name

    def recipe(self, stage: Stage) -> Recipe:
        limit = f"run.time_limit_s={self.options.minutes * 60 * stage.share}"
        own = [f"run.seed={self.seed}", f"run.iterations={_ENDLESS}", limit]
        return load_recipe("demo", [*BASE, *own, *stage.overrides, *self.options.overrides])

    def trained(self, stage: Stage) -> dict[str, Any] | None:
        """How the stage ended; None while it has more time than it had."""
        file = self.stage_folder(stage) / "trained.json"
        ended = dict(load_json(file.read_bytes())) if file.exists() else None
        return ended if ended and ("diverged" in ended or ended["minutes"] >= self.options.minutes) else None

    def snapshots(self) -> set[int]:
        """Iterations whose averaged student was kept."""
        return {int(file.stem) for file in self.stage_folder(self.arm.stages[-1]).glob("snapshots/*.safetensors")}

    def kept(self, at: int | None = None) -> Path:
        """Where the averaged student lies; `at`: that of an iteration."""
        last = self.stage_folder(self.arm.stages[-1])
        return last / "network.safetensors" if at is None else last / "snapshots" / f"{at}.safetensors"

    def next_stage(self) -> Stage | None:
        """The first that is not done."""
        return next((stage for stage in self.arm.stages if self.trained(stage) is None), None)


def evaluation_file(folder: Path, at: int | None = None) -> Path:
    """Where the evaluation of an arm, or of what all start from, lies; `at`: that of a snapshot."""
    return folder / ("evaluation.json" if at is None else f"evaluation-{at}.json")


def runs_of(names: list[str], options: Options) -> Iterator[Run]:
    """Every arm with its first seed, then the publication's arms with the others."""
    for seed in range(options.seeds):
        yield from (Run(ARMS[name], seed, options) for name in names if seed == 0 or name in PAPER)


def start_recipe(options: Options) -> Recipe:
    """The bank's: rollouts of the shipped student, scored and learnt nothing from."""
    recipe = load_recipe("demo", [*BASE, *options.overrides])
    rollouts = max(1, options.bank_groups // recipe.prompts.groups_per_iteration)
    return load_recipe(
        "demo", [*BASE, *options.overrides, *_STANDING_STILL, f"run.iterations={rollouts}", "run.checkpoint_every=10"]
    )


def collect_bank(options: Options) -> bool:
    """Makes the bank that arms start from, or goes on; True if there was something to do.

    Raises: SystemExit if it is of another student than the one that ships now.
    """
    recipe, folder = start_recipe(options), RunFolder(options.folder / START)
    done, shipped = folder.path / "trained.json", shipped_weights(recipe)
    if done.exists():
        if load_json(done.read_bytes())["weights"] != shipped:
            raise SystemExit(f"{options.folder} was begun with other weights than ship now: use another --folder")
        return False
    family = load_family(recipe, device=CPU)
    outcome = _drive(_algorithm(TdmR1, recipe, family), recipe, folder, Stage(), options)
    if outcome.reason != "stopped":
        replace_json(done, {"iterations": outcome.iterations, "weights": shipped})
    return True


def shipped_weights(recipe: Recipe) -> str:
    """SHA-256 of the list of checksums of the weights that arms start from; what TDM-R1 made of them is not in it."""
    listed = (model_folder(recipe) / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    return hashlib.sha256("\n".join(line for line in listed if "  tdm_r1/" not in line).encode()).hexdigest()


def train_stage(run: Run, stage: Stage) -> None:
    """Trains a stage to the end of its time, or for a piece. One whose loss is not finite any more ends there.

    What was made of it before is gone: the evaluation, and the stages that follow.
    """
    recipe, folder = run.recipe(stage), RunFolder(run.stage_folder(stage))
    evaluation_file(run.folder).unlink(missing_ok=True)
    for later in run.arm.stages[run.arm.stages.index(stage) + 1 :]:
        shutil.rmtree(run.stage_folder(later), ignore_errors=True)
    print(f"training {run.arm.name}, seed {run.seed}, {stage.name}", file=sys.stderr, flush=True)
    family = load_family(recipe, device=CPU)
    teaching = next((one for one in run.arm.stages if one.teaches_next), None)
    if teaching is not None and teaching is not stage:
        family.teacher.load_state_dict(read_network(run.stage_folder(teaching) / "network.safetensors"))
    algorithm = _algorithm(stage.algorithm, recipe, family)
    if recipe.algorithm.surrogate.fresh_share < 1:
        _start_from_bank(algorithm, recipe, folder, run.options)
    ended: dict[str, Any] = {"minutes": run.options.minutes, "threads": torch.get_num_threads()}
    try:
        compared = run.arm.name in FORMS
        outcome = _drive(algorithm, recipe, folder, stage, run.options, with_snapshots=compared)
    except FloatingPointError as error:
        ended |= {"diverged": str(error)}
    else:
        if outcome.reason == "stopped":
            return
        ended |= {"iterations": outcome.iterations, "elapsed_s": outcome.elapsed_s}
    network: dict[str, Tensor] = algorithm.state_dict()["networks"][stage.kept]
    _save_network(folder.path / "network.safetensors", network)
    replace_json(folder.path / "trained.json", ended)


def _algorithm(kind: type[TdmR1], recipe: Recipe, family: Sd3Family) -> TdmR1:
    return kind(
        recipe.algorithm,
        family,
        roles=build_roles(recipe.model, family),
        weights=model_folder(recipe),
        seed=seed_for(recipe.run.seed, 5),
    )


def _start_from_bank(algorithm: TdmR1, recipe: Recipe, folder: RunFolder, options: Options) -> None:
    """Lays the bank's store and, as the arm's own, a checkpoint of no iteration into a run that has none yet."""
    checkpoints = CheckpointFolder(folder.checkpoints, keep=recipe.run.checkpoints_kept)
    if checkpoints.read_latest() is not None:
        return
    start = RunFolder(options.folder / START)
    shared = CheckpointFolder(start.checkpoints, keep=1).read_latest()
    assert shared is not None  # collected before
    shutil.rmtree(folder.store(0), ignore_errors=True)
    shutil.copytree(start.store(0), folder.store(0), copy_function=shutil.copy)  # as new: the store forgets old files
    state = algorithm.state_dict()
    checkpoints.write(
        Checkpoint(
            iteration=0,
            recipe_yaml=dump_recipe(recipe),
            loop={"policy_version": 0, "elapsed_s": 0.0, "ranks": shared.loop["ranks"]},
            networks=state["networks"],
            state={
                "algorithm": {key: value for key, value in state.items() if key != "networks"},
                "torch_rng": torch.get_rng_state(),
                "cuda_rng": [],
            },
        )
    )


@cache
def oracles() -> OraclesInProcess:
    """Those of the demo's recipe, which judge held-out pictures too."""
    return OraclesInProcess()


def _drive(
    algorithm: TdmR1, recipe: Recipe, folder: RunFolder, stage: Stage, options: Options, *, with_snapshots: bool = False
) -> RunOutcome:
    folder.adopt(recipe)
    began = time.monotonic()

    def end_piece(_line: Mapping[str, Any]) -> None:
        if options.piece_s is not None and time.monotonic() - began >= options.piece_s:
            loop.request_stop()

    def snapshot(_checkpoint: Path | None, line: Mapping[str, Any]) -> None:
        if with_snapshots and line.get("iteration", 1) % SNAPSHOT_EVERY == 0:
            file = folder.path / "snapshots" / f"{line['iteration']}.safetensors"
            _save_network(file, algorithm.ema_student.state_dict())

    loop = Loop(
        recipe,
        algorithm,
        decode=partial(Sd3Family.decode, algorithm.family),
        prompts=training_prompts(recipe),
        feedback=stage.feedback(oracles().by_name),
        folder=folder,
        sinks=[end_piece],
        on_checkpoint=snapshot,
    )
    return loop.run()


def _save_network(file: Path, network: Mapping[str, Tensor]) -> None:
    """In half precision, and whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_suffix(".partial")
    save_file({name: tensor.detach().half().contiguous().clone() for name, tensor in network.items()}, partial_file)
    partial_file.replace(file)


def read_network(file: Path) -> dict[str, Tensor]:
    """What `_save_network` wrote, in float32."""
    return {name: tensor.float() for name, tensor in load_file(file).items()}
