"""Ray Serve: starting it, putting applications on it, waiting for them with an end, taking them off again.

Knows applications by name only; what they are is `deploy.parts`. Imports Ray when called, not before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.ray_head import RayUnavailable
from deploy.settings import Settings

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.schema import ApplicationStatusOverview

__all__ = ["ServedApplication", "deploy", "remove", "running", "start_serve"]

_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True)
class ServedApplication:
    """An application and where it answers; `route_prefix` None for one that answers nobody."""

    name: str
    application: Application
    route_prefix: str | None


def start_serve(settings: Settings, *, port: int) -> None:
    """Starts Serve on the connected cluster, its proxy on the head only; with TLS, if the settings name its files.

    Its own logs, and those of what is deployed, are JSON lines. Where Serve already runs, nothing changes.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what it would say, we say
    certificate, key = settings.tls_files or (None, None)
    options = HTTPOptions(host=settings.host, port=port, ssl_certfile=certificate, ssl_keyfile=key)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly, http_options=options, logging_config=LoggingConfig(encoding="JSON")
    )


def running() -> set[str]:
    """Names of the applications that the connected cluster has, in whatever state. Starts nothing."""
    from ray import serve

    return {str(name) for name in serve.status().applications}


def deploy(applications: Sequence[ServedApplication], *, timeout_s: float, tell: Callable[[str], None]) -> None:
    """Puts the applications on the cluster, all at once, and returns when every one is running.

    Raises: RayUnavailable that names the application and what it said, if one fails or the time passes.
    """
    from ray import serve
    from ray.serve.api import RunTarget, run_many
    from ray.serve.schema import LoggingConfig

    if not applications:
        return
    logs = LoggingConfig(encoding="JSON")
    run_many(
        [RunTarget(one.application, one.name, one.route_prefix, logging_config=logs) for one in applications],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    waiting = {one.name for one in applications}
    reasons: dict[str, str] = {}
    deadline = time.monotonic() + timeout_s
    while waiting:
        known = serve.status().applications
        for name in sorted(waiting):
            status = known[name].status if name in known else "NOT_STARTED"
            if status == "RUNNING":
                waiting.discard(name)
                tell(f"  {name}: running")
            elif status in _FAILED:
                raise _failure(name, known[name].message)
            elif name in known and (reason := _reason(known[name])) != reasons.get(name, ""):
                reasons[name] = reason
                tell(f"  {name}: {reason}")
        if waiting and time.monotonic() > deadline:
            said = "; ".join([f"not running after {timeout_s:.0f} s", *(reasons[name] for name in sorted(reasons))])
            raise _failure(", ".join(sorted(waiting)), said)
        time.sleep(0.2)


def remove(names: Sequence[str]) -> None:
    """Takes applications off the connected cluster; one that is not there is no error."""
    from ray import serve

    present = running()
    for name in names:
        if name in present:
            serve.delete(name)


def _reason(application: ApplicationStatusOverview) -> str:
    """Why it does not run yet, in Serve's words: for want of a node with its resources, say. Empty at first."""
    return " ".join(" ".join(one.message for one in application.deployments.values()).split())


def _failure(name: str, message: str) -> RayUnavailable:
    lines = [line for line in message.strip().splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "no reason given"
    return RayUnavailable(
        f"application {name} did not start: {said}", name, "its log is in the Ray dashboard, under Serve"
    )
