"""`rewardmesh.Client` against a real gateway, worker and oracle: what a notebook sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from rewardmesh import Client
from rewardmesh.wire.errors import (
    GatewayUnavailable,
    OracleTimeout,
    ProtocolError,
    ScopeMissing,
    TokenRefused,
    UnknownOracle,
)
from rewardmesh.wire.messages import Checks, Scored, ScoreFailure
from services.gateway.app import build_gateway
from tests.certificates import self_signed
from tests.contract.conftest import Server
from tests.unit.services.gateway.conftest import LOOPBACK, Front, serving

GREY = np.full((8, 8, 3), 51, np.uint8)
LARGE = np.full((80, 80, 3), 255, np.uint8)
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)


async def test_score_gives_results_in_order(front: Front, blue: str, worker: object) -> None:
    async with front.client("admin") as admin:
        await admin.post("/v1/oracles", json={"url": blue})
    token = await front.token("score")

    def notebook() -> None:
        with Client(front.url, token) as client:
            checks = [None, {"tag": "counting"}, Checks(tag="x")]
            first, second, third = client.score([GREY, LARGE, RED], ["a", "b", "c"], checks, oracles=["blue"])
            assert isinstance(first["blue"], Scored)
            assert isinstance(second["blue"], Scored)
            assert (first["blue"].reward, second["blue"].reward) == (0.2, 1.0)
            assert isinstance(third["blue"], ScoreFailure)
            assert [one.name for one in client.oracles()] == ["blue"]
            assert client.status()["runs"] == [{"run_id": "gateway.vision", "iteration": None}]

    await asyncio.to_thread(notebook)
    assert await front.gateway.stream("gateway.vision").groups() == []


async def test_errors_are_those_of_the_one_tree(front: Front, blue: str) -> None:
    async with front.client("admin") as admin:
        await admin.post("/v1/oracles", json={"url": blue})
    token, admin_token = await front.token("score"), await front.token("admin")

    def notebook() -> None:
        with Client(front.url, token) as client:
            with pytest.raises(UnknownOracle, match="blue"):
                client.score([GREY], ["a"], oracles=["nobody"])
            with pytest.raises(OracleTimeout, match="blue"):
                client.score([GREY], ["a"], oracles=["blue"], wait_s=0.2)
            with pytest.raises(ProtocolError, match="2 prompts"):
                client.score([GREY], ["a", "b"], oracles=["blue"])
        with Client(front.url, admin_token) as client, pytest.raises(ScopeMissing):
            client.score([GREY], ["a"], oracles=["blue"])
        with Client(front.url, "wrong") as client, pytest.raises(TokenRefused):
            client.oracles()
        with Client(f"{blue}/x", "wrong") as client, pytest.raises(GatewayUnavailable, match="404"):
            client.oracles()

    await asyncio.to_thread(notebook)


def test_a_gateway_that_is_away_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewardmesh.kit.client.PATIENCE_S", 0.1)
    with Client("http://127.0.0.1:9", "secret-token") as client, pytest.raises(GatewayUnavailable) as away:
        client.oracles()
    assert "secret-token" not in str(away.value)


async def test_tls_is_verified_against_whom_the_environment_names(
    front: Front, buffer: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewardmesh.kit.client.PATIENCE_S", 0.0)
    certificate, token = self_signed(tmp_path / "gateway.pem", addresses=["127.0.0.1"]), await front.token("score")
    async with serving(build_gateway(buffer.url, LOOPBACK), ssl_certfile=certificate) as url:
        with Client(url, token) as client, pytest.raises(GatewayUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(client.oracles)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Client(url, token) as client:
            assert await asyncio.to_thread(client.oracles) == []
