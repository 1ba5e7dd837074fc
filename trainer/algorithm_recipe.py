"""The algorithm section of a recipe: every setting of TDM-R1, with its bounds.

Plain pydantic, so that the algorithm needs nothing else of ours.

Defaults are those of the value form on the small shapes world; `docs/equations.md` has the equations cited.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationInfo, field_validator, model_validator

__all__ = [
    "AdamSettings",
    "AlgorithmRecipe",
    "FakeScoreSettings",
    "RecipeSection",
    "StudentSettings",
    "SurrogateForm",
    "SurrogateSettings",
    "TauRange",
]

_PREFERENCE_STALENESS: Final = 4
"""Policy versions: what (E9) and (E11) may lie behind where the recipe names no bound."""

SurrogateForm = Literal["group_bradley_terry", "tilt", "value_contrast", "value_regression"]
_PRESENT_GROUPS: Final = ("group_bradley_terry", "tilt")
"""Forms that learn from present groups alone: (E9) contrasts them, (E11) measures them against the fake score."""
Beta = Annotated[FiniteFloat, Field(ge=0, lt=1)]


class RecipeSection(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `yes` and `on` are booleans, and a boolean is an integer to Python: 1 would be silently taken."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class AdamSettings(RecipeSection):
    """AdamW for one network."""

    learning_rate: FiniteFloat = Field(default=3e-4, gt=0, le=0.1)
    """Step size."""
    betas: tuple[Beta, Beta] = (0.0, 0.99)
    """Decay of the first and second moment."""
    weight_decay: FiniteFloat = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay."""
    max_grad_norm: FiniteFloat = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""


class TauRange(RecipeSection):
    """How a noise level tau is drawn, in the unshifted coordinate of (E6): lower + (upper - lower) * u**power.

    u is uniform. A boundary's own sigma is a lower bound as well, always: tau lies above it.
    """

    lower: FiniteFloat = Field(default=0.02, ge=0.0, lt=1)
    """Lowest tau, in the unshifted coordinate."""
    upper: FiniteFloat = Field(default=1.0, gt=0, le=1)
    """Highest tau, in the unshifted coordinate."""
    power: FiniteFloat = Field(default=1.0, gt=0, le=10)
    """1 is uniform; above 1 favours low tau."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must be below upper ({self.upper})")
        return self


class FakeScoreSettings(RecipeSection):
    """The fake score: denoising regression on the student's own samples."""

    optimizer: AdamSettings = AdamSettings(learning_rate=3e-4, betas=(0.0, 0.999))
    """Its optimiser; the learning rate should not be below the student's."""
    target: Literal["clean_prediction", "boundary_score"] = "clean_prediction"
    """The authors' target, or (E8), exact for any boundary law."""
    teacher_weight: FiniteFloat = Field(default=0.02, ge=0)
    """Weight of the squared distance to the teacher's velocity."""
    tau: TauRange = TauRange()
    """Noise levels it is trained at."""
    updates_per_iteration: int = Field(default=1, ge=0, le=1000)
    """Updates in each iteration, beside the free ones done while rewards are awaited."""
    initial_weights: Literal["teacher", "shipped"] = "shipped"
    """What it starts from: the teacher, or the fake score that distillation left beside the student."""


class SurrogateSettings(RecipeSection):
    """The surrogate: a differentiable stand-in for the oracles."""

    form: SurrogateForm = "value_contrast"
    """(E9) or (E11, `tilt`) on the velocity, (E12a) contrast on a scalar value, or (E12b) regression of one."""
    optimizer: AdamSettings = AdamSettings(learning_rate=2e-4, betas=(0.9, 0.999))
    """Its optimiser."""
    updates_per_iteration: int = Field(default=2, ge=0, le=1000)
    """Updates in each iteration."""
    fresh_share: FiniteFloat = Field(default=0.5, gt=0, le=1)
    """Share of a batch that comes from the current rollout; the rest comes from the replay bank. 1 for (E9, E11)."""
    max_staleness: int | None = Field(default=None, ge=0)
    """Oldest trajectories it may learn from, in policy versions; null means the form's own: any for a value, whose
    reward stays true of an old picture, and 4 for (E9) and (E11), which learn from present ones."""
    min_spread: FiniteFloat = Field(default=0.0, ge=0)
    """Groups are left out whose highest and lowest combined reward are not so far apart; those of a value that
    contrasts or a velocity are left out in any case where all are equal."""
    max_late_staleness: int | None = Field(default=None, ge=0)
    """Oldest ones it may learn from by an answer that came late, in policy versions; null means as old as any."""
    late_updates_per_iteration: int = Field(default=2, ge=1, le=1000)
    """Updates an iteration, at most, beside the others, from answers that came late; what is left waits its turn."""
    initial_weights: Literal["teacher", "shipped"] = "shipped"
    """What it starts from: the teacher's backbone, or the warm surrogate that ships beside the student."""
    tau: TauRange = TauRange(lower=0.1, upper=0.9, power=2.0)
    """Noise levels it is trained at: mostly those at which the student asks it."""
    beta: FiniteFloat = Field(default=1.0, gt=0)
    """(E9) sharpness of the preference; far larger (2000 to 5000) with a dynamic reference."""
    reference: Literal["teacher", "surrogate_ema"] = "teacher"
    """(E9, E11) what the surrogate is measured against: the frozen teacher, or an EMA of itself (dynamic)."""
    reference_decay: FiniteFloat = Field(default=0.99, ge=0, lt=1)
    """(E9, E11) decay of the dynamic reference."""
    trust_region_c: FiniteFloat = Field(default=1e-3, gt=0, lt=1)
    """(E9) half width of the trust region around the lagged surrogate."""
    lagged_decay_step: FiniteFloat = Field(default=1e-3, gt=0, le=1)
    """(E9) the lagged copy's EMA decay starts here and grows by as much each step."""
    lagged_decay_max: FiniteFloat = Field(default=0.3, ge=0, lt=1)
    """(E9) where that growth ends."""
    drift_limit: FiniteFloat = Field(default=0.05, gt=0)
    """(E9) mean squared velocity distance to the teacher above which samples already moved far enough stop counting."""
    drift_weight: FiniteFloat = Field(default=1e-3, ge=0)
    """(E9) weight of that distance in the loss."""
    value_blocks: int | None = Field(default=None, ge=1)
    """(E12) the value reads what the backbone's first so many blocks see; null: three fifths of them."""
    value_square_weight: FiniteFloat = Field(default=1e-3, ge=0)
    """(E12a) weight of the mean square of the values."""
    advantage_std: Literal["group", "global"] = "group"
    """Whose standard deviation an advantage is divided by: its group's, or that of the whole batch."""
    advantage_clip: FiniteFloat = Field(default=5.0, gt=0)
    """Advantages are clipped to plus or minus this."""

    @property
    def staleness_bound(self) -> int | None:
        """`max_staleness`, or the form's own; None is no bound."""
        if self.max_staleness is None and self.form in _PRESENT_GROUPS:
            return _PREFERENCE_STALENESS
        return self.max_staleness

    @property
    def late_bound(self) -> int | None:
        """The same for answers that came late."""
        bounds = [bound for bound in (self.staleness_bound, self.max_late_staleness) if bound is not None]
        return min(bounds, default=None)


