"""A cluster and a buffer that were there before: two Ray nodes, a password, TLS. One node is killed at the end.

The cluster's nodes know the buffer as an operator would have it: `REDIS_URL` in their environment, `rediss://` with a
password and the CA's file. What is tested stands on what `rewardmesh up` deployed there, in the order of this file.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.ports import free_port
from deploy.processes import STACK_ID, stack_processes
from deploy.ray_head import ensure_token, session_folder
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Checks, Sample, Scored
from rewardmesh.wire.redis_stream import RedisStream, open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Group, PendingSample
from tests.contract.conftest import Server, binary_of
from tests.integration.conftest import START_S, rewardmesh
from tests.integration.ray_nodes import HEAD, RayNodes
from tests.tls_front import TlsFront, make_certificate

pytestmark = pytest.mark.timeout(START_S + 900)

PASSWORD = "a-password-that-is-shown-nowhere"
OBJECT_STORE_BYTES = 100 * 2**20
GPU_NODE = {"num_cpus": 6, "num_gpus": 1, "resources": {"vision": 1}, "object_store_memory": OBJECT_STORE_BYTES}
#: No GPU is needed: Ray counts what a node was started with.
DECLARED = {
    "object_count": {
        "num_gpus": 0.25,
        "memory_bytes": 2**27,
        "resources": {"vision": 0.5},
        "max_replicas": 1,
        "options": {"device": "cpu"},
    }
}
TRAINER_CPUS = "4"  # which the head has not
NUM_GROUPS, GROUP_SIZE = 40, 8
RUN = "node-lost"
CHECKS = Checks.from_metadata({"tag": "single_object", "include": [{"class": "circle", "count": 1}]})


@dataclass
class Joined:
    """Where everything is, and what the commands have said."""

    nodes: RayNodes
    server: Server
    url: str
    plain_url: str
    dashboard_url: str
    serve_port: int
    session: Path
    shared: Path
    said: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of an operator's shell on a node of the cluster."""
        return {
            **os.environ,
            "RAY_ADDRESS": self.nodes.address,
            "RAY_AUTH_MODE": "token",
            "REDIS_URL": self.url,
            "REWARDMESH_ORACLES": json.dumps(DECLARED),
            "REWARDMESH_RUN_ROOT": str(self.shared),
            "REWARDMESH_SERVE_PORT": str(self.serve_port),
            "REWARDMESH_START_TIMEOUT_S": str(START_S),
        }

    def rewardmesh(self, *arguments: str, timeout_s: float = START_S, **environment: str) -> str:
        """Runs a command, which must succeed, and returns what it said."""
        ended = rewardmesh(*arguments, environment={**self.environment, **environment}, timeout_s=timeout_s)
        self.said += [ended.stdout, ended.stderr]
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def ask_ray(self, path: str) -> Any:
        """The dashboard's answer, as the dashboard's own pages get it."""
        token = (Path.home() / ".ray" / "auth_token").read_text().strip()
        answer = httpx.get(
            self.dashboard_url + path, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
        )
        self.said.append(answer.text)
        return answer.raise_for_status().json()

    def actors(self, kind: str) -> list[dict[str, Any]]:
        """Living actors whose class starts so, with the name of the node that each is on."""
        names = {node_id: name for name, node_id in self.nodes.ids.items()}
        found = self.ask_ray("/api/v0/actors?detail=true&limit=1000")["data"]["result"]["result"]
        return [
            {**one, "node": names.get(one["node_id"])}
            for one in found
            if one["class_name"].startswith(kind) and one["state"] == "ALIVE"
        ]

    def replicas(self, application: str) -> list[str]:
        """Names of the nodes on which an application's running replicas are."""
        known = self.ask_ray("/api/serve/applications/")["applications"][application]["deployments"].values()
        names = {node_id: name for name, node_id in self.nodes.ids.items()}
        running = [one for each in known for one in each["replicas"] if one["state"] == "RUNNING"]
        return sorted(names[one["node_id"]] for one in running)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """Buffer, TLS, two nodes, and `rewardmesh up` on them."""
    folder = tmp_path_factory.mktemp("cluster")
    port, stack_id, session = free_port(), uuid.uuid4().hex, session_folder()
    password = ("--requirepass", PASSWORD, "--port", str(port), "--bind", "127.0.0.1")
    server = Server(binary_of("valkey-9.1"), folder / "server", password)
    server.start()
    ca, key = make_certificate(folder / "tls")
    ensure_token()
    try:
        with TlsFront(server.socket, certificate=ca, key=key) as front:
            url = f"rediss://:{PASSWORD}@127.0.0.1:{front.port}/0?ssl_ca_certs={ca}"
            dashboard_port = free_port()
            head = {
                "num_cpus": 2,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": True,
                "dashboard_port": dashboard_port,
                "dashboard_agent_listen_port": free_port(),
                "gcs_server_port": free_port(),
            }
            nodes = RayNodes(
                head, environment=of_a_node(url, stack_id, session), stack_id=stack_id, log=folder / "nodes.log"
            )
            with nodes:
                nodes.add("gpu", **GPU_NODE)
                stack = Joined(
                    nodes,
                    server,
                    url,
                    f"redis://:{PASSWORD}@127.0.0.1:{port}/0",
                    f"http://127.0.0.1:{dashboard_port}",
                    free_port(),
                    session,
                    folder / "shared",
                )
                stack.rewardmesh("up")
                yield stack
            assert stack_processes(stack_id) == []
    finally:
        server.kill()
        shutil.rmtree(session, ignore_errors=True)


