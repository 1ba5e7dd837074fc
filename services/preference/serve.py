"""The preference service as a Ray Serve application, under `/preference`, where the stack's other HTTP services listen.

    serve.run(preference_application(settings), name="preference", route_prefix="/preference")

One replica: one settling task is enough, and raters are few beside what it bears. It keeps nothing, so another takes
over where it ended.
"""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from rewardmesh.wire.telemetry import configure_logging
from rewardmesh.wire.tracing import configure_tracing
from services.preference.service import build_service
from services.preference.settings import PreferenceSettings

__all__ = ["preference_application"]


def preference_application(settings: PreferenceSettings) -> Application:
    """The service. Deploys nothing."""
    deployment = serve.deployment(
        name="preference",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=128,
        max_queued_requests=512,
        health_check_timeout_s=60.0,
        graceful_shutdown_timeout_s=10.0,
    )(_PreferenceReplica)
    return deployment.bind(settings)


@serve.ingress()
class _PreferenceReplica:
    """One replica: the app, whose connections and settling task are made in the replica's own loop."""

    def __init__(self, settings: PreferenceSettings) -> None:
        configure_logging()
        configure_tracing("preference")
        self._app = build_service(settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Serve replaces a replica whose health check raises: one whose settling has ended settles nothing."""
        task = getattr(self._app.state, "settling", None)
        if task is not None and task.done():
            raise RuntimeError(f"settling has ended: {task}")
