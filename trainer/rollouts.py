"""Rollouts: which prompts, which noise, and the pictures that are sent of them.

Every draw follows from (seed, rollout index, place in the rollout): workers share out what one would have drawn, no
random state has to be saved, and a rollout that a killed run had already stored is taken from the store instead of
being made again.
Axis legend: B samples, G group size, K steps, C/H/W latent; pictures [B, H, W, 3] uint8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rewardmesh.wire.tracing import span
from trainer.algorithms.draws import seed_for
from trainer.algorithms.interface import Algorithm, TrajectoryBatch
from trainer.feedback import PictureGroup, PictureSample
from trainer.recipe_sections import PromptSettings
from trainer.rewards import RewardRule
from trainer.trajectory_store import GroupHeader, StoredGroup, TrajectoryStore

__all__ = ["Decode", "Prompt", "Rollout", "RolloutMaker", "clean_predictions", "seed_for"]

Decode = Callable[[Tensor], Tensor | NDArray[np.uint8]]
"""Latents [B, C, H, W] to pictures [B, H, W, 3] uint8."""


class Prompt(Protocol):
    """A prompt of a world."""

    @property
    def prompt(self) -> str: ...

    @property
    def checks(self) -> Mapping[str, Any]: ...

    @property
    def kind(self) -> str: ...


@dataclass
class Rollout:
    """One rollout of this worker, from publishing until it is learnt from."""

    index: int
    policy_version: int
    group_ids: list[str]
    awaited: set[tuple[str, str]] = field(default_factory=set)
    """(group, oracle) pairs that are waited for, without an answer."""
    late: set[tuple[str, str]] = field(default_factory=set)
    """Other pairs without an answer."""
    refused: set[tuple[str, str]] = field(default_factory=set)
    """Pairs that an oracle's full budget turned away."""
    lost: set[tuple[str, str]] = field(default_factory=set)
    """Pairs that the buffer knows nothing of any more."""

    def answered(self, pair: tuple[str, str]) -> bool:
        """Takes note of an answer, of whatever kind; False if it was not waited for here."""
        known = pair in self.awaited or pair in self.late
        self.awaited.discard(pair)
        self.late.discard(pair)
        return known


def clean_predictions(boundaries: Tensor, sigmas: Sequence[float], scored: Sequence[int]) -> Tensor:
    """The clean prediction at each scored boundary, read off a deterministic trajectory without a network.

    Equation: velocity_k = (z_k - z_{k+1}) / (sigma_k - sigma_{k+1})   (E4)
              x0_pred = z_k - sigma_k * velocity_k   (E3); and at the last boundary z_K itself
    Shapes:   boundaries [B, K+1, C, H, W]; sigmas K+1; returns [B, len(scored), C, H, W]
    """
    last = len(sigmas) - 1
    predictions = []
    for k in scored:
        z = boundaries[:, k]
        if k < last:
            velocity = (z - boundaries[:, k + 1]) / (sigmas[k] - sigmas[k + 1])
            z = z - sigmas[k] * velocity
        predictions.append(z)
    return torch.stack(predictions, dim=1)


