"""The forms of the surrogate that a recipe can name."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.surrogates import Surrogate
from trainer.algorithms.tilt_surrogate import TiltSurrogate
from trainer.algorithms.value_surrogate import ValueSurrogate
from trainer.algorithms.velocity_surrogate import VelocitySurrogate
from trainer.coordination import Workers
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family

__all__ = ["build_surrogate"]


def build_surrogate(
    recipe: AlgorithmRecipe,
    family: Sd3Family,
    *,
    roles: Roles,
    weights: Path | None,
    workers: Workers,
    fake_score: nn.Module,
) -> Surrogate:
    """The surrogate that the recipe names, warm from ``surrogate.safetensors`` of what ships where it says so.

    ``fake_score``: the algorithm's own, which the tilt looks at.
    """
    if recipe.surrogate.form == "group_bradley_terry":
        return VelocitySurrogate(recipe, family, roles=roles, workers=workers)
    if recipe.surrogate.form == "tilt":
        return TiltSurrogate(recipe, family, roles=roles, workers=workers, fake_score=fake_score)
    warm = roles.shipped(weights) / ValueSurrogate.FILE if weights else None
    return ValueSurrogate(
        recipe,
        family,
        roles=roles,
        workers=workers,
        warm=warm if recipe.surrogate.initial_weights == "shipped" else None,
    )