class StudentSettings(RecipeSection):
    """The student: matching, guidance and the learned reward, each a direction in clean-prediction space."""

    optimizer: AdamSettings = AdamSettings(learning_rate=3e-4, betas=(0.0, 0.99))
    """Its optimiser."""
    updates_per_iteration: int = Field(default=1, ge=0, le=1000)
    """Updates in each iteration."""
    boundaries_per_update: int = Field(default=2, ge=1, le=64)
    """How many of the K steps, drawn at random, one update takes."""
    reward_steps: int | None = Field(default=None, ge=0)
    """Steps, from the first, that get the learned reward; the rest get matching and guidance alone. null: all K."""
    tau: TauRange = TauRange()
    """Noise levels of the matching and guidance terms."""
    reward_tau: TauRange = TauRange(lower=0.3, upper=0.9, power=2.0)
    """Noise levels of the learned reward term."""
    guidance_scale: FiniteFloat = Field(default=2.5, ge=0, le=100)
    """Factor of (conditional - unconditional) in the guidance term; 3.5 in the publication."""
    guidance_weight: FiniteFloat = Field(default=0.7, ge=0, le=1)
    """m: weight of the guidance term; the learned reward weighs 1 - m."""
    rl_cfg: FiniteFloat = Field(default=2.5, ge=1, le=100)
    """(E9, E11) guidance scale of the surrogate in the learned reward's direction."""
    reward_scale: FiniteFloat = Field(default=0.33, ge=0, le=100)
    """Root mean square of the value form's direction, in units of the latents' standard deviation."""
    reward_clip: FiniteFloat = Field(default=2.0, gt=0)
    """Each sample's direction is clipped to this many times the running root mean square."""
    reward_weighting: Literal["even", "shortfall"] = "even"
    """Whose learned reward weighs how much. shortfall: each sample's by what its own reward lacks of the highest (E10),
    on the scale on which the running mean square of that is 1: the pull over all samples keeps its size.

    So nothing pulls at a picture that passes but matching and guidance. Needs oracles normalised to their range."""
    ema_decay: FiniteFloat = Field(default=0.95, ge=0, lt=1)
    """Decay of the copy that is evaluated and exported."""
    initial_weights: Literal["teacher", "shipped"] = "shipped"
    """What it starts from: the teacher, or the few-step student that distillation left beside it."""


class AlgorithmRecipe(RecipeSection):
    """All settings of TDM-R1."""

    name: Literal["tdm_r1"] = "tdm_r1"
    """Which algorithm."""
    surrogate: SurrogateSettings = SurrogateSettings()
    """The surrogate reward."""
    fake_score: FakeScoreSettings = FakeScoreSettings()
    """The fake score."""
    student: StudentSettings = StudentSettings()
    """The student."""
    batch_size: int = Field(default=96, ge=1, le=65536)
    """Samples in an update, on each worker; rounded down to whole groups."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Samples whose gradients are computed at once, whole groups, one at least; their sum is the batch's. null: all.

    (E9)'s brake on drift looks at the mean of so many samples, on each worker."""
    gradient_checkpointing: bool = False
    """Keep no activations within a block and compute them again for the gradient: less memory, a third more work."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the networks' forwards (autocast); differences of denoising errors are always float32.

    auto: bfloat16 where the device multiplies in it by itself, float32 elsewhere."""

    @model_validator(mode="after")
    def _form_has_what_it_needs(self) -> Self:
        form = self.surrogate.form
        if form in _PRESENT_GROUPS and self.surrogate.fresh_share != 1:
            raise ValueError(f"surrogate.form {form} learns from present groups only: set surrogate.fresh_share to 1")
        if form == "tilt" and self.fake_score.target != "boundary_score":
            raise ValueError(
                "surrogate.form tilt needs a fake score that is the mean of (E8): set fake_score.target to "
                "boundary_score"
            )
        return self
