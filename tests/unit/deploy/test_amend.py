"""`rewardmesh amend` on a real buffer: asks a run that trains for one more oracle, or says in one line why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
from typer.testing import CliRunner

from deploy.cli import app
from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.context import Gateway, open_gateway
from tests.contract.conftest import Server, binary_of

T = TypeVar("T")
OnGateway = Callable[[Callable[[Gateway], Awaitable[T]]], T]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(binary_of("valkey-9.1"), tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def on_gateway(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnGateway]:
    """The buffer of a run `tried` that trains, and of the oracles `sharpness` and `people`."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))

    def call(what: Callable[[Gateway], Awaitable[T]]) -> T:
        async def inside() -> T:
            async with open_gateway(server.url, OutgoingPolicy()) as gateway:
                return await what(gateway)

        return asyncio.run(inside())

    async def begin(gateway: Gateway) -> None:
        await gateway.redis.flushall()
        await gateway.registry.put_run("tried")
        for name in ("sharpness", "people"):
            await gateway.registry.put_oracle(OracleEndpoint(name=name, url="http://127.0.0.1:9", max_batch=1))

    call(begin)
    yield call
    structlog.reset_defaults()


def amend(*arguments: str, wait_s: float = 0) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["amend", *arguments, "--wait-s", str(wait_s)])
    return result.exit_code, result.output


def test_the_run_is_asked_once_and_the_same_command_says_the_ruling(on_gateway: OnGateway) -> None:
    arguments = ("tried", "sharpness", "--set", "weight=0.5", "--set", "on_missing.then=mask")
    for _ in range(2):
        code, said = amend(*arguments)
        assert (code, "decides before its next rollout" in said) == (0, True), said
    (one,) = on_gateway(lambda gateway: gateway.stream("tried").amendments.all())
    assert (one.use.name, one.use.weight, one.use.on_missing.then) == ("sharpness", 0.5, "mask")
    assert (one.requested_by, one.is_pending) == ("operator", True)

    def rule(**said: object) -> None:
        ruling = Amendment.model_validate(one.model_dump() | said)
        on_gateway(lambda gateway: gateway.stream("tried").amendments.rule(ruling))

    rule(from_iteration=7)
    assert amend("runs/tried", *arguments[1:]) == (0, "tried learns from sharpness from iteration 7 on\n")
    assert amend("tried", "sharpness")[0] == 1  # it was added otherwise


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("other", "sharpness"), "no such run is training (other): those that are: tried"),
        (("tried", "nobody"), "no oracle of that name is registered (nobody)"),
        (("tried", "sharpness", "--set", "weight=0"), "weight"),
        (("tried", "sharpness", "--set", "wieght=1"), "wieght"),
        (("tried", "sharpness", "--set", "on_missing.wait_s=0"), "wait_s 0 with drop_group"),
        (("tried", "no name"), "name"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    on_gateway: OnGateway, arguments: tuple[str, ...], said: str
) -> None:
    code, output = amend(*arguments)
    assert code == 1
    assert said in output
    assert "Traceback" not in output
    assert on_gateway(lambda gateway: gateway.stream("tried").amendments.all()) == []


def test_what_the_trainer_refused_is_said(on_gateway: OnGateway) -> None:
    async def refuse(gateway: Gateway) -> None:
        amendments = gateway.stream("tried").amendments
        while not (asked := await amendments.all()):  # noqa: ASYNC110 - from a thread
            await asyncio.sleep(0.02)
        await amendments.rule(asked[0].model_copy(update={"refused": "the run learns from people already"}))

    with ThreadPoolExecutor(1) as trainer:
        trainer.submit(on_gateway, refuse)
        code, output = amend("tried", "people", wait_s=30)
    assert code == 1
    assert "error: the run learns from people already (run tried)" in output
