"""Ports: finding a free one, and saying who must move when one is taken."""

from __future__ import annotations

import socket

import psutil

from rewardmesh.wire.errors import PortInUse

__all__ = ["free_port", "holder_of", "is_free", "require_port"]


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """True if nobody listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now. Nothing reserves it: use it at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def holder_of(port: int) -> str:
    """`name (process N)` of who listens there, or `another process` if it is not ours to see."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == port:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass
    return "another process"


def require_port(port: int, *, purpose: str, variable: str, host: str = "127.0.0.1") -> int:
    """The port itself, or any free one for 0.

    Raises: PortInUse, which names the purpose, the holder and the variable that moves it.
    """
    if port == 0:
        return free_port(host)
    if not is_free(port, host=host):
        raise PortInUse(
            f"port {port}, for {purpose}, is taken by {holder_of(port)}",
            f"{host}:{port}",
            f"stop that process, or set {variable} to another port (0 takes any free one)",
        )
    return port
