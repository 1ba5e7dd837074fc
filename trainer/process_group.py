"""The process group of the training workers, as Ray Train makes it; on a loopback Ray it listens on loopback alone.

The store at which torch's workers meet listens on all interfaces, whatever the address that they are told. Where that
is a loopback address it is given a socket that is bound to it, and gloo the interface. Why: docs/decisions/0018.
"""

from __future__ import annotations

import importlib
import os
import socket
from ipaddress import ip_address
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["GroupConfig", "keep_to_loopback"]


class GroupConfig(TorchConfig):
    """Ray Train's configuration, and a step in every worker before the group is made."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(keep_to_loopback)
        super().on_start(worker_group, backend_config)


def keep_to_loopback() -> None:
    """In a worker, before the group is made: its store is the one below. Idempotent."""
    importlib.import_module("torch.distributed.rendezvous").TCPStore = _store  # type: ignore[attr-defined]


def _store(*, host_name: str, port: int, is_master: bool, **more: Any) -> TCPStore:
    """The store of all workers; every one of them asks for it before anything else of its group is made."""
    if _is_loopback(host_name):
        addresses = {name: {one.address for one in found} for name, found in psutil.net_if_addrs().items()}
        os.environ["GLOO_SOCKET_IFNAME"] = next(name for name, found in addresses.items() if host_name in found)
        if is_master:
            family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
            more["master_listen_fd"] = socket.create_server((host_name, port), family=family).detach()
    return TCPStore(host_name=host_name, port=port, is_master=is_master, **more)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