def of_a_node(redis_url: str, stack_id: str, session: Path) -> dict[str, str]:
    """The environment of a node's `ray start`."""
    return {
        **os.environ,
        "AUTOSCALER_METRIC_PORT": str(free_port()),
        "DASHBOARD_METRIC_PORT": str(free_port()),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "RAY_AUTH_MODE": "token",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(START_S)),  # this machine may be busy
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_TMPDIR": str(session),
        "RAY_health_check_period_ms": "1000",  # a dead node is known within seconds
        "RAY_worker_niceness": "0",
        "REDIS_URL": redis_url,
        STACK_ID: stack_id,
    }


def wait_for(condition: Callable[[], object], *, seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, f"took too long: {seen()}"
        time.sleep(0.3)


def test_oracles_land_where_their_resources_are(joined: Joined) -> None:
    (counter,) = joined.actors("ServeReplica:object_count")
    assert counter["node"] == "gpu"
    asked = counter["required_resources"]
    assert (asked["GPU"], asked["vision"], asked["memory"]) == (0.25, 0.5, 2**27)
    assert joined.replicas("object_count") == ["gpu"]
    assert len(joined.replicas("ocr_spelling")) == 1
    assert joined.replicas("reward_workers") == ["gpu", HEAD]


def test_doctor_and_a_second_up_know_the_buffer_by_its_password(joined: Joined, tmp_path: Path) -> None:
    said = rewardmesh("doctor", environment=joined.environment, timeout_s=START_S).stdout
    assert "REDIS_URL rediss://:***@127.0.0.1:" in said
    assert "valkey 9.1" in said
    joined.said.append(said)
    without_tls = {"REDIS_URL": joined.plain_url, "REWARDMESH_RUN_ROOT": str(tmp_path)}
    assert "none are started here" in joined.rewardmesh("up", **without_tls)
    said = joined.rewardmesh("status", **without_tls)
    assert "oracle object_count: healthy" in said
    assert "buffer: joined at redis://:***@127.0.0.1:" in said
    joined.rewardmesh("down", **without_tls)


def test_the_gateway_answers_from_the_same_buffer(joined: Joined) -> None:
    token = joined.rewardmesh("token", "create", "--team", "tests", "--scope", "admin", REDIS_URL=joined.plain_url)
    answer = httpx.get(
        f"http://127.0.0.1:{joined.serve_port}/gateway/v1/oracles",
        headers={"Authorization": f"Bearer {token.strip()}"},
        timeout=60,
        trust_env=False,
    )
    joined.said.append(answer.text)
    assert {one["endpoint"]["name"] for one in answer.raise_for_status().json()} == {"object_count", "ocr_spelling"}


async def test_a_killed_node_takes_nothing_with_it(joined: Joined) -> None:
    """Neither the samples that its oracle held, nor the training of a submitted job, whose worker was on it."""
    folder = joined.shared / "submitted"
    submit(
        joined, "train", "smoke", "--name", folder.name, "--set", "run.iterations=1000", "--set", "feedback.wait_s=600"
    )
    wait_for(lambda: len(metrics(folder)) >= 2, seen=lambda: job(joined))
    assert [one["node"] for one in joined.actors("RayTrainWorker")] == ["gpu"]

    client = await connect(joined.url)
    registry, stream = Registry(client), open_redis_stream(client, RUN)
    await patient(registry)
    await registry.put_run(RUN)
    for index in range(NUM_GROUPS):
        await stream.enqueue(group_of(index), oracles=["object_count"])
    while not (await stream.outcomes("g0", "object_count")).complete:  # noqa: ASYNC110 - on a server
        await asyncio.sleep(0.01)
    joined.nodes.kill("gpu")
    assert (await stream.depth("object_count")).pending > 0
    iterations = len(metrics(folder))
    joined.nodes.add("another gpu", **GPU_NODE)

    await check_settled_once(stream)
    await registry.end_run(RUN)
    await client.aclose()
    assert joined.replicas("object_count") == ["another gpu"]
    wait_for(lambda: len(metrics(folder)) >= iterations + 2, seen=lambda: job(joined))
    assert [one["node"] for one in joined.actors("RayTrainWorker")] == ["another gpu"]
    (folder / "stop").touch()
    wait_for(lambda: job(joined)["status"] == "SUCCEEDED", seen=lambda: job(joined))
    check_training(folder)
    wait_for(
        lambda: len(joined.replicas("reward_workers")) == 2, seen=lambda: joined.ask_ray("/api/serve/applications/")
    )


def test_the_password_is_in_no_log_and_in_no_run_folder(joined: Joined) -> None:
    joined.ask_ray("/api/serve/applications/")
    joined.ask_ray("/api/jobs/")
    joined.ask_ray("/api/train/v2/runs/v1")
    assert not [text for text in joined.said if PASSWORD in text]
    run_folders = [path for path in joined.shared.iterdir() if path.name != ".stack"]
    files = [path for folder in (joined.session, *run_folders) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    logs = list(joined.session.glob("ray/session_latest/logs/serve/controller*"))
    assert logs
    assert not [path for path in logs if "cannot read the buffer" in path.read_text()]  # autoscaling has the CA too


def test_down_takes_off_what_up_put_there_and_leaves_the_cluster(joined: Joined) -> None:
    joined.rewardmesh("down")
    assert joined.ask_ray("/api/serve/applications/")["applications"] == {}
    alive = joined.ask_ray("/api/v0/nodes?detail=true")["data"]["result"]["result"]
    assert sorted(one["state"] for one in alive) == ["ALIVE", "ALIVE", "DEAD"]


def submit(joined: Joined, *arguments: str) -> None:
    """`ray job submit` of a rewardmesh command. The job is told where runs are; the nodes know the buffer."""
    told = {"REWARDMESH_RUN_ROOT": str(joined.shared), "REWARDMESH_TRAINER_CPUS": TRAINER_CPUS}
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", joined.dashboard_url),
            *("--no-wait", "--submission-id", RUN, "--runtime-env-json", json.dumps({"env_vars": told}), "--"),
            *(sys.executable, "-P", "-m", "deploy.cli", *arguments),
        ],
        env={**os.environ, "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def job(joined: Joined) -> dict[str, Any]:
    """The submitted job as Ray sees it, with what it has said."""
    said: dict[str, Any] = joined.ask_ray(f"/api/jobs/{RUN}")
    return said | {"logs": joined.ask_ray(f"/api/jobs/{RUN}/logs")["logs"]}


def metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def check_training(folder: Path) -> None:
    """The run is one run, and what it left is on the storage that the nodes share."""
    assert json.loads((folder / "outcome.json").read_text())["reason"] == "stopped"
    lines = metrics(folder)
    assert [line["iteration"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(line["samples"]["scored"] > 0 and line["samples"]["failed"] == 0 for line in lines)
    assert list((folder / "checkpoints").glob(f"iteration-*{len(lines)}"))
    assert list((folder / "ray").rglob("pointer.json"))  # Ray Train's own storage


async def patient(registry: Registry) -> None:
    """How long an oracle may be away is its endpoint's; here, as long as a busy machine takes to start another."""
    known = next(one for one in await registry.oracles() if one.name == "object_count")
    await registry.put_oracle(known.model_copy(update={"max_attempts": 100, "retry_budget_s": 3600.0}))


def group_of(index: int) -> Group:
    requests = tuple(
        PendingSample(
            sample=Sample(
                run_id=RUN,
                group_id=f"g{index}",
                sample_id=f"g{index}.{place}",
                policy_version=0,
                boundary_index=4,
                prompt="a red circle",
                checks=CHECKS,
            ),
            media_type="application/x-raw-rgb;width=48;height=48",
            picture=bytes([index, place, 0]) * 48 * 48,
        )
        for place in range(GROUP_SIZE)
    )
    return Group(group_id=f"g{index}", requests=requests)


async def check_settled_once(stream: RedisStream) -> None:
    """Every sample has one reward, every group was announced once, and nothing is left of them."""
    async with asyncio.timeout(START_S):
        for index in range(NUM_GROUPS):
            while not (outcome := await stream.outcomes(f"g{index}", "object_count")).complete:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert len(outcome.results) == GROUP_SIZE
            assert all(isinstance(result, Scored) for result in outcome.results.values()), outcome.results
    completions, _ = await stream.completions()
    assert Counter(completions) == {(f"g{index}", "object_count"): 1 for index in range(NUM_GROUPS)}
    depth = await stream.depth("object_count")
    assert (depth.lag, depth.pending, depth.retrying, depth.deferred, depth.dead_letters) == (0, 0, 0, 0, 0)
