"""A driver beside the tests: puts a second, growing `object_count` on the stack's Ray and says how many replicas run.

Prints a line for each of 1, 2 and again 1 running replicas, then takes the application off. Run as a process of its
own, because a process that was once a driver of one cluster can hardly become that of another. The buffer's URL comes
with the environment: Ray shows its drivers' command lines.
"""

from __future__ import annotations

import logging
import os
import time

import ray
from ray import serve

from services.serve import OracleScale, OraclesSettings, oracle_applications

ORACLE = "object_count"
SAMPLES_PER_REPLICA = 4
_APPLICATION = "scaled"
_PATIENCE_S = 240.0


def wait_for(replicas: int) -> None:
    """Until exactly so many replicas run and no other is starting or stopping."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        (deployment,) = serve.status().applications[_APPLICATION].deployments.values()
        states = {str(state): number for state, number in deployment.replica_states.items()}
        if states == {"RUNNING": replicas}:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {replicas} replicas but {states}")
        time.sleep(0.2)
    print(f"{replicas} running", flush=True)


def main() -> None:
    ray.init(address=os.environ["RAY_ADDRESS"], namespace="rewardmesh", logging_level=logging.ERROR)
    scale = OracleScale(
        num_cpus=0.1,
        max_replicas=2,
        samples_per_replica=SAMPLES_PER_REPLICA,
        upscale_delay_s=0.5,
        downscale_delay_s=0.5,
    )
    (one,) = oracle_applications(OraclesSettings(redis_url=os.environ["REDIS_URL"], oracles={ORACLE: scale}))
    try:
        serve.run(one.application, name=_APPLICATION, route_prefix="/scaled")
        for replicas in (1, 2, 1):
            wait_for(replicas)
    finally:
        serve.delete(_APPLICATION)
        ray.shutdown()


if __name__ == "__main__":
    main()
