"""What an algorithm asks of a model: several networks of one backbone, each in a role.

There are two ways to have them, which algorithms do not tell apart: `full_copies` and `lora`. The teacher is the
family's and has no part here.
A network is called as the family's transformer is (`Sd3Family.velocity`); what it calls its parameters and its state is
what is trained of it and saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import nn

__all__ = ["Roles"]


class Roles(Protocol):
    """One way of having several networks of one backbone."""

    def new(self, folder: Path | None = None) -> nn.Module:
        """A network to be trained, equal to the teacher, or to what lies in `folder`.

        Raises: FileNotFoundError if nothing does, ValueError if it does not fit; the message says what to do.
        """

    def follower(self, network: nn.Module) -> nn.Module:
        """One that is not trained and begins as `network`: a running average, say. Their parameters match in order."""

    def trunk(self, num_blocks: int | None) -> nn.Module:
        """To be trained, equal to the teacher's first blocks; None is three fifths. Raises ValueError if too many."""

    def shipped(self, weights: Path) -> Path:
        """Where, in a folder of weights, those of this way lie: `student`, `fake_score`, `surrogate.safetensors`."""

    def export(self, folder: Path, network: nn.Module, *, num_steps: int, **facts: Any) -> None:
        """Writes what plain diffusers loads, and how it is sampled; `new` reads it too."""
