"""Bookkeeping that every algorithm needs of its networks: optimisers, one descent step, running averages.

Owns no mathematics of diffusion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.algorithm_recipe import AdamSettings

__all__ = ["adam", "descend", "follow", "mean_of", "rms"]


def adam(network: nn.Module, settings: AdamSettings) -> torch.optim.AdamW:
    """AdamW over what of a network is trained."""
    return torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, *, max_grad_norm: float) -> float:
    """One step down a loss, gradients clipped; returns their norm before clipping.

    Raises:
        FloatingPointError: if the loss is not finite; the network is left as it was.
    """
    if not bool(torch.isfinite(loss.detach())):
        raise FloatingPointError(f"the loss is {loss.item()}: lower the learning rate, or look at the rewards")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    return float(norm)


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
