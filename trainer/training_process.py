"""The parts of one training process, as a recipe names them: networks, decoder, prompts, feedback. Knows no Ray.

`launch` builds them in each worker; a script may do the same and hand them to `Loop` itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import BufferMisconfigured, OracleUnavailable, RecipeError, WeightsMissing
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Stream, StreamSettings
from trainer.algorithms.interface import Algorithm
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.buffer_feedback import BufferFeedback
from trainer.coordination import Workers
from trainer.evaluate import HeldoutPicture, plan_heldout
from trainer.feedback import Feedback
from trainer.models.full_copies import FullCopies
from trainer.models.lora import LoraRoles
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family, native_precision
from trainer.recipe import Recipe
from trainer.recipe_sections import FeedbackSettings, ModelSettings
from trainer.rewards import scored_boundaries
from trainer.rollouts import Decode, Prompt, seed_for
from trainer.worlds.shapes.prompts import PromptSpec, heldout_prompts, train_prompts
from trainer.worlds.shapes.weights_folder import WEIGHTS

__all__ = [
    "Parts",
    "build_algorithm",
    "build_parts",
    "build_roles",
    "heldout_plan",
    "initial_student",
    "load_family",
    "model_folder",
    "open_buffer_feedback",
    "shipped_student",
    "stream_settings",
    "training_prompts",
    "with_absolute_folder",
]


Known = Mapping[str, OracleEndpoint]
"""The registered oracles, by name."""


@dataclass(frozen=True)
class Parts:
    """What a loop drives."""

    algorithm: Algorithm
    decode: Decode
    prompts: Sequence[Prompt]
    feedback: Feedback


def build_parts(
    recipe: Recipe, *, run_id: str, device: torch.device, workers: Workers, buffer_url: str | None
) -> Parts:
    """Everything that the recipe names; the buffer last, once all else is known to be there.

    Raises: WeightsMissing, RecipeError, and what `open_buffer_feedback` raises.
    """
    prompts = training_prompts(recipe)
    family = load_family(recipe, device=device)
    algorithm = build_algorithm(recipe, family, workers=workers)
    if buffer_url is None:
        raise BufferMisconfigured("no buffer to send pictures to", "REDIS_URL", "set it, or use `rewardmesh train`")
    group_pictures = recipe.prompts.group_size * len(scored_boundaries(recipe.feedback.pictures, algorithm.num_steps))
    feedback = open_buffer_feedback(
        recipe.feedback,
        run_id=run_id,
        url=buffer_url,
        group_pictures=group_pictures,
        stream_settings=stream_settings(recipe),
    )
    return Parts(algorithm, partial(_decode, family), prompts, feedback)


def model_folder(recipe: Recipe) -> Path:
    """Where the recipe's pipeline lies: the shipped world's, or the folder that is named."""
    return WEIGHTS if recipe.model.folder == "shapes" else Path(recipe.model.folder).expanduser()


def with_absolute_folder(recipe: Recipe) -> Recipe:
    """The same recipe, its model folder as seen from here; the name of a shipped one stays."""
    if recipe.model.folder == "shapes":
        return recipe
    folder = str(Path(recipe.model.folder).expanduser().absolute())
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"folder": folder})})


def load_family(recipe: Recipe, *, device: torch.device) -> Sd3Family:
    """The pretrained pipeline. Raises WeightsMissing if there is none in the folder."""
    asked = recipe.algorithm.precision
    precision = native_precision(device) if asked == "auto" else getattr(torch, asked)
    try:
        return Sd3Family.load(
            model_folder(recipe),
            device=device,
            precision=precision,
            gradient_checkpointing=recipe.algorithm.gradient_checkpointing,
        )
    except FileNotFoundError as error:
        raise WeightsMissing(str(error), recipe.model.folder, "see `rewardmesh doctor`") from error


def build_roles(settings: ModelSettings, family: Sd3Family) -> Roles:
    """How a recipe has its networks."""
    if settings.roles == "full":
        return FullCopies(family)
    lora = settings.lora
    return LoraRoles(family, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)


def initial_student(recipe: Recipe, roles: Roles) -> nn.Module:
    """The student that a run of the recipe begins with. Raises WeightsMissing."""
    shipped = recipe.algorithm.student.initial_weights == "shipped"
    return shipped_student(recipe, roles, "student") if shipped else roles.new()


def shipped_student(recipe: Recipe, roles: Roles, name: str) -> nn.Module:
    """A student that ships: `student`, of TDM, or `tdm_r1`. Raises WeightsMissing."""
    folder = roles.shipped(model_folder(recipe)) / name
    try:
        return roles.new(folder)
    except OSError as error:
        raise WeightsMissing(str(error), str(folder), "see `rewardmesh doctor`") from error


def build_algorithm(recipe: Recipe, family: Sd3Family, *, workers: Workers) -> TdmR1:
    """The algorithm with the networks that it starts from, the same on all workers. Raises WeightsMissing."""
    folder = model_folder(recipe)
    try:
        return TdmR1(
            recipe.algorithm,
            family,
            roles=build_roles(recipe.model, family),
            weights=folder,
            seed=seed_for(recipe.run.seed, 5),
            workers=workers,
        )
    except FileNotFoundError as error:
        raise WeightsMissing(str(error), str(folder), "see `rewardmesh doctor`") from error


def _decode(family: Sd3Family, latents: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] uint8 on the CPU of latents [B, C, H, W] on any device."""
    return family.decode(latents.to(family.device))


