"""The recipe: what an experiment is. Frozen models with bounds; where it runs is environment, not recipe.

Every key has a docstring. `trainer.recipe` reads YAML into these and turns faults into one line each.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from rewardmesh.wire.oracle_use import OracleUse
from trainer.algorithm_recipe import AlgorithmRecipe, RecipeSection

__all__ = [
    "EvaluationSettings",
    "FeedbackSettings",
    "LoraSettings",
    "ModelSettings",
    "PromptSettings",
    "Recipe",
    "RunSettings",
    "StoreSettings",
]

MIB = 1024 * 1024


class LoraSettings(RecipeSection):
    """Adapters on the frozen backbone, one a role."""

    rank: int = Field(default=32, ge=1, le=4096)
    """Width of an adapter's matrices."""
    alpha: int = Field(default=64, ge=1)
    """An adapter's output is multiplied by alpha / rank."""
    targets: tuple[str, ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        min_length=1,
    )
    """Names of the layers of a block that get one."""


class ModelSettings(RecipeSection):
    """Which pretrained networks are post-trained."""

    family: Literal["sd3"] = "sd3"
    """Model family: a StableDiffusion3 pipeline folder."""
    folder: str = "shapes"
    """A folder of pipeline components, or `shapes` for the weights that ship with the embedded world."""
    roles: Literal["full", "lora"] = "full"
    """How student, fake score and surrogate are had: full copies of the teacher, or LoRA adapters on it."""
    lora: LoraSettings = LoraSettings()
    """Of the adapters, where roles are `lora`."""


class PromptSettings(RecipeSection):
    """Which prompts are rolled out, and how many at once."""

    world: Literal["shapes"] = "shapes"
    """Where prompts and their checks come from."""
    kinds: tuple[str, ...] | None = None
    """Kinds of prompts to train on; null means every kind of the world."""
    kind_weights: dict[str, FiniteFloat] = Field(default_factory=dict)
    """How often a kind is drawn, relative to 1; 0 leaves it out."""
    groups_per_iteration: int = Field(default=12, ge=1, le=4096)
    """Groups (prompts) in one rollout, over all workers."""
    group_size: int = Field(default=12, ge=2, le=256)
    """G: samples of a group. Advantages are over these."""
    rollout_batch_size: int = Field(default=512, ge=1)
    """Samples that the student draws at once, on each worker; whole groups, at least one."""

    @model_validator(mode="after")
    def _weights_are_weights(self) -> Self:
        if any(weight < 0 for weight in self.kind_weights.values()):
            raise ValueError("kind_weights must not be negative")
        return self


class FeedbackSettings(RecipeSection):
    """Which rewards, and how long learning goes on without them."""

    oracles: tuple[OracleUse, ...] = Field(min_length=1)
    """The oracles that the run learns from."""
    join: Literal["sum", "gdpo"] = "sum"
    """How a sample's rewards become one: (E13) each on the scale of its `normalisation`, or (E14) GDPO, each normalised
    within its group whatever its `normalisation`, and their sum over the batch."""
    pictures: Literal["endpoint", "every_boundary", "both"] = "endpoint"
    """What is scored: the finished picture, credited to every boundary; or each boundary's clean prediction too, which
    is credited to it alone; or both, a boundary being credited with the mean of the two."""
    max_inflight: int = Field(default=2, ge=1, le=64)
    """Rollouts that may be out for scoring at once; 1 is strictly synchronous."""
    max_staleness: int = Field(default=4, ge=0, le=10_000)
    """Oldest rollout that the student may learn from, in policy versions; the surrogate has a limit of its own."""
    max_free_updates: int = Field(default=2, ge=0, le=1000)
    """Updates that need no reward (fake score) done at most for each rollout while it is awaited."""
    wait_s: FiniteFloat = Field(default=120.0, gt=0, le=86_400)
    """Longest wait for a rollout's rewards, for oracles whose `on_missing` names none of their own."""
    max_empty_iterations: int = Field(default=3, ge=1, le=1000)
    """Iterations in a row without one rewarded group after which the run ends, with an error that names the oracle."""
    budget_bytes: int = Field(default=64 * MIB, ge=64 * 1024)
    """Picture bytes that may wait for one oracle in the buffer; beyond it, whole groups are refused."""
    max_late_groups: int = Field(default=2000, ge=0)
    """Groups that are still watched for late answers; the oldest are given up first."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [oracle.name for oracle in self.oracles]
        if len(set(names)) != len(names):
            raise ValueError("oracles: each name may stand there once")
        for kind in ("objects", "text"):
            asked = [oracle for oracle in self.oracles if oracle.applies in ("all", kind)]
            if asked and not any(oracle.is_needed for oracle in asked):
                raise ValueError(
                    f"oracles: every reward of a prompt with {kind} may be masked or late, which leaves nothing to "
                    f"learn from: give one of {', '.join(oracle.name for oracle in asked)} an on_missing.then of "
                    "drop_group or abort, or set its `applies` to the other kind"
                )
        if self.max_staleness < self.max_inflight - 1:
            raise ValueError(
                f"max_staleness ({self.max_staleness}) must be at least max_inflight - 1 ({self.max_inflight - 1}): "
                "with that many rollouts out, the last one is that old when its turn comes"
            )
        return self

    def bound_s(self, oracle: OracleUse) -> float:
        """Longest wait of an iteration for this oracle's rewards."""
        own_s = oracle.on_missing.wait_s
        return self.wait_s if own_s is None else own_s


