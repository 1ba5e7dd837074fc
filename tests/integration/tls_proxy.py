"""A driver beside the tests: starts Ray and, by the settings of its environment, Serve with a gateway; then waits.

Prints the gateway's URL, and ends when its standard input does. Run as a process of its own, as `scaled_oracle` is.
"""

from __future__ import annotations

import logging
import os
import sys

import ray
from ray import serve

from deploy import serving
from deploy.settings import load_settings
from services.gateway.serve import GatewaySettings, gateway_application


def main(port: int) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    settings = load_settings()
    try:
        serving.start_serve(settings, port=port)
        application = gateway_application(GatewaySettings(redis_url=os.environ["REDIS_URL"]))
        gateway = serving.ServedApplication("gateway", application, "/gateway")
        serving.deploy([gateway], timeout_s=240, tell=lambda _: None)
        print(f"{settings.serve_url(port)}/gateway", flush=True)
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
