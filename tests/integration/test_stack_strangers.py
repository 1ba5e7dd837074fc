"""An oracle of docs/examples on the stack's Ray, asked through the gateway; afterwards no secret can be read anywhere.

What is planted: tokens of the gateway, good ones and bad, the secret of a registered oracle, a password in a URL. What
was there before: the passwords and tokens of the stack itself.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deploy.ray_head import local_environment
from deploy.settings import Settings
from rewardmesh import Client
from rewardmesh.wire.messages import Scored
from tests.architecture.repository import ROOT
from tests.integration.conftest import START_S, RunningStack, rewardmesh
from tests.integration.dashboard import Dashboard
from tests.integration.unseen import places_of, secrets_of, seen_in_files

EXAMPLES = ROOT / "docs" / "examples"
ORACLE_SECRET = "planted-secret-of-an-oracle"
WRONG_TOKEN = "rmt_0123456789ab_" + 43 * "P"
URL_PASSWORD = "planted-password-of-a-url"
WAIT = """
import sys
import ray
from ray import serve
import serve_oracle
ray.init(sys.argv[1], log_to_driver=False, runtime_env={"working_dir": "."})
serve.run(serve_oracle.app, name="blueness", route_prefix="/blueness")
print("it runs", flush=True)
sys.stdin.read()
serve.delete("blueness")
"""
pytestmark = pytest.mark.timeout(START_S + 300)


@contextmanager
def example(stack: RunningStack) -> Iterator[str]:
    """The URL of docs/examples/serve_oracle.py, deployed as its user would from the folder that it is in."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT, str(stack.state.ray_address)],
        cwd=EXAMPLES,
        env={**stack.environment(stack.folder), **local_environment(Settings(run_root=stack.folder))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if "it runs\n" not in iter(process.stdout.readline, ""):
            raise AssertionError(process.communicate()[1])
        yield f"{stack.state.serve_url}/blueness"
    finally:
        said = process.communicate(timeout=60)  # its standard input ends
        assert process.returncode == 0, said


def created_token(stack: RunningStack, run_root: Path) -> str:
    arguments = ("token", "create", "--team", "strangers", "--scope", "score", "--scope", "admin")
    made = rewardmesh(*arguments, environment=stack.environment(run_root), timeout_s=60)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def bad_requests(gateway: str, token: str) -> str:
    """What the gateway answers to requests that carry a secret where it is refused."""
    url = f"http://admin:{URL_PASSWORD}@127.0.0.1:9/"
    asked: list[dict[str, Any]] = [
        {"headers": {"Authorization": f"Bearer {WRONG_TOKEN}"}, "json": {}},
        {"headers": {"Authorization": f"Bearer {token[:-1]}"}, "json": {}},
        {"auth": ("anybody", WRONG_TOKEN), "json": {}},
        {"headers": {"Authorization": f"Bearer {token}"}, "json": {"url": url, "secret": ORACLE_SECRET}},
        {"headers": {"Authorization": f"Bearer {token}"}, "json": {"url": "http://x/", "secret": [ORACLE_SECRET]}},
        {"headers": {"Authorization": f"Bearer {token}"}, "json": {"url": "http://x/", "sekret": ORACLE_SECRET}},
    ]
    answers = [httpx.post(f"{gateway}/v1/oracles", timeout=60, trust_env=False, **one) for one in asked]
    answers.append(httpx.get(f"{gateway}/v1/nothing", params={"token": token}, trust_env=False, timeout=60))
    assert [one.status_code for one in answers] == [401, 401, 401, 422, 422, 422, 401]
    return "\n".join(f"{one.headers}\n{one.text}" for one in answers)


def test_a_stranger_s_oracle_joins_through_the_gateway_and_no_secret_is_seen(
    stack: RunningStack, tmp_path: Path
) -> None:
    gateway, token = f"{stack.state.serve_url}/gateway", created_token(stack, tmp_path)
    with example(stack) as url, Client(gateway, token) as notebook:
        headers = {"Authorization": f"Bearer {token}"}
        wanted = {"url": url, "secret": ORACLE_SECRET, "concurrency": 2}
        answer = httpx.post(f"{gateway}/v1/oracles", json=wanted, headers=headers, timeout=120, trust_env=False)
        assert answer.status_code == 201, answer.text
        try:
            blue = np.zeros((16, 16, 3), np.uint8)
            blue[..., 2] = 255
            results = notebook.score([blue, np.zeros_like(blue)], ["blue", "black"], oracles=["blueness"])
            rewards = [one["blueness"].reward for one in results if isinstance(one["blueness"], Scored)]
            assert rewards == [1.0, 0.0]
            said = bad_requests(gateway, token) + answer.text
            with Dashboard(stack.state) as dashboard:
                said += dashboard.everything()
        finally:
            gone = httpx.delete(f"{gateway}/v1/oracles/blueness", headers=headers, timeout=60, trust_env=False)
            assert gone.status_code == 204
    planted = {ORACLE_SECRET, WRONG_TOKEN.split("_", 2)[2], URL_PASSWORD, token.split("_", 2)[2]}
    secrets = planted | secrets_of(stack)
    assert [secret for secret in secrets if secret in said] == []
    assert seen_in_files(secrets, *places_of(stack)) == []
