"""What Ray's dashboard says through its API, and the metrics of the nodes that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

import httpx

from deploy.state import StackState
from rewardmesh.wire.names import METRICS

#: What its API says of everything that is there; `detail` is what its pages show.
PAGES = (
    "/api/serve/applications/",
    "/api/train/v2/runs/v1",
    "/api/jobs/",
    "/api/cluster_status",
    "/logical/actors",
    "/nodes?view=summary",
    *(f"/api/v0/{kind}?detail=True" for kind in ("actors", "nodes", "tasks", "workers", "jobs", "runtime_envs")),
)


def ray_token() -> str:
    """What Ray asks for; the stack's environment names no other."""
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


class Dashboard:
    """The dashboard of a stack's Ray, asked with Ray's own token."""

    def __init__(self, state: StackState) -> None:
        headers = {"Authorization": f"Bearer {ray_token()}"}
        self._http = httpx.Client(base_url=str(state.dashboard_url), headers=headers, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def applications(self) -> dict[str, str]:
        """Serve applications and their states."""
        return {name: one["status"] for name, one in self._ask("/api/serve/applications/")["applications"].items()}

    def train_runs(self) -> dict[str, str]:
        """Runs of Ray Train and their states."""
        return {one["name"]: one["status"] for one in self._ask("/api/train/v2/runs/v1")["train_runs"]}

    def metrics(self, *, run: str) -> set[str]:
        """Which of our metrics the nodes show now: of this run, or of an oracle where the metric is not a run's."""
        targets = [target for one in self._ask("/api/prometheus/sd") for target in one["targets"]]
        lines = [line for target in targets for line in httpx.get(f"http://{target}/metrics").text.splitlines()]
        ours = [line for line in lines if line.startswith("ray_rewardmesh_")]
        shown = [line for line in ours if f'run="{run}"' in line or not re.search(r'[{,]run="', line)]
        return {name for name in METRICS for line in shown if re.match(rf"ray_{name}(_total|_count|_sum)?{{", line)}

    def everything(self) -> str:
        """All of its pages, as they come: Train's is an error before its first run."""
        return "\n".join(self._http.get(page).text for page in PAGES)

    def _ask(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()
