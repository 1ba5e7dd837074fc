"""What every test gets: a quiet, offline, single-threaded process. Set before torch, numpy or Ray are imported."""

from __future__ import annotations

import os

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",  # two cores, several processes: threads of torch only get in each other's way
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray on loopback; read when Ray is imported, by whichever test is first
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "REWARDMESH_ALLOWED_NETWORKS": "127.0.0.0/8, ::1/128",  # the tests' oracles listen there
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
}

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

from hypothesis import HealthCheck, settings  # noqa: E402  (after the environment)

# A slow machine is no failure, and every run tries the same examples: a red test is red for everybody.
settings.register_profile(
    "rewardmesh",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("rewardmesh")
