"""Where a worker runs and what bounds it: environment only, prefix `REWARDMESH_WORKER_`.

What an oracle bears (batch, concurrency, deadline, retries) is the registry's business, not the worker's.
"""

from __future__ import annotations

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rewardmesh.wire.networks import AllowedNetworks

__all__ = ["WorkerSettings"]


class WorkerSettings(BaseSettings):
    """All of them have an end: no wait of a worker is longer than what stands here or in the registry."""

    model_config = SettingsConfigDict(env_prefix="REWARDMESH_WORKER_", populate_by_name=True)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379",
        validation_alias=AliasChoices("REWARDMESH_WORKER_REDIS_URL", "REDIS_URL"),
    )
    """The server that carries samples; `REDIS_URL` is read too."""

    replicas: int = Field(default=2, ge=1)
    """Worker replicas of the Ray Serve application. A second one takes over when one dies; more would only overload
    slow oracles, because each replica calls an oracle with that oracle's own concurrency."""

    lease_s: float = Field(default=15.0, gt=0)
    """How long a claimed sample stays with a worker that no longer answers; leases are renewed every third of it."""

    discover_every_s: float = Field(default=1.0, gt=0, le=2.0)
    """How often the registry is read: changes take effect within this time."""

    claim_wait_s: float = Field(default=0.5, gt=0, le=5.0)
    """How long one claim waits for work."""

    drain_s: float = Field(default=20.0, ge=0)
    """At stop: how long calls under way may still finish; what is left then is handed back."""

    connect_timeout_s: float = Field(default=5.0, gt=0)
    """For a connection to an oracle."""

    max_reply_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """A longer answer is refused, unread."""

    answers_bytes: int = Field(default=32 * 1024 * 1024, ge=64 * 1024)
    """Answers kept for each oracle, for runs whose recipe allows to reuse them; the oldest go first."""

    allowed_networks: AllowedNetworks = Field(
        default="",
        validation_alias=AliasChoices("REWARDMESH_WORKER_ALLOWED_NETWORKS", "REWARDMESH_ALLOWED_NETWORKS"),
    )
    """Networks, beside public addresses, in which oracles are called; `REWARDMESH_ALLOWED_NETWORKS` is read too."""

    max_backoff_s: float = Field(default=30.0, gt=0)
    """Ceiling of the backoff between attempts. How long an oracle is left alone is its breaker's, in the registry."""

    buffer_patience_s: float = Field(default=120.0, gt=0)
    """How long the server may be away before the worker gives up and ends with an error."""

    settle_patience_s: float = Field(default=60.0, gt=0)
    """How long an outcome is offered to a server that does not answer; afterwards the lease runs out and the sample is
    asked about again."""
