"""Fits the warm surrogate of the shapes world on a bank of the student's own, oracle-scored rollouts.

Owns the bank's collection and the fit; who scores is the caller's. The fit is the value form by contrast (E12a),
through the same update that post-training makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.worlds.resumable import Bar, save_atomically
from trainer.worlds.shapes.prompts import PromptSpec, train_prompts
from trainer.worlds.shapes.vocabulary import KINDS

Score = Callable[[NDArray[np.uint8], Sequence[PromptSpec]], Sequence[float]]
"""(pictures [N, H, W, 3], N prompts) -> N rewards in [0, 1]."""

GROUP_SIZE = 12
_GROUPS_AT_ONCE = 8
_HELDOUT_GROUPS = 64


@dataclass(frozen=True)
class Bank:
    """Scored rollouts: boundaries [N, K+1, C, H, W] float16, rewards [N], one prompt a group of ``GROUP_SIZE``."""

    boundaries: Tensor
    rewards: Tensor
    prompts: list[str]

    @property
    def num_groups(self) -> int:
        return len(self.prompts)

    def batch(self, groups: Sequence[int]) -> TrajectoryBatch:
        """Whole groups, as an update takes them."""
        rows = (torch.tensor(groups)[:, None] * GROUP_SIZE + torch.arange(GROUP_SIZE)).flatten()
        rewards = self.rewards[rows]
        return TrajectoryBatch(
            boundaries=self.boundaries[rows].float(),
            prompts=[self.prompts[g] for g in groups for _ in range(GROUP_SIZE)],
            group_index=torch.arange(len(groups)).repeat_interleave(GROUP_SIZE),
            rewards=rewards,
            advantages=torch.zeros_like(rewards),
        )

    def informative(self, groups: Sequence[int]) -> list[int]:
        """Those of ``groups`` whose rewards are not all equal."""
        by_group = self.rewards.view(-1, GROUP_SIZE)
        return [g for g in groups if by_group[g].max() > by_group[g].min()]


def collect_bank(work: Path, algorithm: TdmR1, score: Score, *, num_groups: int, seed: int = 0) -> Bank:
    """Rolls out and scores groups of training prompts, each kind as likely as the next; the bank lies in ``work``."""
    file = work / "bank.pt"
    if file.exists():
        state = torch.load(file, weights_only=True)
        return Bank(state["boundaries"], state["rewards"], state["prompts"])
    by_kind = [[p for p in train_prompts() if p.kind == kind] for kind in KINDS]
    rng = torch.Generator().manual_seed(seed + 77)
    boundaries: list[Tensor] = []
    rewards: list[float] = []
    prompts: list[str] = []
    with Bar("bank", first=0, total=-(-num_groups // _GROUPS_AT_ONCE)) as advance:
        while len(prompts) < num_groups:
            kinds = torch.randint(len(KINDS), (_GROUPS_AT_ONCE,), generator=rng).tolist()
            specs = [by_kind[k][int(torch.randint(len(by_kind[k]), (1,), generator=rng))] for k in kinds]
            trajectory = algorithm.rollout([s.prompt for s in specs], GROUP_SIZE, rng)
            pictures = algorithm.family.decode(trajectory.latents).numpy()
            scored = score(pictures, [s for s in specs for _ in range(GROUP_SIZE)])
            boundaries.append(trajectory.boundaries.half())
            rewards += scored
            prompts += [s.prompt for s in specs]
            advance({"reward": float(np.mean(scored))})
    bank = Bank(torch.cat(boundaries), torch.tensor(rewards, dtype=torch.float32), prompts)
    save_atomically({"boundaries": bank.boundaries, "rewards": bank.rewards, "prompts": prompts}, file)
    return bank


def fit_surrogate(
    work: Path, algorithm: TdmR1, bank: Bank, *, num_steps: int, groups_per_step: int = 8, seed: int = 0
) -> float:
    """Trains, or goes on training, the surrogate on all but the last 64 groups; returns its ranking of those.

    The ranking is the share of unequal pairs ordered rightly, over all boundaries, at freshly drawn levels.
    """
    checkpoint = work / "surrogate.pt"
    heldout = bank.informative(range(bank.num_groups - _HELDOUT_GROUPS, bank.num_groups))
    usable = bank.informative(range(bank.num_groups - _HELDOUT_GROUPS))
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        algorithm.load_state_dict(state["algorithm"])
        first = int(state["step"])
    with Bar("surrogate", first=first, total=num_steps) as advance:
        for step in range(first, num_steps):
            rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
            chosen = [usable[i] for i in torch.randperm(len(usable), generator=rng)[:groups_per_step].tolist()]
            advance(algorithm.surrogate_step(bank.batch(chosen)))
            if (step + 1) % 50 == 0 or step + 1 == num_steps:
                save_atomically({"algorithm": algorithm.state_dict(), "step": step + 1}, checkpoint)
    return heldout_ranking(algorithm, bank, heldout)


def heldout_ranking(algorithm: TdmR1, bank: Bank, groups: Sequence[int], *, rounds: int = 4) -> float:
    """Mean ranking of ``groups`` by the surrogate as it stands; nothing is learnt from them."""
    rankings = [
        algorithm.surrogate_ranking(bank.batch(groups[start : start + 8]))
        for _ in range(rounds)
        for start in range(0, len(groups), 8)
    ]
    return float(np.nanmean(rankings))