class RolloutMaker:
    """Makes this worker's share of each rollout."""

    def __init__(  # noqa: PLR0913 - the parts of a rollout
        self,
        algorithm: Algorithm,
        decode: Decode,
        *,
        prompts: Sequence[Prompt],
        settings: PromptSettings,
        rule: RewardRule,
        store: TrajectoryStore,
        run_id: str,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._algorithm = algorithm
        self._decode = decode
        self._settings = settings
        self._rule = rule
        self._store = store
        self._run_id = run_id
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._by_kind: dict[str, list[Prompt]] = {}
        for prompt in prompts:
            self._by_kind.setdefault(prompt.kind, []).append(prompt)
        self._weights = {kind: settings.kind_weights.get(kind, 1.0) for kind in self._by_kind}

    def choose(self, index: int) -> list[Prompt]:
        """Prompts of a rollout, over all workers: kinds by weight, and no prompt twice while others are left."""
        rng = np.random.default_rng([self._seed, 1, index])
        count = self._settings.groups_per_iteration
        kinds = [kind for kind, weight in self._weights.items() if weight > 0]
        edges = np.cumsum([self._weights[kind] for kind in kinds])
        points = (np.arange(count) + rng.random()) / count * edges[-1]
        drawn = [kinds[int(k)] for k in np.searchsorted(edges, points, side="right").clip(max=len(kinds) - 1)]
        orders = {kind: rng.permutation(len(self._by_kind[kind])) for kind in dict.fromkeys(drawn)}
        seen = dict.fromkeys(drawn, 0)
        chosen = []
        for kind in (drawn[int(i)] for i in rng.permutation(count)):
            order = orders[kind]
            chosen.append(self._by_kind[kind][int(order[seen[kind] % len(order)])])
            seen[kind] += 1
        return chosen

    def make(self, index: int, policy_version: int) -> Rollout:
        """Rolls out and stores this worker's groups of a rollout, or finds them stored by a run that was killed."""
        mine = list(enumerate(self.choose(index)))[self._rank :: self._world_size]
        # With another number of workers, other shares in other stores: another group, which must not be mistaken.
        suffix = f"-of{self._world_size}" if self._world_size > 1 else ""
        group_ids = [f"{index:06d}-{position:03d}{suffix}" for position, _ in mine]
        if not all(group_id in self._store for group_id in group_ids):
            self._roll_out(index, policy_version, mine, group_ids)
        rollout = Rollout(index=index, policy_version=policy_version, group_ids=group_ids)
        for group_id in group_ids:
            answered, checks = self._store.rewards(group_id), self._store.header(group_id).checks
            awaited, late = self._rule.awaited(checks, index), self._rule.late(checks, index)
            rollout.awaited.update((group_id, name) for name in awaited if name not in answered)
            rollout.late.update((group_id, name) for name in late if name not in answered)
        return rollout

    def pictures(self, pairs: set[tuple[str, str]]) -> list[PictureGroup]:
        """The pictures of these (group, oracle) pairs, decoded from the store; one entry a group."""
        asked: dict[str, list[str]] = {}
        for group_id, oracle in sorted(pairs):
            asked.setdefault(group_id, []).append(oracle)
        return [self._picture_group(group_id, oracles) for group_id, oracles in asked.items()]

    def sample_ids(self, group_id: str, group_size: int) -> list[list[str]]:
        """Ids of what is sent of a group, [P][G]: one row a scored boundary."""
        return [[f"{group_id}-{i:03d}-b{k}" for i in range(group_size)] for k in self._rule.boundaries]

    def _roll_out(
        self, index: int, policy_version: int, mine: Sequence[tuple[int, Prompt]], group_ids: Sequence[str]
    ) -> None:
        size = self._settings.group_size
        at_once = max(1, self._settings.rollout_batch_size // size)
        for start in range(0, len(mine), at_once):
            part = [prompt for _, prompt in mine[start : start + at_once]]
            seeds = [seed_for(self._seed, 2, index, position) for position, _ in mine[start : start + at_once]]
            rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
            with ExitStack() as spans:
                traces = [
                    spans.enter_context(
                        span("rollout", run_id=self._run_id, group_id=group_id, policy_version=policy_version)
                    )
                    for group_id in group_ids[start : start + at_once]
                ]
                trajectory = self._algorithm.rollout([one.prompt for one in part], size, rngs)
            boundaries = trajectory.boundaries.detach().to("cpu", torch.float16)
            sigmas = tuple(float(sigma) for sigma in trajectory.sigmas.tolist())
            groups = boundaries.reshape(len(part), size, *boundaries.shape[1:]).numpy()
            made = zip(part, group_ids[start : start + at_once], groups, traces, strict=True)
            for prompt, group_id, group, trace in made:
                header = GroupHeader(
                    group_id=group_id,
                    rollout_index=index,
                    policy_version=policy_version,
                    prompt=prompt.prompt,
                    kind=prompt.kind,
                    checks=prompt.checks,
                    sigmas=sigmas,
                    group_size=size,
                    traceparent=trace.traceparent,
                )
                self._store.add_group(StoredGroup(header=header, boundaries=group))

    def _picture_group(self, group_id: str, oracles: Sequence[str]) -> PictureGroup:
        header = self._store.header(group_id)
        boundaries = torch.from_numpy(self._store.boundaries(group_id)).float()
        size, scored = boundaries.shape[0], self._rule.boundaries
        latents = clean_predictions(boundaries, header.sigmas, scored)
        pictures = np.asarray(self._decode(latents.flatten(0, 1)))  # [G * P, H, W, 3]
        pictures = pictures.reshape(size, len(scored), *pictures.shape[1:])
        ids = self.sample_ids(group_id, size)
        awaited = self._rule.awaited(header.checks, header.rollout_index)
        hints: list[float | None] = [None] * size
        if self._rule.wants_hint(oracles, header.rollout_index):
            hints = self._opinions(header.prompt, boundaries)
        return PictureGroup(
            run_id=self._run_id,
            group_id=group_id,
            policy_version=header.policy_version,
            prompt=header.prompt,
            checks=header.checks,
            samples=tuple(
                PictureSample(
                    sample_id=ids[p][i],
                    boundary_index=k,
                    picture=pictures[i, p],
                    hint=hints[i] if k == scored[-1] else None,
                )
                for p, k in enumerate(scored)
                for i in range(size)
            ),
            awaited=tuple(name for name in oracles if name in awaited),
            late=tuple(name for name in oracles if name not in awaited),
            traceparent=header.traceparent,
            reuse_answers_s=self._rule.reuse_answers_s(header.rollout_index),
        )

    def _opinions(self, prompt: str, boundaries: Tensor) -> list[float | None]:
        """What the surrogate thinks of a group's finished pictures; None where that is no number."""
        size = len(boundaries)
        batch = TrajectoryBatch(boundaries, [prompt] * size, torch.zeros(size, dtype=torch.int64))
        return [value if math.isfinite(value) else None for value in self._algorithm.opinions(batch).tolist()]
