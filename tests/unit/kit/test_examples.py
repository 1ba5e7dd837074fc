"""docs/examples: served as real processes, asked as their docstrings say, and examined by the conformance check."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rewardmesh.kit.conformance import CHECKS, check_conformance
from tests.architecture.repository import ROOT, read

EXAMPLES = Path("docs/examples")

pytestmark = pytest.mark.timeout(180)  # processes that import numpy and FastAPI, on a busy machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(*command: str, port: int, token: str = "") -> Iterator[str]:
    """The command, once it answers on that port of loopback."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REWARDMESH_ORACLE_TOKEN": token}
    if not token:
        del environment["REWARDMESH_ORACLE_TOKEN"]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT / EXAMPLES, env=environment, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/v1/health", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, process.communicate()[1].decode()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


def examined(url: str, name: str, **client: Any) -> str:
    async def examine() -> str:
        async with httpx.AsyncClient(trust_env=False, **client) as http:
            report = await check_conformance(url, http=http, name=name)
        assert report.passed, str(report)
        assert {one.check for one in report.findings} == set(CHECKS)
        return str(report)

    return asyncio.run(examine())


def test_fastapi_without_our_package() -> None:
    source = read(EXAMPLES / "fastapi_oracle.py")
    assert "import rewardmesh" not in source
    assert "from rewardmesh" not in source
    port = free_port()
    with running("-m", "uvicorn", "fastapi_oracle:app", "--port", str(port), port=port) as url:
        examined(url, "brightness")
        # The curl line, as printed but for the port.
        docstring = source.split('"""')[1]
        (line,) = re.findall(r"^    (curl .*?)\n\n", docstring, re.MULTILINE | re.DOTALL)
        command = shlex.split(line.replace("http://127.0.0.1:8801", url))
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (printed,) = re.findall(r"^It answers (.*)$", docstring, re.MULTILINE)
    assert json.loads(answer) == json.loads(printed)


def test_with_the_kit() -> None:
    assert len([line for line in read(EXAMPLES / "kit_oracle.py").split('"""', 2)[2].splitlines() if line]) <= 10
    port = free_port()
    command = ("-m", "rewardmesh.kit", "kit_oracle:blueness", "--port", str(port))
    with running(*command, port=port, token="secret") as url:
        report = examined(url, "blueness", headers={"Authorization": "Bearer secret"})
        assert httpx.get(f"{url}/v1/oracle", trust_env=False).status_code == 401
    assert "blueness, version 1" in report


def test_serve_runs_the_kit_s_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica would serve: the deployment's own class, its app built as Serve builds it, without a cluster."""
    monkeypatch.syspath_prepend(str(ROOT / EXAMPLES))
    import ray
    import serve_oracle
    from ray.serve import Application

    assert isinstance(serve_oracle.app, Application)
    assert serve_oracle.deployment.name == "blueness"
    assert serve_oracle.deployment.num_replicas == 2
    with TestClient(serve_oracle.build()) as client:
        assert client.get("/v1/oracle").json()["name"] == "blueness"
    assert not ray.is_initialized()
