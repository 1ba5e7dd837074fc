"""The surrogate reward behind one interface: what an update is, and which way it sends the student.

Two families: ``VelocitySurrogate`` is the publication's, group Bradley-Terry on a velocity (E9); ``ValueSurrogate`` is
a scalar value (`value_network`), learnt by contrast in a group (E12a) or by regression (E12b). The recipe says which.

Axis legend: B samples, M prompts held against each, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.micro_batches import micro_batches
from trainer.algorithms.networks import adam, descend, follow, mean_of
from trainer.algorithms.value_network import ValueNetwork
from trainer.coordination import Solo, Workers
from trainer.diffusion.flow import boundary_velocity_target, clean_prediction, guided_velocity
from trainer.losses.denoising import denoising_error
from trainer.losses.group_bradley_terry import GroupBradleyTerry, group_bradley_terry_loss
from trainer.losses.student import RunningRms, value_direction, velocity_reward_direction
from trainer.losses.value import pair_weight, value_contrast_loss, value_gradient, value_regression_loss
from trainer.models.roles import Roles
from trainer.models.sd3 import Conditioning, Sd3Family

__all__ = ["Asked", "Renoised", "Surrogate", "ValueSurrogate", "VelocitySurrogate", "build_surrogate", "ranking"]


@dataclass(frozen=True)
class Renoised:
    """Boundaries diffused further, noise and tau shared by each group, with what is known of them."""

    x_tau: Tensor
    """[B, C, H, W]."""
    tau: Tensor
    """[B]."""
    z_next: Tensor
    """[B, C, H, W]: the boundary itself."""
    noise: Tensor
    """[B, C, H, W]."""
    sigma_next: Tensor
    """[B]: the boundary's own level."""
    weight: Tensor
    """[B]: (k + 1) / K."""
    group_index: Tensor
    """[B] int64."""
    cond: Conditioning

    def __getitem__(self, rows: slice) -> Renoised:
        """Samples of some groups, whole ones, which are counted from 0 again."""
        return Renoised(
            x_tau=self.x_tau[rows],
            tau=self.tau[rows],
            z_next=self.z_next[rows],
            noise=self.noise[rows],
            sigma_next=self.sigma_next[rows],
            weight=self.weight[rows],
            group_index=self.group_index[rows] - self.group_index[rows.start],
            cond=self.cond[rows],
        )


class Asked(NamedTuple):
    """Where the student asks for a direction."""

    x_tau: Tensor
    """[B, C, H, W]."""
    tau: Tensor
    """[B]."""
    cond: Conditioning


class Surrogate(Protocol):
    """A differentiable stand-in for the oracles."""

    optimizer: torch.optim.Optimizer

    def step(self, at: Renoised, *, rewards: Tensor, advantages: Tensor) -> dict[str, float]:
        """One update; rewards and advantages [B]."""

    def opinions(self, at: Renoised) -> Tensor:
        """What it thinks of each sample [B], without gradient; only differences within a group mean anything."""

    def directions(self, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor | None]]:
        """Where reward grows, in clean-prediction space [B, C, H, W], and the normaliser's target if it has its own.

        For each piece of one batch: all of it, on all workers, has one scale.
        """

    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds besides networks and optimiser."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def build_surrogate(
    recipe: AlgorithmRecipe, family: Sd3Family, *, roles: Roles, weights: Path | None, workers: Workers
) -> Surrogate:
    """The surrogate that the recipe names, warm from ``surrogate.safetensors`` of what ships where it says so."""
    if recipe.surrogate.form == "group_bradley_terry":
        return VelocitySurrogate(recipe, family, roles=roles, workers=workers)
    warm = roles.shipped(weights) / ValueSurrogate.FILE if weights else None
    return ValueSurrogate(
        recipe,
        family,
        roles=roles,
        workers=workers,
        warm=warm if recipe.surrogate.initial_weights == "shipped" else None,
    )


