"""What each worker process of a local Ray imports first: it keeps a port of Serve's to loopback.

Serve's replicas listen for one another on all interfaces, whatever the address of their node, and there is no setting
for it (`ray.serve._private.replica`: `[::]:0`). Here they listen where the rest of that Ray does. `deploy.ray_head`
names this module in the environment; a test looks at everything that a stack listens on. Why so:
docs/decisions/0018-serve-on-loopback.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray._common import tls_utils

__all__: list[str] = []

_add_port: Callable[[Any, str], int] = tls_utils.add_port_to_grpc_server


def _add_port_on_loopback(server: Any, address: str) -> int:
    return _add_port(server, address.replace("[::]", "127.0.0.1"))


tls_utils.add_port_to_grpc_server = _add_port_on_loopback  # replicas import it from there, later
