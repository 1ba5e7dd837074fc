"""Fits the warm surrogate of the shapes world on a bank of the student's own, oracle-scored rollouts.

Owns the bank's collection and the fit; who scores is the caller's. Every picture is scored for many prompts of its
kind, its own among them: what it is wrong for one prompt it is right for another, so that a few pictures teach what a
prompt means. The loss is the value form by contrast (E12a), through the update that post-training makes.

Axis legend: N pictures, M prompts that a picture is scored for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.models.sd3 import Conditioning
from trainer.worlds.resumable import Bar, Schedule, save_atomically
from trainer.worlds.shapes.prompts import PromptSpec, train_prompts
from trainer.worlds.shapes.vocabulary import KINDS

Score = Callable[[Sequence[NDArray[np.uint8]], Sequence[PromptSpec]], Sequence[float]]
"""(N pictures [H, W, 3], N prompts) -> N rewards in [0, 1]; a picture that stands there again is the same object."""

GROUP_SIZE = 12
_OWN_PROMPTS = 3
_PROMPTS_SCORED = 24
_PROMPTS_LEARNT = 8
_MIXED_SHARE = 0.6
"""Share of the groups of a batch in which pictures of three prompts are contrasted: right and wrong lie far apart."""
_SETS_PER_STEP = 8
_HELDOUT = 64
_COLD_RATE, _WARM_RATE = 8e-4, 4e-4
"""Highest learning rates: of a surrogate that starts with an empty head, and of one that has been fitted before."""


@dataclass(frozen=True)
class ScoredGroups:
    """Three groups of one kind, and what their pictures are worth for each of up to ``_PROMPTS_SCORED`` prompts."""

    prompts: list[str]
    """M, those that the pictures were made for first."""
    boundaries: Tensor
    """[N, K+1, C, H, W] float16, group by group."""
    rewards: Tensor
    """[N, M] float32."""

    def group(self, index: int) -> tuple[Tensor, Tensor]:
        """One group's boundaries, and its rewards for its own prompt."""
        rows = slice(index * GROUP_SIZE, (index + 1) * GROUP_SIZE)
        return self.boundaries[rows], self.rewards[rows, index]


