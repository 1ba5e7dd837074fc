"""Roles as full copies of the backbone: as many times its memory, and all of it learns. For small models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from trainer.models.sd3 import Sd3Family

__all__ = ["FullCopies"]


class FullCopies:
    """See `trainer.models.roles`."""

    def __init__(self, family: Sd3Family):
        self._family = family

    def new(self, folder: Path | None = None) -> nn.Module:
        network: nn.Module = self._family.new_transformer(folder)
        return network

    def follower(self, network: nn.Module) -> nn.Module:
        return copy.deepcopy(network).eval().requires_grad_(False)

    def trunk(self, num_blocks: int | None) -> nn.Module:
        network: nn.Module = self._family.new_trunk(num_blocks)
        return network

    def shipped(self, weights: Path) -> Path:
        return weights

    def export(self, folder: Path, network: nn.Module, *, num_steps: int, **facts: Any) -> None:
        """A whole pipeline: `StableDiffusion3Pipeline.from_pretrained(folder)`."""
        self._family.export(folder, network, num_steps=num_steps, **facts)