class StoreSettings(RecipeSection):
    """The trajectory store on disk, and the replay bank over it."""

    max_bytes: int = Field(default=2048 * MIB, ge=MIB)
    """Upper bound of the store's files on each worker; the oldest segment goes first, and none that is in flight."""
    segment_bytes: int = Field(default=64 * MIB, ge=64 * 1024)
    """Size at which a new segment file is begun."""
    max_age_s: FiniteFloat = Field(default=7 * 86_400.0, gt=0)
    """Segments last written longer ago than this are removed, but for what is in flight."""
    bank_groups: int = Field(default=2000, ge=0, le=1_000_000)
    """Groups the replay bank draws from: newest in, oldest out."""

    @model_validator(mode="after")
    def _several_segments(self) -> Self:
        if self.segment_bytes * 2 > self.max_bytes:
            raise ValueError("segment_bytes must be at most half of max_bytes, or removing one would empty the store")
        return self


class EvaluationSettings(RecipeSection):
    """Held-out evaluation, before and after."""

    prompts_per_kind: int = Field(default=24, ge=1)
    """Held-out prompts of each kind (all of them where a kind has fewer)."""
    pictures_per_kind: int = Field(default=102, ge=1)
    """Pictures of each kind, spread over its prompts by seed."""
    seed: int = Field(default=20_000, ge=0)
    """First seed; training never draws from these."""
    batch_size: int = Field(default=64, ge=1)
    """Pictures sampled at once."""
    teacher_steps: int = Field(default=40, ge=1, le=1000)
    """Steps of the teacher with guidance: two forwards each, so 40 steps are 80 NFE."""
    teacher_guidance_scale: FiniteFloat = Field(default=4.5, ge=1, le=100)
    """w of (E5) for the teacher."""
    confidence: FiniteFloat = Field(default=0.95, gt=0.5, lt=1)
    """Of the interval of the paired difference."""


class RunSettings(RecipeSection):
    """How long a run goes on, and what it leaves behind."""

    iterations: int = Field(default=50, ge=1, le=10_000_000)
    """Iterations in all, those before a resume included."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Every draw of the run follows from it."""
    time_limit_s: FiniteFloat | None = Field(default=None, gt=0)
    """Training time, that before a resume included, after which the run ends early; null means none."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Iterations from one checkpoint to the next; the last one always gets one."""
    checkpoints_kept: int = Field(default=2, ge=1, le=100)
    """Checkpoints kept; the oldest go first. Two let a damaged one be survived."""
    permute_rewards: bool = False
    """The control: rewards are permuted within each group, so that they say nothing about the pictures."""


class Recipe(RecipeSection):
    """One experiment."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Named in every result."""
    description: str = ""
    """A line for people."""
    model: ModelSettings = ModelSettings()
    """What is trained."""
    algorithm: AlgorithmRecipe = AlgorithmRecipe()
    """How it learns."""
    prompts: PromptSettings = PromptSettings()
    """What it is asked to draw."""
    feedback: FeedbackSettings
    """Who judges."""
    store: StoreSettings = StoreSettings()
    """What is kept of the rollouts."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How it is measured."""
    run: RunSettings = RunSettings()
    """How long, and from which seed."""
    use_gpu: bool = False
    """Train on CUDA devices, one a worker; the code is the same on the CPU."""

    @model_validator(mode="after")
    def _batch_holds_groups(self) -> Self:
        if self.algorithm.batch_size < self.prompts.group_size:
            raise ValueError(
                f"algorithm.batch_size ({self.algorithm.batch_size}) must hold at least one whole group of "
                f"prompts.group_size ({self.prompts.group_size})"
            )
        return self

    @model_validator(mode="after")
    def _shortfall_is_known(self) -> Self:
        if self.algorithm.student.reward_weighting == "shortfall" and self.feedback.join == "gdpo":
            raise ValueError(
                "algorithm.student.reward_weighting shortfall needs to know the highest reward there is, and "
                "feedback.join gdpo knows a group's alone: set one of them otherwise"
            )
        for use in self.feedback.oracles:
            if (refusal := self.refusal(use)) is not None:
                raise ValueError(f"feedback.oracles: {use.name}: {refusal}")
        return self

    def refusal(self, use: OracleUse) -> str | None:
        """Why an oracle's rewards cannot be used so in this recipe; None if they can."""
        if self.algorithm.student.reward_weighting == "shortfall" and use.normalisation != "unit_range":
            return (
                "algorithm.student.reward_weighting shortfall needs to know the highest reward there is: set its "
                f"normalisation to unit_range, not {use.normalisation}"
            )
        return None
