"""The gateway speaks TLS, on a real Serve, if the settings name the files for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy.ports import free_port
from rewardmesh import Client
from rewardmesh.wire.errors import GatewayUnavailable, TokenRefused
from tests.certificates import self_signed
from tests.contract.conftest import Server, binary_of
from tests.integration.conftest import START_S


@pytest.mark.timeout(START_S)
def test_the_gateway_speaks_tls_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path / "gateway.pem", addresses=["127.0.0.1"])
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    files = {"REWARDMESH_TLS_CERT_FILE": str(certificate), "REWARDMESH_TLS_KEY_FILE": str(certificate)}
    port = free_port()
    driver = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.integration.tls_proxy", str(port)],
        env={**os.environ, **files, "REDIS_URL": server.url, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        url = driver.stdout.readline().strip()
        assert url == f"https://127.0.0.1:{port}/gateway"
        with Client(url, "rmt_none") as client, pytest.raises(GatewayUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            client.oracles()  # nobody vouches for it
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http"), trust_env=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Client(url, "rmt_none") as client, pytest.raises(TokenRefused):
            client.oracles()
    finally:
        driver.communicate(timeout=120)
        server.kill()
    assert driver.returncode == 0
