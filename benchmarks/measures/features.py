"""Distance of pictures to renders of the same prompts, in a space of features that nothing was trained for.

Features are those of two layers of random convolutions, seeded once and for all, as means and deviations over the
picture. Random filters see colour, edges and texture at two scales; they were fitted to no reward, no world and no
network, and are the same on every machine and for every generation of weights. The shipped autoencoder's latents were
the other candidate: what a student draws comes out of that autoencoder, so it cannot see its own faults, and a new one
would make old figures incomparable. A large pretrained network (Inception, as the Fréchet distance has it) knows
photographs, not pictures of 48 pixels, and would have to be fetched.

Axis legend: N, M pictures; D features; P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainer.evaluate import Pictures

__all__ = ["KernelDistance", "features"]

_SEED = 1
_FIRST, _SECOND = 32, 64


def features(pictures: Pictures) -> NDArray[np.float64]:
    """[N, D]: mean and deviation over the picture of each response of both layers."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 64):
            batch = torch.from_numpy(pictures[start : start + 64]).permute(0, 3, 1, 2).float() / 127.5 - 1
            first = functional.relu(functional.conv2d(batch, _bank()[0], padding=2))
            second = functional.relu(functional.conv2d(functional.avg_pool2d(first, 2), _bank()[1], padding=1))
            parts.append(torch.cat([part for layer in (first, second) for part in _moments(layer)], 1))
    return torch.cat(parts).double().numpy()


class KernelDistance:
    """Squared maximum mean discrepancy of pictures to renders, times 1,000: 0 to 2,000, less is nearer.

    Unbiased: pairs of one picture with itself are left out, so renders against other renders have about 0, above or
    below. The kernel is 1 / (1 + squared distance / its median among renders): bounded, so that one odd picture is one
    odd picture. With the cubic kernel that is usual a few of them made the distance.
    """

    def __init__(
        self, pictures: Pictures, prompts: Sequence[int], renders: Pictures, render_prompts: Sequence[int]
    ) -> None:
        """`prompts` and `render_prompts` say of each picture which prompt, 0..P-1, it answers."""
        ours, theirs = features(pictures), features(renders)
        middle, spread = theirs.mean(0), theirs.std(0) + 1e-6
        ours, theirs = (ours - middle) / spread, (theirs - middle) / spread
        num_prompts = max(*prompts, *render_prompts) + 1
        mine, its = _membership(prompts, num_prompts), _membership(render_prompts, num_prompts)
        scale = float(np.median(_squared_distances(theirs, theirs)))
        kernels = [1 / (1 + _squared_distances(one, one) / scale) for one in (ours, theirs)]
        for kernel in kernels:
            np.fill_diagonal(kernel, 0.0)
        self._within = [(mine.T @ kernels[0] @ mine, mine.sum(0)), (its.T @ kernels[1] @ its, its.sum(0))]
        self._between = mine.T @ (1 / (1 + _squared_distances(ours, theirs) / scale)) @ its

    def __call__(self, weights: NDArray[np.float64]) -> float:
        """The distance, x 1,000, when prompt p counts `weights[p]` times, [P]."""
        own = 0.0
        for kernel, counts in self._within:
            pairs = (weights @ counts) ** 2 - np.square(weights) @ counts
            own += weights @ kernel @ weights / pairs
        across = weights @ self._between @ weights / ((weights @ self._within[0][1]) * (weights @ self._within[1][1]))
        return float(1000 * (own - 2 * across))


def _moments(layer: Tensor) -> tuple[Tensor, Tensor]:
    return layer.mean((2, 3)), layer.std((2, 3))


@cache
def _bank() -> tuple[Tensor, Tensor]:
    """Filters [_FIRST, 3, 5, 5] and [_SECOND, _FIRST, 3, 3], each of mean square 1 over what it looks at."""
    rng = torch.Generator().manual_seed(_SEED)
    first, second = torch.randn(_FIRST, 3, 5, 5, generator=rng), torch.randn(_SECOND, _FIRST, 3, 3, generator=rng)
    return first / 75**0.5, second / (9 * _FIRST) ** 0.5


def _squared_distances(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, M]."""
    return np.asarray((np.square(one).sum(1)[:, None] + np.square(other).sum(1) - 2 * one @ other.T).clip(0))


def _membership(prompts: Sequence[int], num_prompts: int) -> NDArray[np.float64]:
    """[N, P], 1 where a picture answers a prompt."""
    return np.asarray(np.eye(num_prompts)[np.asarray(prompts)])
