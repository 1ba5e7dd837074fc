"""A port that is taken is refused with who holds it and what to do."""

from __future__ import annotations

import os
import socket

import pytest

from deploy.ports import free_port, is_free, require_port
from rewardmesh.wire.errors import PortInUse


def test_a_free_port_is_free_and_zero_gives_one() -> None:
    assert is_free(free_port())
    assert require_port(0, purpose="tests", variable="X") > 0


def test_a_taken_port_is_named_with_its_holder() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(PortInUse) as refused:
            require_port(port, purpose="the oracles", variable="REWARDMESH_SERVE_PORT")
    line = str(refused.value)
    assert f"port {port}, for the oracles" in line
    assert f"process {os.getpid()}" in line
    assert "set REWARDMESH_SERVE_PORT to another port" in line
    assert require_port(port, purpose="the oracles", variable="X") == port
