"""The deployments as described to Serve, and the policy that scales them. Serve itself runs in tests/integration."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from rewardmesh.wire.errors import RecipeError
from services.autoscaling import StreamLagPolicy
from services.catalogue import make_oracle
from services.preference.serve import preference_application
from services.preference.settings import PreferenceSettings
from services.serve import OracleScale, OraclesSettings, oracle_applications
from tests.unit.services.gateway.conftest import Blue

pytestmark = pytest.mark.timeout(180)  # Ray Serve is slow to import on a busy machine


def deployment_of(scale: OracleScale, redis_url: str | None = "unix:///nowhere") -> Any:
    settings = OraclesSettings(redis_url=redis_url, oracles={"object_count": scale})
    (one,) = oracle_applications(settings)
    assert (one.name, one.route_prefix) == ("object_count", "/oracles/object_count")
    return cast("Any", one.application)._bound_deployment


def test_each_oracle_is_an_application_of_its_own() -> None:
    assert [one.name for one in oracle_applications()] == ["object_count", "ocr_spelling"]
    assert deployment_of(OracleScale(num_cpus=0.25)).ray_actor_options["num_cpus"] == 0.25


def test_a_replica_asks_for_what_its_oracle_declares() -> None:
    declared = OracleScale(num_cpus=0, num_gpus=0.25, memory_bytes=2**27, resources={"vision": 0.5})
    deployment = deployment_of(declared)
    wanted = {"num_cpus": 0, "num_gpus": 0.25, "memory": 2**27, "resources": {"vision": 0.5}}
    assert deployment.ray_actor_options == wanted
    assert deployment.init_args == ("object_count", {"device": "cuda"}, 1, None)
    assert deployment_of(OracleScale(num_gpus=1, options={"device": "cpu"})).init_args[1] == {"device": "cpu"}
    plain = deployment_of(OracleScale())
    assert plain.init_args[1] == {}
    assert "memory" not in plain.ray_actor_options


def test_unknown_oracles_and_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="no such oracle"):
        oracle_applications(OraclesSettings(oracles={"nobody": OracleScale()}))
    with pytest.raises(RecipeError, match="no such oracle"):
        make_oracle("nobody", {})
    with pytest.raises(RecipeError, match="frobnicate"):
        make_oracle("object_count", {"frobnicate": 1})
    with pytest.raises(ValueError, match="max_replicas"):
        OracleScale(min_replicas=2)


def test_one_that_may_grow_scales_on_its_backlog() -> None:
    fixed = deployment_of(OracleScale())
    assert fixed._deployment_config.autoscaling_config is None
    growing = deployment_of(OracleScale(max_replicas=3))._deployment_config.autoscaling_config
    assert (growing.min_replicas, growing.max_replicas) == (1, 3)
    # What the controller does: the class travels as bytes and is made there.
    policy = growing.policy.get_policy()(**growing.policy.policy_kwargs)
    assert policy.oracle == "object_count"
    assert policy.redis_url == "unix:///nowhere"


@pytest.mark.parametrize("url", ["redis://:secret@host:6379/0", "rediss://host:6379/0?password=secret"])
def test_a_password_does_not_reach_the_dashboard(url: str) -> None:
    config = deployment_of(OracleScale(max_replicas=2), url)._deployment_config
    assert config.autoscaling_config.policy.policy_kwargs["redis_url"] is None


def test_every_route_but_health_asks_for_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "a token of the stack's own oracles"
    monkeypatch.setattr("services.serve.make_oracle", lambda name, options: Blue(name))
    settings = OraclesSettings(oracles={"object_count": OracleScale()}, token=SecretStr(token))
    assert token not in repr(settings) + settings.model_dump_json()
    (one,) = oracle_applications(settings)
    bound = cast("Any", one.application)._bound_deployment
    replica = bound.func_or_class.__mro__[1]  # what Serve's ingress wraps
    app = replica(*bound.init_args).__serve_build_asgi_app__()
    with TestClient(app) as client:
        for route in app.routes:
            method = "POST" if "POST" in route.methods else "GET"
            without = client.request(method, route.path)
            wrong = client.request(method, route.path, headers={"Authorization": "Bearer another"})
            right = client.request(method, route.path, headers={"Authorization": f"Bearer {token}"})
            if route.path == "/v1/health":
                assert without.status_code == 200
            else:
                assert (without.status_code, wrong.status_code) == (401, 401), route.path
                assert right.status_code in {200, 422, 415, 400}, (route.path, right.text)
        assert {route.path for route in app.routes} == {"/v1/health", "/v1/oracle", "/v1/score", "/openapi.json"}


async def test_people_are_one_replica_that_is_replaced_once_it_settles_no_more() -> None:
    secret = SecretStr("a secret of this test alone")
    settings = PreferenceSettings(
        redis_url="redis://:a-buffer-s-password@127.0.0.1:9",
        secret=secret,
        gateway_url="http://127.0.0.1:9",
        gateway_token=secret,
    )
    bound = cast("Any", preference_application(settings))._bound_deployment
    assert bound._deployment_config.num_replicas == 1
    shown = f"{bound}{bound.init_args}"  # as Ray's dashboard shows it
    assert secret.get_secret_value() not in shown and "a-buffer-s-password" not in shown
    replica = bound.func_or_class.__mro__[1](*bound.init_args)  # what Serve's ingress wraps
    replica.check_health()  # not yet started
    state = replica.__serve_build_asgi_app__().state
    state.settling = asyncio.create_task(asyncio.sleep(60))
    replica.check_health()
    state.settling.cancel()
    await asyncio.wait([state.settling])
    with pytest.raises(RuntimeError, match="settling has ended"):
        replica.check_health()


def decide(policy: StreamLagPolicy, target: int = 2) -> int:
    wanted, state = policy(cast("Any", SimpleNamespace(target_num_replicas=target)))
    assert state == {}
    return wanted


def test_replicas_follow_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    policy = StreamLagPolicy(oracle="object_count", samples_per_replica=100)
    assert decide(policy) == 2  # nothing known: as it is
    for samples, replicas in ((0, 1), (1, 1), (100, 1), (101, 2), (1000, 10)):
        policy.learn(samples)
        assert decide(policy) == replicas


def test_an_old_number_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    policy = StreamLagPolicy(oracle="object_count", samples_per_replica=100, forget_after_s=0.0)
    policy.learn(1000)
    time.sleep(0.01)
    assert decide(policy, target=3) == 3


def test_a_buffer_that_does_not_answer_changes_nothing_and_blocks_nobody() -> None:
    policy = StreamLagPolicy(oracle="quiet", samples_per_replica=1, redis_url="unix:///nowhere/at/all", poll_s=0.01)
    began = time.monotonic()
    assert [decide(policy) for _ in range(100)] == [2] * 100
    assert time.monotonic() - began < 5.0
    (thread,) = [one for one in threading.enumerate() if one.name == "backlog-quiet"]
    assert thread.daemon
    del policy
    gc.collect()
    thread.join(timeout=30)  # it ends with its policy
    assert not thread.is_alive()
