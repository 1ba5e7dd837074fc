"""The random numbers of one update: each group draws from a source of its own.

A source follows from a key (the seed, the network, which update of it this is) and from the group's number among all
workers' groups, and from nothing else. So neither micro-batches nor other workers change what a group draws, and a run
that is gone on with needs to know how many updates there were, no more.

Axis legend: B samples, G groups here, K steps, C/H/W latent. All draws are made on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.algorithm_recipe import TauRange
from trainer.diffusion.schedule import draw_boundary_steps, draw_tau

__all__ = ["Draws", "Level", "seed_for", "seeded"]

MAX_TAU = 0.999
"""Levels stay just below pure noise, where nothing of a boundary is left and (1 - tau) divides."""


def seed_for(*parts: int) -> int:
    """One 63-bit seed from several numbers, well mixed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Modules made within draw their first weights from these numbers; torch's own source is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(*parts))
        yield


@dataclass(frozen=True)
class Level:
    """What boundaries are diffused with: levels [B] and noise [B, C, H, W]."""

    tau: Tensor
    noise: Tensor

    def __getitem__(self, rows: slice) -> Level:
        return Level(self.tau[rows], self.noise[rows])


class Draws:
    """All draws of one update, always made in the same order."""

    def __init__(self, *key: int, numbers: Sequence[int], sizes: Sequence[int]):
        """`numbers` [G]: each group's among all workers'; `sizes` [G]: its samples here."""
        self._numbers, self._sizes = numbers, sizes
        self._shared = torch.Generator().manual_seed(seed_for(*key, 0))  # the same on all workers
        self._own = [torch.Generator().manual_seed(seed_for(*key, 1 + number)) for number in numbers]

    def steps(self, num_steps: int) -> Tensor:
        """[G] int64: a step k -> k+1 each, all as likely."""
        return torch.cat([torch.randint(num_steps, (1,), generator=rng) for rng in self._own])

    def cleaner_steps(self, num_steps: int) -> Tensor:
        """[G] int64: the same, the later the likelier, as `draw_boundary_steps` has it (E9)."""
        return torch.cat([draw_boundary_steps(1, num_steps, rng=rng) for rng in self._own])

    def few_steps(self, num_steps: int, *, few: int) -> Tensor:
        """[G] int64: the same out of `few` that all groups of all workers share evenly."""
        few = min(few, num_steps)
        chosen = torch.randperm(num_steps, generator=self._shared)[:few]
        return chosen[(torch.tensor(self._numbers) + torch.randint(few, (1,), generator=self._shared)) % few]

    def level(
        self, sigma: Tensor, settings: TauRange, *, shift: float, shape: Sequence[int], shared: bool = False
    ) -> Level:
        """Levels above each boundary's own sigma [B], and noise of the latents' shape; one draw a group if `shared`."""
        taus, noises = [], []
        for rng, own in zip(self._own, sigma.cpu().split(list(self._sizes)), strict=True):
            taus.append(
                draw_tau(
                    own,
                    shift=shift,
                    rng=rng,
                    lower_u=settings.lower,
                    upper_u=settings.upper,
                    power=settings.power,
                    group_index=torch.zeros(len(own), dtype=torch.int64) if shared else None,
                )
            )
            noise = torch.randn(1 if shared else len(own), *shape, generator=rng)
            noises.append(noise.expand(len(own), *shape))
        return Level(torch.cat(taus).clamp(max=MAX_TAU).to(sigma.device), torch.cat(noises).to(sigma.device))
