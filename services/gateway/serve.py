"""The gateway as a Ray Serve application, under `/gateway`. It listens where the stack's other HTTP services do.

    serve.run(gateway_application(GatewaySettings(redis_url=url)), name="gateway", route_prefix="/gateway")

Replicas keep nothing: tokens, rates, registry and groups are in the buffer, so any number of them answers alike.
"""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.telemetry import configure_logging
from rewardmesh.wire.tracing import configure_tracing
from services.gateway.app import build_gateway

__all__ = ["GatewaySettings", "gateway_application"]


class GatewaySettings(BaseModel):
    """Where the buffer is, how many answer, and which networks registered oracles may be in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis_url: str
    replicas: int = Field(default=1, ge=1)
    allowed_networks: str = ""


def gateway_application(settings: GatewaySettings) -> Application:
    """`settings.replicas` gateways. Deploys nothing."""
    deployment = serve.deployment(
        name="gateway",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=64,  # most of them wait for results; bodies are bounded
        max_queued_requests=256,
        health_check_timeout_s=60.0,
        graceful_shutdown_timeout_s=10.0,
    )(_GatewayReplica)
    return deployment.bind(settings.redis_url, settings.allowed_networks)


@serve.ingress()
class _GatewayReplica:
    """One replica: the app, whose connections are made in the replica's own loop."""

    def __init__(self, redis_url: str, allowed_networks: str) -> None:
        configure_logging()
        configure_tracing("gateway")
        self._app = build_gateway(redis_url, OutgoingPolicy.parse(allowed_networks))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app
