"""LoRA roles against full copies on the shapes world: what they cost, and how good their students are.

    python -m benchmarks.lora [--json FILE] [--steps 250] [--iterations 60] [--pictures 100] [--rank 32]

For each way: TDM from the teacher for `--steps`, then TDM-R1 from that student for `--iterations` of the demo recipe,
its surrogate cold, the oracles called in this process; all with one seed. Held-out strict accuracy, by the shipped
oracles, of the teacher at 80 NFE and of each student at 4, on `--pictures` of each kind. What is trained is in `--work`
and gone on with when the command is called again; `--ways lora` leaves the other out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import nn

from benchmarks.record import Figure, parser, report
from deploy.oracles_in_process import OraclesInProcess
from rewardmesh.wire.telemetry import configure_logging
from services.oracles.object_count import ObjectCount
from services.oracles.ocr_spelling import OcrSpelling
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm import NUM_STUDENT_STEPS, Tdm
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.evaluate import Sampler, evaluate, plan_heldout
from trainer.in_process_feedback import InProcessFeedback
from trainer.loop import Loop
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family, native_precision
from trainer.recipe import Recipe, load_recipe
from trainer.run_folder import RunFolder
from trainer.samplers import student_sampler, teacher_sampler
from trainer.training_process import build_roles, training_prompts
from trainer.worlds.shapes.distill import DISTILLATION, LORA_DISTILLATION, distil
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.weights_folder import WEIGHTS

WAYS: Final = ("full", "lora")
RATES: Final = {"full": 1.0, "lora": 4.0}
"""What the demo's learning rates are multiplied by: an adapter's matrices take larger steps."""
NETWORKS: Final = ("surrogate", "fake_score", "student")


def recipe_of(way: str, *, iterations: int, rank: int, overrides: Sequence[str]) -> Recipe:
    """The demo's, one rollout at a time."""
    demo = load_recipe("demo").algorithm
    rates = {name: getattr(demo, name).optimizer.learning_rate * RATES[way] for name in NETWORKS}
    return load_recipe(
        "demo",
        [
            f"model.roles={way}",
            f"model.lora.rank={rank}",
            f"model.lora.alpha={2 * rank}",
            f"run.iterations={iterations}",
            "feedback.max_inflight=1",
            "feedback.max_free_updates=0",
            *(f"algorithm.{name}.optimizer.learning_rate={rate}" for name, rate in rates.items()),
            *overrides,
        ],
    )


def reinforced(recipe: Recipe, family: Sd3Family, roles: Roles, *, start: Tdm, folder: Path) -> TdmR1:
    """TDM-R1 from a distilled student, to the recipe's end."""
    algorithm = TdmR1(recipe.algorithm, family, roles=roles, seed=recipe.run.seed)
    for network, source in (
        (algorithm.student, start.ema_student),
        (algorithm.ema_student, start.ema_student),
        (algorithm.fake_score, start.fake_score),
    ):
        network.load_state_dict(source.state_dict())
    feedback = InProcessFeedback({"object_count": ObjectCount(), "ocr_spelling": OcrSpelling()})
    Loop(
        recipe,
        algorithm,
        decode=partial(Sd3Family.decode, family),
        prompts=training_prompts(recipe),
        feedback=feedback,
        folder=RunFolder(folder),
    ).run()
    return algorithm


def seconds_an_update(algorithm: TdmR1, recipe: Recipe, repetitions: int) -> dict[str, list[float]]:
    """Of each network, on one full batch; it learns on, so this comes last."""
    size = recipe.prompts.group_size
    groups = recipe.algorithm.batch_size // size
    prompts = [spec.prompt for spec in training_prompts(recipe)[:groups]]
    rng = torch.Generator().manual_seed(0)
    batch = _batch(algorithm, prompts, size, rng)
    found: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for repetition in range(repetitions + 1):
        for name, seconds in found.items():
            began = time.perf_counter()
            getattr(algorithm, f"{name}_step")(batch)
            if repetition:  # the first is a warm-up
                seconds.append(time.perf_counter() - began)
    return found


def _batch(algorithm: TdmR1, prompts: list[str], size: int, rng: torch.Generator) -> TrajectoryBatch:
    rewards = torch.rand(len(prompts) * size, generator=rng)
    return TrajectoryBatch(
        boundaries=algorithm.rollout(prompts, size, rng).boundaries,
        prompts=[prompt for prompt in prompts for _ in range(size)],
        group_index=torch.arange(len(prompts)).repeat_interleave(size),
        rewards=rewards,
        advantages=rewards - rewards.mean(),
    )


