"""The value form of the surrogate: a scalar (`value_network`), by contrast in a group (E12a) or by regression (E12b).

Axis legend: B samples, M prompts held against each, C/H/W latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.micro_batches import micro_batches
from trainer.algorithms.networks import adam, descend, mean_square
from trainer.algorithms.surrogates import Asked, Renoised, ranking
from trainer.algorithms.value_network import ValueNetwork
from trainer.coordination import Solo, Workers
from trainer.losses.student import RunningRms, value_direction
from trainer.losses.value import pair_weight, value_contrast_loss, value_gradient, value_regression_loss
from trainer.models.roles import Roles
from trainer.models.sd3 import Conditioning, Sd3Family

__all__ = ["ValueSurrogate"]


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
                f"no warm surrogate at {file}: `rewardmesh world fit-surrogate` makes it (--lora, of adapters), or "
                "start from the teacher with --set algorithm.surrogate.initial_weights=teacher"
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
        size = self._rms.take(mean_square(torch.cat(gradients), self._workers))
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