def training_prompts(recipe: Recipe) -> list[PromptSpec]:
    """Training prompts of the kinds that the recipe names. Raises RecipeError for a kind that there is not."""
    prompts = train_prompts()
    known = list(dict.fromkeys(spec.kind for spec in prompts))
    settings = recipe.prompts
    unknown = sorted({*(settings.kinds or ()), *settings.kind_weights} - set(known))
    if unknown:
        raise RecipeError(
            f"no such kind of prompt: {', '.join(unknown)}", "prompts.kinds", f"known are {', '.join(known)}"
        )
    chosen = [spec for spec in prompts if settings.kinds is None or spec.kind in settings.kinds]
    if not any(settings.kind_weights.get(spec.kind, 1.0) > 0 for spec in chosen):
        raise RecipeError("no kind of prompt is left", "prompts.kind_weights", "give one a weight above 0")
    return chosen


def heldout_plan(recipe: Recipe) -> list[HeldoutPicture]:
    """The held-out pictures that runs of this recipe are judged by."""
    settings = recipe.evaluation
    return plan_heldout(
        heldout_prompts(),
        prompts_per_kind=settings.prompts_per_kind,
        pictures_per_kind=settings.pictures_per_kind,
        seed=settings.seed,
    )


def stream_settings(recipe: Recipe) -> StreamSettings:
    """Bounds of the run's stream, as its recipe implies them.

    A group is known for as long as the trajectory store could hold it, since a late oracle may answer it: the recipe's,
    or one that joins while the run trains. What is too old for everybody who learns is not asked about any more.
    """
    settings = StreamSettings(budget_bytes=recipe.feedback.budget_bytes)
    settings = replace(settings, group_ttl_s=max(settings.group_ttl_s, recipe.store.max_age_s))
    late_bound = recipe.algorithm.surrogate.late_bound
    if late_bound is None:
        return settings
    return replace(settings, max_staleness=max(late_bound, recipe.feedback.max_staleness))


def open_buffer_feedback(
    settings: FeedbackSettings,
    *,
    run_id: str,
    url: str,
    group_pictures: int,
    stream_settings: StreamSettings | None = None,
) -> BufferFeedback:
    """Feedback through the server at `url`; the run is alive in its registry from then on.

    Closing it says that the run needs no more work, unless a late oracle may still owe answers: the recipe's, or one
    that was added since. Then workers go on with the run after the trainer has left.

    Raises: BufferUnavailable, BufferMisconfigured; OracleUnavailable if an oracle that may not be masked is not
    registered there; RecipeError if one judges whole groups and takes fewer than `group_pictures`.
    """
    names = [oracle.name for oracle in settings.oracles]
    has_late = any(oracle.is_late for oracle in settings.oracles)
    require = partial(_require_usable, settings=settings, group_pictures=group_pictures)
    bounds = stream_settings or StreamSettings(budget_bytes=settings.budget_bytes)

    def ends() -> bool:
        return not (has_late or feedback.asked_late)

    opener = partial(_open_stream, url, run_id, bounds, require, ends=ends)
    feedback = BufferFeedback(opener, oracles=names, registered=partial(_registered, url))
    return feedback


async def _registered(url: str) -> set[str]:
    """Names of the oracles in the registry now. Raises BufferUnavailable."""
    client = await connect(url)
    try:
        return {endpoint.name for endpoint in await Registry(client).oracles()}
    finally:
        await client.aclose()


@asynccontextmanager
async def _open_stream(
    url: str, run_id: str, settings: StreamSettings, require: Callable[[Known], None], *, ends: Callable[[], bool]
) -> AsyncIterator[Stream]:
    """`ends`: whether closing in good order says that the run needs no more work."""
    client = await connect(url)
    try:
        registry = Registry(client)
        require({endpoint.name: endpoint for endpoint in await registry.oracles()})
        await registry.put_run(run_id)
        yield open_redis_stream(client, run_id, settings=settings)
        if ends():
            await registry.end_run(run_id)
    finally:
        await client.aclose()


def _require_usable(known: Known, *, settings: FeedbackSettings, group_pictures: int) -> None:
    """Raises OracleUnavailable for an oracle that is not there, RecipeError for groups that one could never judge."""
    missing = [use.name for use in settings.oracles if use.is_needed and use.name not in known]
    if missing:
        raise OracleUnavailable(
            "an oracle that the recipe needs is not registered",
            ", ".join(missing),
            f"register it, or start it with `rewardmesh up`; registered are {', '.join(known) or 'none'}",
        )
    for endpoint in (known[use.name] for use in settings.oracles if use.name in known):
        if endpoint.granularity == "group" and group_pictures > endpoint.max_batch:
            what = f"it judges groups of at most {endpoint.max_batch} pictures, the recipe's have {group_pictures}"
            advice = "lower prompts.group_size, set feedback.pictures to endpoint, or raise the oracle's max_batch"
            raise RecipeError(what, endpoint.name, advice)
