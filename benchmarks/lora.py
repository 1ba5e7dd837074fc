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
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.record import Figure, parser, report
from deploy.oracles_in_process import OraclesInProcess
from rewardmesh.wire.telemetry import configure_logging
from services.oracles.object_count import ObjectCount
from services.oracles.ocr_spelling import OcrSpelling
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm import NUM_STUDENT_STEPS, Tdm
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.evaluate import HeldoutPicture, Sampler, evaluate, plan_heldout
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


def recipe_of(way: str, *, iterations: int, rank: int) -> Recipe:
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


def main() -> None:
    """Runs the benchmark and prints the table."""
    made = parser(__doc__)
    made.add_argument("--steps", type=int, default=250, help="of TDM")
    made.add_argument("--iterations", type=int, default=60, help="of TDM-R1")
    made.add_argument("--pictures", type=int, default=100, help="held out, of each kind")
    made.add_argument("--rank", type=int, default=32)
    made.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    made.add_argument("--work", type=Path, default=Path("runs/lora"))
    arguments = made.parse_args()
    configure_logging(level="WARNING")
    family = Sd3Family.load(WEIGHTS, precision=native_precision(torch.device("cpu")))
    oracles = OraclesInProcess()
    plan = plan_heldout(
        heldout_prompts(), prompts_per_kind=arguments.pictures, pictures_per_kind=arguments.pictures, seed=10_000_000
    )
    keys: dict[str, Any] = {"strict": {}, "trained_parameters": {}, "megabytes": {}}
    figures: list[Figure] = []

    def judged(what: str, sampler: tuple[Sampler, int], plan: list[HeldoutPicture]) -> None:
        found = evaluate(plan, sampler=sampler[0], judge=oracles.judge, name=what, nfe=sampler[1])
        keys["strict"][what] = found.overall
        error = math.sqrt(found.overall * (1 - found.overall) / len(found.outcomes))
        figures.append(Figure(f"{what}, {sampler[1]} NFE", "strict accuracy", [found.overall], f"± {error:.3f}"))

    judged("teacher", teacher_sampler(family, family.teacher, guidance_scale=4.5), plan)
    for way in arguments.ways:
        recipe = recipe_of(way, iterations=arguments.iterations, rank=arguments.rank)
        roles, folder = build_roles(recipe.model, family), arguments.work / way
        began = time.monotonic()
        settings = LORA_DISTILLATION if way == "lora" else DISTILLATION
        tdm = distil(folder, family, roles=roles, recipe=settings, num_steps=arguments.steps)
        distilled_s = time.monotonic() - began
        judged(f"{way}: TDM", student_sampler(family, tdm.ema_student, num_steps=NUM_STUDENT_STEPS), plan)
        began = time.monotonic()
        algorithm = reinforced(recipe, family, roles, start=tdm, folder=folder / "run")
        reinforced_s = time.monotonic() - began
        judged(f"{way}: TDM-R1", student_sampler(family, algorithm.ema_student, num_steps=NUM_STUDENT_STEPS), plan)
        keys["trained_parameters"][way] = sum(one.numel() for one in algorithm.student.parameters())
        keys["megabytes"][way] = megabytes_beside_the_teacher(algorithm)
        figures += [
            Figure(f"{way}: trained of the student", "parameters", [keys["trained_parameters"][way]]),
            Figure(f"{way}: all roles with their Adam", "MB", [keys["megabytes"][way]], "beside the teacher"),
            Figure(f"{way}: TDM", "s", [distilled_s], f"{arguments.steps} steps, less what was there before"),
            Figure(f"{way}: TDM-R1", "s", [reinforced_s], f"{arguments.iterations} iterations, likewise"),
            *(
                Figure(f"{way}: an update of {name}", "s", seconds, f"{recipe.algorithm.batch_size} samples")
                for name, seconds in seconds_an_update(algorithm, recipe, arguments.repetitions).items()
            ),
        ]
    report("lora", figures, json_file=arguments.json, keys=keys)


if __name__ == "__main__":
    main()
