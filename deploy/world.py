"""`rewardmesh world …`: makes what the shapes world ships, step by step, and measures it.

    train-autoencoder -> train-teacher -> distil -> fit-surrogate -> post-train -> measure

Each step is seeded, shows its progress, can be stopped and called again, and keeps its checkpoints in a work folder;
what it has made goes to the weights folder. The oracles' own networks are `python -m deploy.train_oracles`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardmesh.wire.errors import WeightsMissing
from trainer.worlds.shapes.weights_folder import WEIGHTS, write_checksums, write_teacher, write_transformer

if TYPE_CHECKING:
    from trainer.algorithms.tdm_r1 import TdmR1
    from trainer.models.roles import Roles
    from trainer.models.sd3 import Sd3Family

__all__ = ["app"]

app = typer.Typer(help="Make the shapes world's networks.", no_args_is_help=True, add_completion=False)

Work = Annotated[Path, typer.Option(help="Folder of checkpoints, to go on from.")]
To = Annotated[Path, typer.Option(help="Folder of finished weights.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps in all.")]
Seed = Annotated[int, typer.Option(min=0)]


def _known_device(device: str) -> str:
    if device != "cpu":
        import torch

        if device != "cuda" or not torch.cuda.is_available():
            raise typer.BadParameter(f"{device} is no device of this machine: use cpu, or cuda where there is a GPU")
    return device


Warm = Annotated[bool, typer.Option(help="Start from the finished weights, not from nothing.")]
Device = Annotated[str, typer.Option(help="Where networks and oracles compute: cpu, or cuda.", callback=_known_device)]
Lora = Annotated[bool, typer.Option(help="As LoRA adapters on the teacher, in the folder `lora`.")]
_WORK = Path("runs/world")
_STUDENT_STEPS = 4


@app.command()
def train_autoencoder(work: Work = _WORK, steps: Steps = 900, seed: Seed = 0) -> None:
    """Train the f4 autoencoder on rendered pictures."""
    from trainer.worlds.shapes.autoencoder import reconstruction_error
    from trainer.worlds.shapes.autoencoder import train_autoencoder as train

    autoencoder = train(work, num_steps=steps, seed=seed)
    autoencoder.save_pretrained(work / "vae")
    typer.echo(f"reconstruction error: {reconstruction_error(autoencoder):.2f} grey levels of 255")


@app.command()
def train_teacher(
    work: Work = _WORK,
    to: To = WEIGHTS,
    steps: Steps = 5000,
    pictures: int = 60_000,
    wrong_captions: Annotated[float, typer.Option(min=0, max=1, help="Share of captions that are wrong.")] = 0.45,
    seed: Seed = 0,
    warm: Warm = False,
) -> None:
    """Pre-train the teacher on rendered pictures with noisy captions."""
    from diffusers import AutoencoderKL

    from trainer.worlds.shapes.teacher import train_teacher as train

    folder = work / "vae" if (work / "vae").exists() else to / "vae"
    if not folder.exists():
        raise WeightsMissing("no autoencoder is trained", str(folder), "`rewardmesh world train-autoencoder`")
    autoencoder = AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()
    start = _family(to) if warm else None
    family = train(
        work,
        autoencoder,
        num_steps=steps,
        num_pictures=pictures,
        wrong_share=wrong_captions,
        seed=seed,
        start=start,
    )
    write_teacher(to, family, num_steps=_STUDENT_STEPS)


@app.command()
def distil(
    work: Work = _WORK,
    to: To = WEIGHTS,
    steps: Steps = 250,
    seed: Seed = 0,
    lora: Lora = False,
    device: Device = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Pictures of an update.")] = 64,
    warm: Warm = False,
) -> None:
    """Distil the 4-step student from the teacher, by TDM."""
    from trainer.worlds.shapes.distill import DISTILLATION, LORA_DISTILLATION
    from trainer.worlds.shapes.distill import distil as train

    family = _family(to, device)
    roles = _roles(family, lora=lora)
    recipe = (LORA_DISTILLATION if lora else DISTILLATION).model_copy(update={"batch_size": batch})
    tdm = train(
        roles.shipped(work), family, roles=roles, recipe=recipe, num_steps=steps, seed=seed, start=to if warm else None
    )
    for name, network in (("student", tdm.ema_student), ("fake_score", tdm.fake_score)):
        if lora:
            roles.export(roles.shipped(to) / name, network, num_steps=_STUDENT_STEPS)
        else:
            write_transformer(to / name, network)
    write_checksums(to)


@app.command()
def fit_surrogate(
    work: Path = _WORK,
    to: To = WEIGHTS,
    steps: Steps = 2000,
    groups: Annotated[int, typer.Option(min=300, help="Groups of the bank, 12 pictures each.")] = 2400,
    seed: Seed = 0,
    lora: Lora = False,
    warm: Warm = False,
    device: Device = "cpu",
) -> None:
    """Score rollouts of the student with the oracles, and fit the warm surrogate on them."""
    from deploy.oracles_in_process import OraclesInProcess
    from trainer.algorithms.value_surrogate import ValueSurrogate
    from trainer.worlds.shapes.surrogate import collect_bank
    from trainer.worlds.shapes.surrogate import fit_surrogate as fit

    algorithm = _cold_algorithm(to, seed=seed, lora=lora, device=device)
    weights, work, to = to, algorithm.roles.shipped(work), algorithm.roles.shipped(to)
    bank = collect_bank(work, algorithm, OraclesInProcess(device=device).score, num_groups=groups, seed=seed)
    surrogate = algorithm.surrogate
    assert isinstance(surrogate, ValueSurrogate)
    if warm:
        try:
            surrogate.load(to / ValueSurrogate.FILE)
        except FileNotFoundError as error:
            raise WeightsMissing(str(error), str(to), "leave --warm out") from error
    ranking = fit(work, algorithm, bank, num_steps=steps, seed=seed, warm=warm)
    surrogate.save(to / ValueSurrogate.FILE)
    (work / "surrogate.json").write_text(json.dumps({"ranking": ranking, "steps": steps, "groups": groups}))
    write_checksums(weights)
    typer.echo(f"pairs of held-out groups ordered rightly: {ranking:.3f}")


@app.command()
def post_train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    run: Annotated[Path, typer.Option(help="Run folder, to go on from.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write student, fake score and surrogate to.")] = None,
) -> None:
    """Train the student by a recipe with the oracles called in this process: without Ray and without a buffer."""
    from deploy.oracles_in_process import OraclesInProcess
    from deploy.post_training import device_of
    from deploy.post_training import post_train as train
    from trainer.algorithms.value_surrogate import ValueSurrogate
    from trainer.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    oracles = OraclesInProcess(device=device_of(resolved))
    outcome, algorithm = train(resolved, run, oracles=oracles, tell=typer.echo)
    if to is not None:
        write_transformer(to / "student", algorithm.ema_student)
        write_transformer(to / "fake_score", algorithm.fake_score)
        if isinstance(algorithm.surrogate, ValueSurrogate):
            algorithm.surrogate.save(to / ValueSurrogate.FILE)
    typer.echo(f"{outcome.reason} after {outcome.iterations} iterations, {outcome.elapsed_s:.0f} s of training")


@app.command()
def measure(
    to: To = WEIGHTS,
    pictures: Annotated[int, typer.Option(min=1, help="Held-out pictures a kind.")] = 100,
    grid: Annotated[Path | None, typer.Option(help="Where to put a picture grid.")] = None,
    guidance: float = 3.5,
    networks: str = "teacher,student",
    device: Device = "cpu",
) -> None:
    """Held-out strict accuracy of the teacher at 80 NFE and of the student at 4, by the shipped oracles."""
    from deploy.oracles_in_process import OraclesInProcess
    from trainer.evaluate import evaluate, plan_heldout
    from trainer.evaluation_files import markdown_table
    from trainer.samplers import student_sampler, teacher_sampler
    from trainer.worlds.shapes.prompts import heldout_prompts

    family, oracles = _family(to, device), OraclesInProcess(device=device)
    plan = plan_heldout(heldout_prompts(), prompts_per_kind=pictures, pictures_per_kind=pictures, seed=10_000_000)
    samplers: dict[str, Any] = {}
    if "teacher" in networks:
        samplers["teacher"] = teacher_sampler(family, family.teacher, guidance_scale=guidance)
    if "student" in networks:
        student = family.new_transformer(to / "student").eval().requires_grad_(False)
        samplers["student"] = student_sampler(family, student, num_steps=_STUDENT_STEPS)
    evaluations = []
    for name, (sampler, nfe) in samplers.items():
        started = time.monotonic()
        evaluations.append(evaluate(plan, sampler=sampler, judge=oracles.judge, name=name, nfe=nfe))
        typer.echo(f"{name}: {time.monotonic() - started:.0f} s", err=True)
        if grid is not None:
            _write_grid(grid.with_stem(f"{grid.stem}-{name}"), evaluations[-1].pictures, pictures)
    typer.echo(markdown_table(evaluations))


def _write_grid(file: Path, pictures: Any, per_kind: int) -> None:
    """The first pictures of each kind, a row a kind."""
    import numpy as np
    from PIL import Image

    rows = [
        np.concatenate(list(pictures[i : i + min(per_kind, 14)]), axis=1) for i in range(0, len(pictures), per_kind)
    ]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(file)


def _family(folder: Path, device: str = "cpu") -> Sd3Family:
    import torch

    from trainer.models.sd3 import Sd3Family, native_precision

    try:
        return Sd3Family.load(folder, device=device, precision=native_precision(torch.device(device)))
    except FileNotFoundError as error:
        raise WeightsMissing(str(error), str(folder), "`rewardmesh world train-teacher`") from error


def _roles(family: Sd3Family, *, lora: bool) -> Roles:
    from trainer.recipe_sections import ModelSettings
    from trainer.training_process import build_roles

    return build_roles(ModelSettings(roles="lora" if lora else "full"), family)


def _cold_algorithm(folder: Path, *, seed: int, lora: bool, device: str) -> TdmR1:
    """TDM-R1 around the shipped student, its surrogate still the teacher with an empty head."""
    from trainer.algorithm_recipe import AdamSettings, AlgorithmRecipe, SurrogateSettings
    from trainer.algorithms.tdm_r1 import TdmR1

    optimizer = AdamSettings(betas=(0.9, 0.99), weight_decay=0.01)
    recipe = AlgorithmRecipe(surrogate=SurrogateSettings(initial_weights="teacher", optimizer=optimizer))
    family = _family(folder, device)
    try:
        return TdmR1(recipe, family, roles=_roles(family, lora=lora), weights=folder, seed=seed)
    except FileNotFoundError as error:
        raise WeightsMissing(str(error), str(folder), "`rewardmesh world distil`") from error
