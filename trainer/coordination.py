"""How several training workers act as one: rank 0 decides, all of them do it.

Workers that each acted on what they see would wait for one another for ever; so, at every fork, what each rank sees is
gathered, rank 0 makes the plan, and everybody is told. Messages are JSON in tensors. An algorithm averages its
gradients over the workers before it clips them and steps, so parameters stay equal on all ranks. One worker alone talks
to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Coordinator", "Solo", "TorchCoordinator", "Workers"]

View = Mapping[str, Any]


class Workers(Protocol):
    """A worker's place among those that learn one network together."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Makes each tensor the mean of all workers', in place; all are of one type and on one device.

        Every worker must bring tensors of the same shapes, at the same time.
        """


class Coordinator(Workers, Protocol):
    """The same, and what the loop needs of it."""

    def decide(self, view: View, plan: Callable[[Sequence[View]], dict[str, Any]]) -> dict[str, Any]:
        """What rank 0 makes of everybody's view, on every rank. Views and plans are JSON."""

    def gather(self, view: View) -> list[dict[str, Any]]:
        """Everybody's view, by rank, on every rank."""


class Solo:
    """One worker."""

    rank = 0
    world_size = 1

    def decide(self, view: View, plan: Callable[[Sequence[View]], dict[str, Any]]) -> dict[str, Any]:
        return plan([view])

    def gather(self, view: View) -> list[dict[str, Any]]:
        return [dict(view)]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """They are the mean already."""


class TorchCoordinator:
    """Workers of a torch.distributed process group, which must be initialised."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        # Control messages go over gloo whatever carries gradients: they are host bytes, and must not wait for a GPU.
        self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))

    def decide(self, view: View, plan: Callable[[Sequence[View]], dict[str, Any]]) -> dict[str, Any]:
        views = self.gather(view)
        return self._broadcast(plan(views) if self.rank == 0 else None)

    def gather(self, view: View) -> list[dict[str, Any]]:
        mine = _encode(view)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([mine.numel()]), group=self._group)
        longest = max(int(size.item()) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: mine.numel()] = mine
        gathered = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded, group=self._group)
        return [_decode(part[: int(size.item())]) for part, size in zip(gathered, sizes, strict=True)]

    def average(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat, group=self._group if flat.device.type == "cpu" else None)
        flat /= self.world_size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def _broadcast(self, plan: Mapping[str, Any] | None) -> dict[str, Any]:
        message = _encode(plan) if plan is not None else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([message.numel()])
        dist.broadcast(size, src=0, group=self._group)
        if self.rank != 0:
            message = torch.zeros(int(size.item()), dtype=torch.uint8)
        dist.broadcast(message, src=0, group=self._group)
        return _decode(message)


def _encode(value: Mapping[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value, allow_nan=False).encode()), dtype=torch.uint8)


def _decode(message: Tensor) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(message.numpy().tobytes())
    return decoded
