"""The real stack: training joins it, survives a killed worker, and leaves it as it was."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy.parts import GATEWAY, ORACLES, WORKERS, oracle_url
from deploy.processes import stack_processes
from deploy.settings import Settings
from deploy.state import read_state
from tests.integration.compose import LocalService, any_ports
from tests.integration.conftest import START_S, RunningStack, rewardmesh
from tests.integration.dashboard import Dashboard
from tests.integration.unseen import secrets_of, seen_in_files

APPLICATIONS = (*ORACLES, WORKERS, GATEWAY)
#: Of the trainer and of the workers; the others tell of what this run does not have.
SHOWN = {
    "rewardmesh_samples_settled",
    "rewardmesh_oracle_latency_s",
    "rewardmesh_oracle_batch_samples",
    "rewardmesh_reward",
    "rewardmesh_reward_time_exposed_s",
    "rewardmesh_reward_time_hidden_s",
    "rewardmesh_iteration_s",
}
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(START_S + 900)


def metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Callable[[], object], *, process: subprocess.Popen[str], log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"took too long:\n{log.read_text()}"
        time.sleep(0.3)


def start(*arguments: str, environment: dict[str, str], log: Path) -> subprocess.Popen[str]:
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "deploy.cli", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def test_up_joins_what_the_environment_names_and_down_leaves_it(stack: RunningStack, tmp_path: Path) -> None:
    environment = stack.environment(tmp_path)
    ended = rewardmesh("up", environment=environment, timeout_s=120)
    assert ended.returncode == 0, ended.stderr
    assert "none are started here" in ended.stdout
    said = rewardmesh("status", environment=environment, timeout_s=60).stdout
    assert re.search(r"oracle object_count: healthy", said)
    assert re.search(r"oracle ocr_spelling: healthy", said)
    assert rewardmesh("down", environment=environment, timeout_s=60).returncode == 0
    assert stack.head.healthy()
    assert stack.redis.healthy()


def test_a_run_is_rewarded_by_real_oracles_and_seen_from_outside(stack: RunningStack, tmp_path: Path) -> None:
    """It trains until Ray's dashboard and `/metrics` have shown all of it by name, and is stopped then."""
    log, folder, run = tmp_path / "log", tmp_path / "shown", "shown"
    arguments = ("train", "smoke", "--name", run, "--set", "run.iterations=1000")
    process = start(*arguments, environment=stack.environment(tmp_path), log=log)
    shown: set[str] = set()
    try:
        with Dashboard(stack.state) as dashboard:
            assert dict.fromkeys(APPLICATIONS, "RUNNING").items() <= dashboard.applications().items()

            def all_is_shown() -> bool:
                shown.update(dashboard.metrics(run=run))
                return shown >= SHOWN and len(metrics(folder)) >= 2

            wait_for(all_is_shown, process=process, log=log, timeout_s=600)
            done = iterations_done(stack, run)
            assert done is not None
            assert done >= 2
            assert dashboard.train_runs()[run] == "RUNNING"
            said = dashboard.everything()
        (folder / "stop").touch()
        assert process.wait(120) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(10)
    lines = metrics(folder)
    assert [line["iteration"] for line in lines[:2]] == [1, 2]
    assert all(line["samples"]["scored"] > 0 and line["samples"]["failed"] == 0 for line in lines[:2])
    assert all(0 <= reward <= 1 for line in lines for reward in line["rewards"].values())
    assert list((folder / "checkpoints").glob("iteration-*"))
    secrets = secrets_of(stack)
    assert [secret for secret in secrets if secret in said] == []
    assert seen_in_files(secrets, folder, log) == []


def iterations_done(stack: RunningStack, run: str) -> int | None:
    """What the status says of a run from outside."""
    said = rewardmesh("status", "--json", environment=stack.environment(stack.folder), timeout_s=60)
    assert said.returncode == 0, said.stderr
    return {one["run_id"]: one["iteration"] for one in json.loads(said.stdout)["runs"]}[run]


def test_every_route_of_its_oracles_but_health_wants_the_token(stack: RunningStack) -> None:
    token_file = Settings(run_root=stack.folder / "stack").state_dir / "oracle-token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    token = {"Authorization": f"Bearer {token_file.read_text()}"}
    for name in ORACLES:
        with httpx.Client(base_url=oracle_url(str(stack.state.serve_url), name), trust_env=False) as client:
            assert client.get("/v1/health").status_code == 200
            assert client.get("/v1/oracle", headers=token).json()["name"] == name
            for method, path in (("GET", "/v1/oracle"), ("POST", "/v1/score"), ("GET", "/openapi.json")):
                assert client.request(method, path).status_code == 401, (name, path)