class VelocitySurrogate:
    """A velocity whose denoising error, against a reference's, is the implicit reward (E9)."""

    def __init__(self, recipe: AlgorithmRecipe, family: Sd3Family, *, roles: Roles, workers: Workers):
        self._settings, self._student, self._family = recipe.surrogate, recipe.student, family
        self._workers, self._at_most = workers, recipe.micro_batch_size
        self.network = roles.new()
        self.lagged = roles.follower(self.network)
        dynamic = self._settings.reference == "surrogate_ema"
        self.reference = roles.follower(self.network) if dynamic else family.teacher
        self.optimizer: torch.optim.Optimizer = adam(self.network, self._settings.optimizer)
        self._updates = 0

    def step(self, at: Renoised, *, rewards: Tensor, advantages: Tensor) -> dict[str, float]:
        """One update on the groups of the present rollout; the reward itself is not used, only its advantage."""
        settings = self._settings
        results: list[GroupBradleyTerry] = []

        def losses() -> Iterator[Tensor]:
            for rows, share in micro_batches(at.group_index, at_most=self._at_most, workers=self._workers):
                result = self._loss(at[rows], advantages[rows])
                results.append(result._replace(loss=result.loss.detach()))
                yield share * result.loss

        loss, norm = descend(
            losses(), self.optimizer, max_grad_norm=settings.optimizer.max_grad_norm, workers=self._workers
        )
        self._updates += 1
        decay = min(settings.lagged_decay_step * self._updates, settings.lagged_decay_max)
        follow(self.lagged, self.network, decay=decay)
        if self.reference is not self._family.teacher:
            follow(self.reference, self.network, decay=settings.reference_decay)
        opinions = torch.cat([result.implicit_reward for result in results])
        return {
            "surrogate_loss": loss,
            "surrogate_grad_norm": norm,
            "surrogate_ranking": ranking(opinions, rewards, at.group_index),
            "surrogate_drift": mean_of(torch.stack([result.drift for result in results])),
            "surrogate_trust_stopped": mean_of(torch.cat([result.trust_stopped for result in results])),
        }

    def _loss(self, at: Renoised, advantages: Tensor) -> GroupBradleyTerry:
        settings, family = self._settings, self._family
        target = boundary_velocity_target(at.z_next, at.noise, at.sigma_next, at.tau)
        with torch.no_grad():
            teacher = family.velocity(family.teacher, at.x_tau, at.tau, at.cond)
            lagged = family.velocity(self.lagged, at.x_tau, at.tau, at.cond)
            static = self.reference is family.teacher
            reference = teacher if static else family.velocity(self.reference, at.x_tau, at.tau, at.cond)
        return group_bradley_terry_loss(
            family.velocity(self.network, at.x_tau, at.tau, at.cond),
            target=target,
            reference_velocity=reference,
            lagged_velocity=lagged,
            teacher_velocity=teacher,
            advantages=advantages,
            group_index=at.group_index,
            beta=settings.beta,
            weight=at.weight,
            trust_region_c=settings.trust_region_c,
            drift_limit=settings.drift_limit,
            drift_weight=settings.drift_weight,
        )

    @torch.no_grad()
    def opinions(self, at: Renoised) -> Tensor:
        """-(d(surrogate) - d(reference)), the implicit reward."""
        target = boundary_velocity_target(at.z_next, at.noise, at.sigma_next, at.tau)
        own = self._family.velocity(self.network, at.x_tau, at.tau, at.cond)
        reference = self._family.velocity(self.reference, at.x_tau, at.tau, at.cond)
        return denoising_error(reference, target) - denoising_error(own, target)

    @torch.no_grad()
    def directions(self, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor | None]]:
        """x0_surrogate(guidance rl_cfg) - x0_reference(no guidance), and the guided surrogate as the target."""
        return [self._direction(*one) for one in asked]

    def _direction(self, x_tau: Tensor, tau: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        family = self._family
        both = cond.cat(family.unconditional(len(tau)))
        velocities = family.velocity(self.network, x_tau.repeat(2, 1, 1, 1), tau.repeat(2), both)
        conditional, unconditional = velocities.chunk(2)
        guided = guided_velocity(unconditional, conditional, scale=self._student.rl_cfg)
        reference = family.velocity(self.reference, x_tau, tau, cond)
        direction = velocity_reward_direction(surrogate_velocity=guided, reference_velocity=reference, tau=tau)
        return direction, clean_prediction(x_tau, guided, tau)

    def networks(self) -> dict[str, nn.Module]:
        dynamic = {"surrogate_reference": self.reference} if self.reference is not self._family.teacher else {}
        return {"surrogate": self.network, "surrogate_lagged": self.lagged, **dynamic}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._updates = int(state["updates"])


class ValueSurrogate:
    """A scalar value of noised boundaries, whose gradient is the direction (E12)."""

    FILE = "surrogate.safetensors"

    def __init__(
        self,
        recipe: AlgorithmRecipe,
        family: Sd3Family,
        *,
        roles: Roles | None = None,
        workers: Workers | None = None,
        warm: Path | None = None,
    ):
        self._settings, self._student = recipe.surrogate, recipe.student
        self._workers: Workers = workers or Solo()
        self._at_most = recipe.micro_batch_size
        self.network = ValueNetwork(family, roles=roles, num_blocks=self._settings.value_blocks)
        if warm is not None:
            self.load(warm)
        self.optimizer: torch.optim.Optimizer = adam(self.network, self._settings.optimizer)
        self._rms = RunningRms()

    def load(self, file: Path) -> None:
        """Weights written by ``save``.

        Raises:
            FileNotFoundError: if there are none; the message says which command makes them.
            ValueError: if they are another network's.
        """
        if not file.exists():
            raise FileNotFoundError(
                f"no warm surrogate at {file}: `rewardmesh world fit-surrogate` makes it, or start from the teacher "
                "with --set algorithm.surrogate.initial_weights=teacher"
            )
        try:
            self.network.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
        except RuntimeError as error:
            raise ValueError(
                f"the warm surrogate at {file} is of another network than this backbone and value_blocks: "
                "`rewardmesh world fit-surrogate` makes one"
            ) from error

    def save(self, file: Path) -> None:
        """Writes the network in half precision."""
        save_file({name: t.detach().half().contiguous() for name, t in self.network.state_dict().items()}, file)

    def step(self, at: Renoised, *, rewards: Tensor, advantages: Tensor) -> dict[str, float]:  # noqa: ARG002
        """One update, on fresh groups and stored ones alike; the advantage is not used.

        Several prompts may be held against each sample: `at.cond.tokens` [B, M, L, D], then rewards are [B, M].
        """
        pieces = micro_batches(at.group_index, at_most=self._at_most, workers=self._workers)
        pairs = [pair_weight(rewards[rows], at.group_index[rows]) for rows, _ in pieces]
        all_pairs = torch.stack(pairs).sum()
        self._workers.average([all_pairs])
        values: list[Tensor] = []

        def losses() -> Iterator[Tensor]:
            for (rows, share), own_pairs in zip(pieces, pairs, strict=True):
                part = at[rows]
                found = self.network(part.x_tau, part.tau, part.cond.tokens)
                values.append(found.detach())
                pair_share = own_pairs / all_pairs.clamp(min=torch.finfo(torch.float32).tiny)
                yield self._loss(found, rewards[rows], part.group_index, share=share, pair_share=pair_share)

        bound = self._settings.optimizer.max_grad_norm
        loss, norm = descend(losses(), self.optimizer, max_grad_norm=bound, workers=self._workers)
        return {
            "surrogate_loss": loss,
            "surrogate_grad_norm": norm,
            "surrogate_ranking": ranking(torch.cat(values), rewards, at.group_index),
        }

    def _loss(
        self, values: Tensor, rewards: Tensor, group_index: Tensor, *, share: float, pair_share: Tensor
    ) -> Tensor:
        """A piece's part of the loss: the contrast is a mean over pairs, all else one over samples."""
        if self._settings.form == "value_regression":
            return share * value_regression_loss(values, rewards=rewards)  # in unit range: `normalisation: unit_range`
        contrast = value_contrast_loss(values, rewards=rewards, group_index=group_index, square_weight=0.0)
        return pair_share * contrast + share * self._settings.value_square_weight * values.float().square().mean()

    @torch.no_grad()
    def opinions(self, at: Renoised) -> Tensor:
        """The values themselves."""
        values: Tensor = self.network(at.x_tau, at.tau, at.cond.tokens)
        return values

    def directions(self, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor | None]]:
        """The value's gradient, brought to the recipe's size; its normaliser is the guided teacher's."""
        gradients = [self._gradient(*one) for one in asked]
        squares = torch.cat(gradients).square()
        pooled = torch.stack([squares.sum(), squares.new_tensor(float(squares.numel()))])
        self._workers.average([pooled])
        size = self._rms.take(float(pooled[0] / pooled[1]))
        scale, clip = self._student.reward_scale, self._student.reward_clip
        return [(value_direction(one, rms=size, scale=scale, clip=clip), None) for one in gradients]

    def _gradient(self, x_tau: Tensor, tau: Tensor, cond: Conditioning) -> Tensor:
        with torch.enable_grad():
            leaf = x_tau.detach().requires_grad_(True)
            return value_gradient(self.network(leaf, tau, cond.tokens), leaf)

    def networks(self) -> dict[str, nn.Module]:
        return {"surrogate": self.network}

    def state_dict(self) -> dict[str, Any]:
        return {"rms": self._rms.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rms.load_state_dict(state["rms"])


def ranking(opinions: Tensor, rewards: Tensor, group_index: Tensor) -> float:
    """Share of unequal pairs of a group that the surrogate orders as the rewards do; 0.5 is chance, NaN is no pair.

    Opinions and rewards are [B], or [B, M] where several prompts are held against each sample.
    """
    same = (group_index[:, None] == group_index[None, :]).reshape(*[len(group_index)] * 2, *[1] * (rewards.ndim - 1))
    better = (rewards[:, None] > rewards[None, :]) & same
    agreed = (opinions[:, None] > opinions[None, :]) & better
    return float(agreed.sum() / better.sum()) if bool(better.any()) else float("nan")
