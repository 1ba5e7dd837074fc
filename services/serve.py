"""The oracles on Ray Serve: each its own application, its own deployment, scaled on its own stream's backlog.

    for one in oracle_applications(OraclesSettings(redis_url=url)):
        serve.run(one.application, name=one.name, route_prefix=one.route_prefix)

An oracle then answers the protocol under `/oracles/<name>/v1/…`, to those who have the token. Replicas are plain
oracles in the app of `rewardmesh.kit.app`; nothing here is asked how to score.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig

from rewardmesh.kit.app import AppLimits, build_app
from rewardmesh.wire.buffer import redact
from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.telemetry import configure_logging
from rewardmesh.wire.tracing import configure_tracing
from services.catalogue import ORACLES, make_oracle
from services.oracle_scale import OracleScale

__all__ = ["OracleApplication", "OracleScale", "OraclesSettings", "oracle_applications"]

_POLICY = "services.autoscaling:StreamLagPolicy"
_STUCK_AFTER_S = 300.0  # a replica that scores one batch for so long is replaced


class OraclesSettings(BaseModel):
    """Which oracles are served, and how large each may grow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis_url: str | None = None
    """The buffer whose backlog oracles scale on; None leaves it to REDIS_URL on the head node."""
    oracles: dict[str, OracleScale] = Field(default_factory=lambda: {name: OracleScale() for name in ORACLES})
    token: SecretStr | None = None
    """The bearer token that every route but health asks for; None asks for none."""


@dataclasses.dataclass(frozen=True)
class OracleApplication:
    """A Serve application and where it answers."""

    name: str
    application: Application
    route_prefix: str


def oracle_applications(settings: OraclesSettings | None = None) -> list[OracleApplication]:
    """One Serve application an oracle. Deploys nothing. Raises: RecipeError for an oracle that does not exist."""
    at = settings or OraclesSettings()
    built = []
    for name, scale in at.oracles.items():
        if name not in ORACLES:
            raise RecipeError("no such oracle", name, f"choose among {', '.join(ORACLES)}")
        token = None if at.token is None else at.token.get_secret_value()
        num_threads = max(1, int(scale.num_cpus))
        application = _deployment(name, scale, at.redis_url).bind(name, scale.oracle_options, num_threads, token)
        built.append(OracleApplication(name=name, application=application, route_prefix=f"/oracles/{name}"))
    return built


@serve.ingress()
class _OracleReplica:
    """One replica: the oracle, made here so that weights are loaded once, and its app."""

    def __init__(self, name: str, options: dict[str, Any], num_threads: int, token: str | None) -> None:
        import torch  # noqa: PLC0415 - the driver, which only describes deployments, needs no torch

        configure_logging()
        configure_tracing(name)
        torch.set_num_threads(num_threads)
        self._app = build_app(make_oracle(name, options), limits=AppLimits(), token=token)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Serve replaces a replica whose health check raises."""
        busy_s: float = self._app.state.busy_s()
        if busy_s > _STUCK_AFTER_S:
            raise RuntimeError(f"one batch has been scored for {busy_s:.0f} s")


def _deployment(name: str, scale: OracleScale, redis_url: str | None) -> serve.Deployment:
    grows = scale.max_replicas > scale.min_replicas
    size: dict[str, Any] = (
        {"autoscaling_config": _autoscaling(name, scale, redis_url)} if grows else {"num_replicas": scale.min_replicas}
    )
    return serve.deployment(
        name=name,
        ray_actor_options=scale.actor_options,
        max_ongoing_requests=scale.max_ongoing_requests,
        max_queued_requests=4 * scale.max_ongoing_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_timeout_s=60.0,
        graceful_shutdown_timeout_s=10.0,
        **size,
    )(_OracleReplica)


def _autoscaling(name: str, scale: OracleScale, redis_url: str | None) -> AutoscalingConfig:
    known = redis_url if redis_url and redact(redis_url) == redis_url else None  # the dashboard shows it
    return AutoscalingConfig(
        min_replicas=scale.min_replicas,
        max_replicas=scale.max_replicas,
        upscale_delay_s=scale.upscale_delay_s,
        downscale_delay_s=scale.downscale_delay_s,
        policy=AutoscalingPolicy(
            policy_function=_POLICY,
            policy_kwargs={"oracle": name, "samples_per_replica": scale.samples_per_replica, "redis_url": known},
        ),
    )