def test_a_killed_training_worker_goes_on_from_its_checkpoint(stack: RunningStack, tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "smoke"
    arguments = ("train", "smoke", "--set", "run.iterations=4")
    process = start(*arguments, environment=stack.environment(tmp_path), log=log)
    try:
        wait_for(lambda: len(metrics(folder)) >= 2, process=process, log=log, timeout_s=600)
        workers = [one for one in psutil.process_iter() if one.name().startswith("ray::RayTrainWo")]
        assert len(workers) == 1
        workers[0].kill()
        assert process.wait(600) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(10)
    assert [line["iteration"] for line in metrics(folder)] == [1, 2, 3, 4]
    assert json.loads((folder / "outcome.json").read_text())["reason"] == "finished"


def test_two_training_workers_learn_as_one(stack: RunningStack, tmp_path: Path) -> None:
    ended = rewardmesh("train", "smoke", "--workers", "2", environment=stack.environment(tmp_path), timeout_s=600)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    lines = metrics(tmp_path / "smoke")
    assert [line["iteration"] for line in lines] == [1, 2]
    assert [line["samples"]["scored"] for line in lines] == [8, 8]  # two groups of four, one from each worker
    assert {path.name for path in (tmp_path / "smoke" / "store").iterdir()} == {"rank-0", "rank-1"}


def test_two_training_workers_have_the_losses_of_one_with_the_same_batch(stack: RunningStack, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.integration.two_workers", str(tmp_path)],
        cwd=ROOT,
        env=stack.environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert len(one) == len(two) == 2
    for alone, shared in zip(one, two, strict=True):
        assert shared["samples"] == alone["samples"] == {"scored": 12, "failed": 0}
        for network, figures in alone["figures"].items():
            kept = {key: value for key, value in figures.items() if key.endswith(("_loss", "_grad_norm"))}
            assert {key: shared["figures"][network][key] for key in kept} == pytest.approx(kept, rel=1e-3, abs=1e-6)
    # Groups stay whole on a worker: of the four, each has two, and they are not the same ones.
    states = sorted((tmp_path / "two" / "checkpoints").glob("iteration-*"))
    ranks = [
        {group for group, _ in rank["bank"]} for rank in json.loads((states[-1] / "loop.json").read_text())["ranks"]
    ]
    assert [len(rank) for rank in ranks] == [4, 4]  # of both iterations
    assert not ranks[0] & ranks[1]


def test_the_trainer_of_the_compose_file_trains(stack: RunningStack) -> None:
    trainer = LocalService("trainer", folder=stack.folder, ports={**any_ports(), "6379": stack.redis.ports["6379"]})
    trainer.start()
    try:
        trainer.wait_until_healthy(START_S)
        state = read_state(Settings(run_root=stack.folder / "runs").state_dir)
        assert state is not None
        assert state.deployed == ()  # the head's oracles judge
    finally:
        trainer.stop()
    assert stack_processes(state.stack_id) == []


@pytest.mark.parametrize("moment", ["starting a local Ray", "iteration 1"])
def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(moment: str, tmp_path: Path) -> None:
    """At two moments: while Ray starts, and while it trains."""
    log = tmp_path / "log"
    small = ("evaluation.pictures_per_kind=1", "prompts.groups_per_iteration=2", "prompts.group_size=4")
    overrides = [part for one in (*small, "algorithm.batch_size=8") for part in ("--set", one)]
    process = start("demo", *overrides, environment=embedded(tmp_path), log=log)
    try:
        wait_for(lambda: moment in log.read_text(), process=process, log=log, timeout_s=START_S)
        time.sleep(2.0)
        state = read_state(Settings(run_root=tmp_path).state_dir)
        assert state is not None
        assert stack_processes(state.stack_id)
        addresses = listened_on(state.stack_id)
        assert {name for name, address in addresses if not address.is_loopback} == set()
        assert moment != "iteration 1" or len(addresses) > 10
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 128 + signal.SIGINT, log.read_text()
    finally:
        process.kill()
        process.wait(10)
    assert stack_processes(state.stack_id) == []
    assert read_state(Settings(run_root=tmp_path).state_dir) is None
    assert "rewardmesh demo --resume" in log.read_text()
    assert "Traceback" not in log.read_text()


def listened_on(stack_id: str) -> list[tuple[str, IPv4Address | IPv6Address]]:
    """Which of a stack's processes listen on what, those of Ray included; IPv4 as such."""
    found = []
    for process in stack_processes(stack_id):
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
            found += [(process.name(), ip_address(one.laddr.ip.removeprefix("::ffff:"))) for one in sockets]
    return found


def embedded(run_root: Path) -> dict[str, str]:
    """The environment of somebody who has set nothing, but for ports and the run folder."""
    import os

    ports = {f"REWARDMESH_{name}_PORT": "0" for name in ("DASHBOARD", "SERVE")}
    kept = {name: value for name, value in os.environ.items() if name not in {"REDIS_URL", "RAY_ADDRESS"}}
    return {**kept, **ports, "REWARDMESH_RUN_ROOT": str(run_root)}
