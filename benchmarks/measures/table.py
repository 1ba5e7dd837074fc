"""All measures of one network's pictures: what `benchmarks.quality` shows a column of.

Owns which measures there are, with units and direction, and what they are computed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures.bootstrap import Drawn, Mean, Statistic, drawn
from benchmarks.measures.diversity import ATTRIBUTES, Collisions, Entropy, collisions, free_values
from benchmarks.measures.features import KernelDistance
from benchmarks.measures.look import Look, look
from benchmarks.measures.pixels import edge_sharpness, ground_noise, palette_error
from benchmarks.measures.structure import render_distance
from trainer.evaluate import HeldoutPrompt, Pictures

__all__ = ["MEASURES", "Measure", "measure_pictures", "worsened"]


@dataclass(frozen=True)
class Measure:
    """What a row of the table is."""

    name: str
    unit: str
    better: Literal["higher", "lower"]


MEASURES: Final = {
    one.name: one
    for one in (
        Measure("edge_sharpness", "1/pixel", "higher"),
        Measure("palette_error", "RGB of 255", "lower"),
        Measure("ground_noise", "grey levels of 255", "lower"),
        Measure("render_distance", "1 - SSIM", "lower"),
        Measure("kernel_distance", "MMD² x 1000", "lower"),
        Measure("color_entropy", "bits", "higher"),
        Measure("place_entropy", "bits", "higher"),
        Measure("size_entropy", "bits", "higher"),
    )
}
_OF_A_PICTURE: Final[dict[str, Callable[[Look], float | None]]] = {
    "edge_sharpness": edge_sharpness,
    "palette_error": palette_error,
    "ground_noise": ground_noise,
    "render_distance": render_distance,
}


def measure_pictures(
    pictures: Pictures,
    specs: Sequence[HeldoutPrompt],
    *,
    renders: Pictures,
    prompts: Sequence[int],
    weights: NDArray[np.float64],
) -> dict[str, Drawn]:
    """Every measure of pictures [N, H, W, 3] uint8, with its draws.

    `specs` [N] is what each picture answers, `prompts` [N] its number, 0..P-1, `weights` [R, P] the draws; `renders`
    [N, H, W, 3] are of the same prompts, in order.
    Raises: ValueError if a measure finds nothing to measure in any picture.
    """
    looks = [look(picture, spec.checks) for picture, spec in zip(pictures, specs, strict=True)]
    num_prompts = weights.shape[1]
    statistics: dict[str, Statistic] = {
        name: Mean([of_a_picture(one) for one in looks], prompts, num_prompts)
        for name, of_a_picture in _OF_A_PICTURE.items()
    }
    statistics["kernel_distance"] = KernelDistance(pictures, prompts, renders, prompts)
    free = [free_values(one) for one in looks]
    for attribute in ATTRIBUTES:
        by_prompt: dict[int, Collisions] = {}
        for prompt in range(num_prompts):
            of_prompt = [values.get(attribute, []) for values, at in zip(free, prompts, strict=True) if at == prompt]
            by_prompt[prompt] = collisions(of_prompt)
        statistics[f"{attribute}_entropy"] = Entropy(by_prompt, num_prompts)
    return {name: drawn(statistics[name], weights) for name in MEASURES}


def worsened(name: str, difference: Drawn) -> bool:
    """Whether a measure is worse by more than chance: the whole interval of the difference on the worse side."""
    low, high = difference.interval()
    return high < 0 if MEASURES[name].better == "higher" else low > 0
