"""The network of the value form (E12): the backbone's first blocks look at the picture, a reader holds prompts to it.

The trunk sees the noised latent and no prompt, so that many prompts can be held against one look at a picture: that is
what lets the warm fit learn a prompt's meaning from few pictures.

Axis legend: B samples, M prompts held against each, L text tokens, D width, C/H/W latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.full_copies import FullCopies
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family

__all__ = ["ValueNetwork"]

_READER_LAYERS = 2
_HEAD_WIDTH = 32


class ValueNetwork(nn.Module):
    """V(x_tau, tau, prompt), from a trunk of the teacher's first ``num_blocks`` blocks; 0 everywhere at first."""

    def __init__(self, family: Sd3Family, *, roles: Roles | None = None, num_blocks: int | None = None):
        """``roles``: how the trunk is had, a full copy unless said otherwise; ``num_blocks``: None is three fifths.

        Raises: ValueError if the teacher has fewer.
        """
        super().__init__()
        self._family = family
        width = family.feature_width
        self.trunk = (roles or FullCopies(family)).trunk(num_blocks)
        self.embed_text = nn.Linear(family.text_width, width)
        self.reader = nn.ModuleList(_ReaderLayer(width) for _ in range(_READER_LAYERS))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(family.device)

    def forward(self, x_tau: Tensor, tau: Tensor, tokens: Tensor) -> Tensor:
        """Values, float32.

        Shapes: x_tau [B, C, H, W]; tau [B]; tokens (`Conditioning.tokens`) [B, L, D] or [B, M, L, D];
                returns [B] or [B, M]
        """
        several = tokens if tokens.ndim == 4 else tokens[:, None]
        picture = self._family.trunk_tokens(self.trunk, x_tau, tau)
        with self._family.attention(), self._family.autocast():
            read = self.embed_text(several)
            for layer in self.reader:
                read = layer(read, picture)
        values: Tensor = self.head(self.norm(read.float()).mean(dim=2)).squeeze(-1)
        return values if tokens.ndim == 4 else values[:, 0]


class _ReaderLayer(nn.Module):
    """Text tokens look at the picture's, then at one another within their prompt; pre-norm residual blocks."""

    def __init__(self, width: int):
        super().__init__()
        heads = max(1, width // _HEAD_WIDTH)
        self.norm_text, self.norm_picture = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_mix = nn.LayerNorm(width)
        self.mix = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        """text [B, M, L, D], picture [B, N, D] -> [B, M, L, D]."""
        asked = self.norm_text(text).flatten(1, 2)
        seen = self.norm_picture(picture)
        text = text + torch.unflatten(self.look(asked, seen, seen, need_weights=False)[0], 1, text.shape[1:3])
        prompts = self.norm_mix(text).flatten(0, 1)
        mixed = self.mix(prompts, prompts, prompts, need_weights=False)[0]
        text = text + torch.unflatten(mixed, 0, text.shape[:2])
        out: Tensor = text + self.mlp(text)
        return out
