"""Waiting for applications: what they wait for is said, and has an end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deploy.ray_head import RayUnavailable
from deploy.serving import ServedApplication, deploy

pytestmark = pytest.mark.timeout(180)  # Ray Serve is slow to import on a busy machine


def test_an_application_without_a_node_says_so_and_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve
    from ray.serve import api

    known = SimpleNamespace(
        status="DEPLOYING", message="", deployments={"o": SimpleNamespace(message='needs {"vision": 1.0},\nfree {}')}
    )
    asked: list[str] = []
    monkeypatch.setattr(api, "run_many", lambda targets, **_: asked.extend(one.name for one in targets))
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"object_count": known}))
    application: Any = None
    said: list[str] = []
    with pytest.raises(RayUnavailable, match=r'object_count did not start: not running after 0 s; needs \{"vision"'):
        deploy([ServedApplication("object_count", application, "/o")], timeout_s=0.3, tell=said.append)
    assert asked == ["object_count"]
    assert said == ['  object_count: needs {"vision": 1.0}, free {}']
