"""Bookkeeping that every algorithm needs of its networks: optimisers, one descent step, running averages.

Owns no mathematics of diffusion.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.algorithm_recipe import AdamSettings
from trainer.coordination import Workers

__all__ = ["adam", "descend", "follow", "mean_of", "mean_square", "restore", "rms"]


def adam(network: nn.Module, settings: AdamSettings) -> torch.optim.AdamW:
    """AdamW over what of a network is trained."""
    return torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes a saved optimiser's moments and not its settings: a learning rate is the recipe's, whatever it was."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def descend(
    losses: Iterable[Tensor], optimizer: torch.optim.Optimizer, *, max_grad_norm: float, workers: Workers
) -> tuple[float, float]:
    """One step down the sum of some losses, averaged over workers, gradients clipped after that.

    Each loss is gone back through before the next is asked for: a generator keeps one graph at a time. Returns the loss
    and its gradients' norm before clipping, both of all workers.

    Raises:
        FloatingPointError: if the loss is not finite, on every worker; the network is left as it was.
    """
    optimizer.zero_grad(set_to_none=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    total = torch.zeros(1, device=parameters[0].device)
    for loss in losses:
        loss.backward()
        total += loss.detach()
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    workers.average([*(parameter.grad for parameter in parameters), total])
    if not bool(torch.isfinite(total)):
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"the loss is {total.item()}: lower the learning rate, or look at the rewards")
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    return float(total), float(norm)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Moves a running average towards a network: average = decay * average + (1 - decay) * network."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def mean_of(values: Tensor) -> float:
    """Mean over everything."""
    return float(values.detach().float().mean())


def rms(values: Tensor) -> float:
    """Root mean square over everything."""
    return float(values.detach().float().square().mean().sqrt())


def mean_square(tensor: Tensor, workers: Workers) -> float:
    """Of all elements, those of the other workers too, however many each has."""
    pooled = torch.stack([tensor.square().sum(), tensor.new_tensor(float(tensor.numel()))])
    workers.average([pooled])
    return float(pooled[0] / pooled[1])
