"""A Ray cluster that was there before us: which one it is, and whether its nodes will reach what we put on it.

Imports Ray when called, not before.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from ipaddress import ip_address

from deploy.settings import Settings, SettingsError

__all__ = ["cluster_address", "node_addresses", "require_reachable"]


def cluster_address() -> str:
    """The connected cluster's own name for itself, however it was asked for."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def node_addresses() -> set[str]:
    """Where the connected cluster's nodes are."""
    import ray

    return {str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]}


def require_reachable(settings: Settings, addresses: AbstractSet[str]) -> None:
    """Raises SettingsError if the cluster's nodes could not call oracles where they would listen."""
    if settings.serve_port == 0:
        raise SettingsError(
            "oracles on a joined cluster need a port that is known beforehand",
            "REWARDMESH_SERVE_PORT",
            "name one that is free on the head node",
        )
    if len(addresses) > 1 and _is_loopback(settings.reachable_host):
        raise SettingsError(
            f"{len(addresses)} nodes cannot call oracles that are reached at {settings.reachable_host}",
            "REWARDMESH_HOST",
            "set it to 0.0.0.0, and REWARDMESH_ADVERTISED_HOST to the head node's address",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
