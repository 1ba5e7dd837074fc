"""How several training workers act as one: rank 0 decides, all of them do it.

Workers that each acted on what they see would wait for one another for ever; so, at every fork, what each rank sees is
gathered, rank 0 makes the plan, and everybody is told. Messages are JSON in tensors. Gradients are averaged before each
optimiser step, so parameters stay equal on all ranks. One worker alone talks to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Coordinator", "Solo", "TorchCoordinator", "average_gradients_before_steps"]

View = Mapping[str, Any]


class Coordinator(Protocol):
    """A worker's place among the others."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

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

    def _broadcast(self, plan: Mapping[str, Any] | None) -> dict[str, Any]:
        message = _encode(plan) if plan is not None else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([message.numel()])
        dist.broadcast(size, src=0, group=self._group)
        if self.rank != 0:
            message = torch.zeros(int(size.item()), dtype=torch.uint8)
        dist.broadcast(message, src=0, group=self._group)
        return _decode(message)


def average_gradients_before_steps(optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
    """From now on, each optimiser steps with the mean of all ranks' gradients.

    Every rank must take the same steps in the same order. A parameter without a gradient counts as zero.
    """
    for optimizer in optimizers.values():
        optimizer.register_step_pre_hook(_average)


def _average(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001 - torch's signature
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for parameter in parameters:
        count = parameter.numel()
        parameter.grad.copy_(flat[start : start + count].view_as(parameter))
        start += count


def _encode(value: Mapping[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value, allow_nan=False).encode()), dtype=torch.uint8)


def _decode(message: Tensor) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(message.numpy().tobytes())
    return decoded