def megabytes_beside_the_teacher(algorithm: TdmR1) -> float:
    """Networks, running averages and Adam's two moments."""
    state: dict[str, dict[str, torch.Tensor]] = algorithm.state_dict()["networks"]
    networks = sum(tensor.numel() for tensors in state.values() for tensor in tensors.values())
    trained = sum(
        parameter.numel()
        for optimizer in algorithm.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    return float(4 * (networks + 2 * trained) / 1e6)


class Measures:
    """What was found out, as figures and by name."""

    def __init__(self, family: Sd3Family, *, pictures: int) -> None:
        self._family, self._oracles = family, OraclesInProcess()
        self._plan = plan_heldout(
            heldout_prompts(), prompts_per_kind=pictures, pictures_per_kind=pictures, seed=10_000_000
        )
        self.figures: list[Figure] = []
        self.keys: dict[str, dict[str, float]] = {"strict": {}, "trained_parameters": {}, "megabytes": {}}

    def teacher(self) -> None:
        self._judge("teacher", *teacher_sampler(self._family, self._family.teacher, guidance_scale=4.5))

    def student(self, what: str, network: nn.Module) -> None:
        self._judge(what, *student_sampler(self._family, network, num_steps=NUM_STUDENT_STEPS))

    def costs(self, way: str, algorithm: TdmR1, recipe: Recipe, *, repetitions: int) -> None:
        parameters = sum(one.numel() for one in algorithm.student.parameters())
        megabytes = megabytes_beside_the_teacher(algorithm)
        self.keys["trained_parameters"][way], self.keys["megabytes"][way] = parameters, megabytes
        self.figures.append(Figure(f"{way}: trained of the student", "parameters", [parameters]))
        self.figures.append(Figure(f"{way}: all roles with their Adam", "MB", [megabytes], "beside the teacher"))
        for name, seconds in seconds_an_update(algorithm, recipe, repetitions).items():
            note = f"{recipe.algorithm.batch_size} samples"
            self.figures.append(Figure(f"{way}: an update of {name}", "s", seconds, note))

    def _judge(self, what: str, sampler: Sampler, nfe: int) -> None:
        found = evaluate(self._plan, sampler=sampler, judge=self._oracles.judge, name=what, nfe=nfe)
        self.keys["strict"][what] = share = found.overall
        error = math.sqrt(share * (1 - share) / len(found.outcomes))
        note = f"standard error {error:.3f}, {len(found.outcomes)} pictures"
        self.figures.append(Figure(f"{what}, {nfe} NFE", "strict accuracy", [share], note))


def main() -> None:
    """Runs the benchmark and prints the table."""
    made = parser(__doc__)
    made.add_argument("--steps", type=int, default=250, help="of TDM")
    made.add_argument("--iterations", type=int, default=60, help="of TDM-R1")
    made.add_argument("--pictures", type=int, default=100, help="held out, of each kind")
    made.add_argument("--rank", type=int, default=32)
    made.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of TDM-R1's recipe")
    made.add_argument("--work", type=Path, default=Path("runs/lora"))
    arguments = made.parse_args()
    configure_logging(level="WARNING")
    family = Sd3Family.load(WEIGHTS, precision=native_precision(torch.device("cpu")))
    measures = Measures(family, pictures=arguments.pictures)
    measures.teacher()
    for way in arguments.ways:
        recipe = recipe_of(way, iterations=arguments.iterations, rank=arguments.rank, overrides=arguments.set)
        roles, folder = build_roles(recipe.model, family), arguments.work / way
        settings = LORA_DISTILLATION if way == "lora" else DISTILLATION
        tdm = distil(folder, family, roles=roles, recipe=settings, num_steps=arguments.steps)
        measures.student(f"{way}: TDM", tdm.ema_student)
        algorithm = reinforced(recipe, family, roles, start=tdm, folder=folder / "run")
        measures.student(f"{way}: TDM-R1", algorithm.ema_student)
        measures.costs(way, algorithm, recipe, repetitions=arguments.repetitions)
    report("lora", measures.figures, json_file=arguments.json, keys=measures.keys)


if __name__ == "__main__":
    main()