def collect_bank(work: Path, algorithm: TdmR1, score: Score, *, num_groups: int, seed: int = 0) -> list[ScoredGroups]:
    """Rolls out and scores training prompts, three groups of a kind together; the bank lies in ``work``."""
    file = work / "bank.pt"
    if file.exists():
        return [ScoredGroups(**fields) for fields in torch.load(file, weights_only=True)["bank"]]
    by_kind = {kind: [p for p in train_prompts() if p.kind == kind] for kind in KINDS}
    rng = np.random.default_rng((seed, 77))
    draws = torch.Generator().manual_seed(seed + 77)
    bank: list[ScoredGroups] = []
    with Bar("bank", first=0, total=num_groups // _OWN_PROMPTS) as advance:
        while len(bank) < num_groups // _OWN_PROMPTS:
            known = by_kind[str(rng.choice(KINDS))]
            chosen = rng.choice(len(known), size=min(_PROMPTS_SCORED, len(known)), replace=False)
            specs = [known[int(i)] for i in chosen]
            trajectory = algorithm.rollout([s.prompt for s in specs[:_OWN_PROMPTS]], GROUP_SIZE, draws)
            pictures = list(algorithm.family.decode(trajectory.latents).numpy())
            scored = score([p for p in pictures for _ in specs], specs * len(pictures))
            rewards = torch.tensor(scored, dtype=torch.float32).view(len(pictures), len(specs))
            bank.append(ScoredGroups([s.prompt for s in specs], trajectory.boundaries.half().cpu(), rewards))
            own = [bank[-1].group(i)[1] for i in range(_OWN_PROMPTS)]
            advance({"reward": float(torch.cat(own).mean())})
    save_atomically({"bank": [vars(groups) for groups in bank]}, file)
    return bank


def fit_surrogate(
    work: Path, algorithm: TdmR1, bank: Sequence[ScoredGroups], *, num_steps: int, seed: int = 0, warm: bool = False
) -> float:
    """Trains, or goes on training, the surrogate on all but the last 64 of the bank; returns its ranking of those.

    ``warm``: it has been fitted before, to another student's pictures say, and takes smaller steps.
    The ranking is the share of unequal pairs of a group, for its own prompt, that are ordered rightly: over all
    boundaries, at freshly drawn levels.
    """
    checkpoint = work / "surrogate.pt"
    schedule = Schedule(num_steps=num_steps, learning_rate=_WARM_RATE if warm else _COLD_RATE, warmup_steps=50)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        algorithm.load_state_dict(state["algorithm"])
        first = int(state["step"])
    with Bar("surrogate", first=first, total=num_steps) as advance:
        for step in range(first, num_steps):
            for group in algorithm.surrogate.optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            rng = np.random.default_rng((seed, step))
            chosen = [bank[int(i)] for i in rng.integers(len(bank) - _HELDOUT, size=_SETS_PER_STEP)]
            advance(_step(algorithm, chosen, rng))
            if (step + 1) % 100 == 0 or step + 1 == num_steps:
                save_atomically({"algorithm": algorithm.state_dict(), "step": step + 1}, checkpoint)
    return heldout_ranking(algorithm, bank[-_HELDOUT:])


def heldout_ranking(algorithm: TdmR1, heldout: Sequence[ScoredGroups]) -> float:
    """Mean ranking of single groups by the surrogate as it stands; nothing is learnt from them."""
    rankings = [
        algorithm.surrogate_ranking(_batch([groups.group(i)[0]], [groups.prompts[i]], groups.group(i)[1]))
        for _ in range(4)
        for groups in heldout
        for i in range(_OWN_PROMPTS)
    ]
    return float(np.nanmean(rankings))


def _step(algorithm: TdmR1, chosen: Sequence[ScoredGroups], rng: np.random.Generator) -> dict[str, float]:
    """One update on a set of twelve pictures of each, each held against eight prompts."""
    boundaries, prompts, rewards = [], [], []
    for groups in chosen:
        rows, own = _pictures(rng)
        columns = _columns(groups.rewards[rows], own)
        boundaries.append(groups.boundaries[rows])
        prompts.append([groups.prompts[i] for i in columns])
        rewards.append(groups.rewards[rows][:, columns])
    table = torch.cat(rewards)
    at, _ = algorithm.renoised(_batch(boundaries, [p[0] for p in prompts], table[:, 0]))
    asked = algorithm.family.encode_prompts([prompt for several in prompts for prompt in several])
    by_set = Conditioning(*(t.unflatten(0, (len(chosen), _PROMPTS_LEARNT)) for t in (asked.tokens, asked.pooled)))
    rewards_on_device = table.to(algorithm.family.device)
    several = replace(at, cond=by_set.repeat_interleave(GROUP_SIZE))
    return algorithm.surrogate.step(several, rewards=rewards_on_device, advantages=rewards_on_device)


def _pictures(rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Twelve rows of three groups, all of one or four of each, and the columns of the prompts they were made for."""
    if rng.random() < _MIXED_SHARE:
        four = GROUP_SIZE // _OWN_PROMPTS
        picked = [rng.permutation(GROUP_SIZE)[:four] + group * GROUP_SIZE for group in range(_OWN_PROMPTS)]
        return np.concatenate(picked).tolist(), list(range(_OWN_PROMPTS))
    group = int(rng.integers(_OWN_PROMPTS))
    return list(range(group * GROUP_SIZE, (group + 1) * GROUP_SIZE)), [group]


def _columns(rewards: Tensor, own: Sequence[int]) -> list[int]:
    """The pictures' own prompts, then those for which rewards [N, M] differ most; again from the first if too few."""
    by_spread = rewards.std(dim=0).argsort(descending=True).tolist()
    order = [*own, *(column for column in by_spread if column not in own)]
    return [order[i % len(order)] for i in range(_PROMPTS_LEARNT)]


def _batch(boundaries: Sequence[Tensor], prompts: Sequence[str], rewards: Tensor) -> TrajectoryBatch:
    """Sets of ``GROUP_SIZE`` pictures, as an update takes them."""
    return TrajectoryBatch(
        boundaries=torch.cat(list(boundaries)).float(),
        prompts=[prompt for prompt in prompts for _ in range(GROUP_SIZE)],
        group_index=torch.arange(len(boundaries)).repeat_interleave(GROUP_SIZE),
        rewards=rewards,
        advantages=torch.zeros_like(rewards),
    )
