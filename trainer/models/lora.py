"""Roles as LoRA adapters on one frozen backbone: a role costs its two narrow matrices a layer, and no more.

Each role has a transformer of its own around the teacher's own tensors (`Sd3Family.tied_transformer`), with one adapter
in it: no adapter has to be switched on or off, so a graph that is gone back through late, or computed again, always
meets the adapter that it was made with. The teacher is the backbone without any.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.models.sd3 import Sd3Family

__all__ = ["LoraRole", "LoraRoles"]

FILE: Final = "pytorch_lora_weights.safetensors"
"""What plain diffusers looks for in a folder that `load_lora_weights` is given."""
_ADAPTER: Final = "role"
_PREFIX: Final = "transformer."


class LoraRole(nn.Module):
    """A transformer under one adapter; its parameters and its state are the adapter's alone, by diffusers' names."""

    def __init__(self, transformer: SD3Transformer2DModel, config: LoraConfig):
        super().__init__()
        transformer.add_adapter(config, _ADAPTER)
        self._transformer = (transformer,)  # in a tuple, it is no submodule: the backbone is not this role's
        self.adapter = _tree(
            (name.replace(f".{_ADAPTER}.", "."), parameter)
            for name, parameter in transformer.named_parameters()
            if parameter.requires_grad
        )

    @property
    def transformer_blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self._transformer[0].transformer_blocks
        return blocks

    def forward(self, **inputs: Any) -> Any:
        """As the transformer."""
        return self._transformer[0](**inputs)


class LoraRoles:
    """See `trainer.models.roles`.

    Args:
        family: whose teacher is the backbone.
        rank: width of each adapter's matrices.
        alpha: an adapter's output is multiplied by ``alpha / rank``.
        targets: names of the layers that get one, in each block.
    """

    def __init__(self, family: Sd3Family, *, rank: int, alpha: int, targets: Sequence[str]):
        self._family = family
        self._rank, self._alpha, self._targets = rank, alpha, list(targets)

    def new(self, folder: Path | None = None) -> LoraRole:
        role = LoraRole(self._family.tied_transformer(), self._config())
        if folder is not None:
            _load(role, folder / FILE)
        return role

    def follower(self, network: nn.Module) -> LoraRole:
        role = LoraRole(self._family.tied_transformer(), self._config())
        role.load_state_dict(network.state_dict())
        return role.requires_grad_(False)

    def trunk(self, num_blocks: int | None) -> LoraRole:
        return LoraRole(self._family.cut_to_trunk(self._family.tied_transformer(), num_blocks), self._config())

    def shipped(self, weights: Path) -> Path:
        return weights / "lora"

    def export(self, folder: Path, network: nn.Module, *, num_steps: int, **facts: Any) -> None:
        """Adapter weights: `pipeline.load_lora_weights(folder)` on the backbone's pipeline."""
        if not isinstance(network, LoraRole):
            raise TypeError(f"only an adapter can be exported as one, not {type(network).__name__}")
        StableDiffusion3Pipeline.save_lora_weights(
            folder,
            transformer_lora_layers={name: t.cpu().contiguous() for name, t in network.adapter.state_dict().items()},
            transformer_lora_adapter_metadata=self._config().to_dict(),
        )
        self._family.write_sampling(folder, num_steps=num_steps, **facts)

    def _config(self) -> LoraConfig:
        return LoraConfig(r=self._rank, lora_alpha=self._alpha, target_modules=self._targets)


def _load(role: LoraRole, file: Path) -> None:
    if not file.exists():
        raise FileNotFoundError(
            f"no adapter at {file}: `rewardmesh world distil --lora` makes one, or start from the teacher with "
            "--set algorithm.student.initial_weights=teacher, and fake_score and surrogate likewise"
        )
    tensors = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in load_file(file).items()}
    try:
        role.adapter.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the adapter at {file} has another rank or other targets than model.lora says") from error


def _tree(parameters: Iterable[tuple[str, Tensor]]) -> nn.Module:
    """Modules that hold these parameters under their dotted names, and nothing else."""
    root = nn.Module()
    for path, parameter in parameters:
        *folders, name = path.split(".")
        at = root
        for folder in folders:
            if not hasattr(at, folder):
                at.add_module(folder, nn.Module())
            at = getattr(at, folder)
        assert isinstance(parameter, nn.Parameter)
        at.register_parameter(name, parameter)
    return root
