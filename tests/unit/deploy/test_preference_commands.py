"""`rewardmesh preference …` on a real buffer: invites, raters, gold, pausing, depth and export."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import TypeVar

import pyarrow.parquet as pq
import pytest
import structlog
from PIL import Image
from typer.testing import CliRunner

from deploy import cli
from deploy.people import link_secret, preference_settings
from deploy.settings import load_settings
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import InviteRefused
from services.gateway.audit import Audit
from services.gateway.tokens import Tokens
from services.preference.invites import Invites
from services.preference.model import Presentation
from services.preference.redis_queue import RedisQueue
from tests.contract.conftest import Server, binary_of
from tests.unit.services.preference.asking import accept, choose, rater

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _logs_of_their_own() -> Iterator[None]:
    """A command logs to the standard error of its own test, which is closed afterwards."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    monkeypatch.setenv("REWARDMESH_PREFERENCE_QUEUE", json.dumps({"gold_share": 0, "repeat_share": 0}))
    yield server
    server.kill()


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["preference", *arguments])
    assert result.exit_code == status, result.output + result.stderr
    return result.stdout if status == 0 else result.stderr


def on_queue(server: Server, call: Callable[[RedisQueue], Awaitable[T]]) -> T:
    async def connected() -> T:
        client = await connect(server.url)
        try:
            return await call(RedisQueue(client, load_settings().preference_queue, rng=Random(0)))
        finally:
            await client.aclose()

    return asyncio.run(connected())


def test_an_invite_is_made_listed_and_revoked(buffer: Server) -> None:
    link = run("invite", "--label", "friends", "--raters", "5", "--url", "https://rate.example.org/preference/").strip()
    assert link.startswith("https://rate.example.org/preference/join/")
    token = link.rpartition("/")[2]

    async def check() -> str:
        client = await connect(buffer.url)
        try:
            return (await Invites(client, link_secret(load_settings())).check(token)).invite_id
        finally:
            await client.aclose()

    invite_id = asyncio.run(check())
    assert f"{invite_id}  0 of 5 raters" in run("invites")
    assert "friends" in run("invites")
    run("revoke", invite_id)
    assert "REVOKED" in run("invites")
    with pytest.raises(InviteRefused, match="withdrawn"):
        asyncio.run(check())
    assert "no such invite" in run("revoke", "nobody", status=1)
    assert "max_raters" in run("invite", "--raters", "0", status=2)


def test_raters_are_listed_paused_and_resumed(buffer: Server) -> None:
    async def one_choice(queue: RedisQueue) -> None:
        await accept(queue, 2, until=4e9)
        await choose(queue, await rater(queue, "ada"), "left")

    on_queue(buffer, one_choice)
    (line,) = run("raters").splitlines()
    assert line.startswith("ada  1 choices  gold - of 0")
    assert "left 100%" in line
    run("pause", "ada", "--why", "too quick")
    assert "PAUSED (too quick)" in run("raters")
    run("resume", "ada")
    assert "PAUSED" not in run("raters")
    assert "nobody of that id" in run("pause", "nobody", status=1)


def test_the_queue_is_paused_and_goes_on(buffer: Server) -> None:
    assert json.loads(run("depth"))["paused"] is False
    run("pause")
    assert json.loads(run("depth"))["paused"] is True
    run("resume")
    depth = json.loads(run("depth"))
    assert (depth["paused"], depth["comparisons"], depth["budget_bytes"]) == (False, 0, 512 * 2**20)

    async def lines() -> list[str]:
        client = await connect(buffer.url)
        try:
            return [line.action for line in await Audit(client).latest(10)]
        finally:
            await client.aclose()

    assert asyncio.run(lines()) == ["queue.resume", "queue.pause"]


def test_gold_is_added_from_files_and_shown_to_raters(
    buffer: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better, worse = tmp_path / "better.png", tmp_path / "worse.png"
    Image.new("RGB", (8, 8), (0, 0, 255)).save(better)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(worse)
    for _ in range(2):  # idempotent
        run("gold", "add", str(better), str(worse), "--prompt", "something blue")
    (line,) = run("gold", "list").splitlines()
    assert line.endswith("something blue")
    monkeypatch.setenv("REWARDMESH_PREFERENCE_QUEUE", json.dumps({"gold_share": 0.49, "repeat_share": 0}))

    async def shown_gold(queue: RedisQueue) -> bool:
        await accept(queue, 4, until=4e9)
        ada = await rater(queue, "ada")
        for _ in range(6):
            shown = await choose(queue, ada, "tie")
            if isinstance(shown, Presentation) and shown.kind == "gold":
                return shown.prompt == "something blue"
        return False

    assert on_queue(buffer, shown_gold)
    assert "not a picture of that type" in run("gold", "add", __file__, str(worse), "--prompt", "x", status=1)


def test_the_export_is_written_whole_or_not_at_all(buffer: Server, tmp_path: Path) -> None:
    async def settled(queue: RedisQueue) -> None:
        await accept(queue, 2, until=4e9)
        await choose(queue, await rater(queue, "ada"), "left")
        for group in await queue.close_due():
            await queue.settled(group.key)

    on_queue(buffer, settled)
    run("export", str(tmp_path / "choices.parquet"))
    assert pq.read_table(tmp_path / "choices.parquet").to_pylist()[0]["choice"] == "left"
    run("export", "--no-pictures", str(tmp_path / "choices.jsonl"))
    (line,) = (tmp_path / "choices.jsonl").read_text().splitlines()
    assert "jpg_0" not in json.loads(line)
    assert "neither" in run("export", str(tmp_path / "choices.csv"), status=2)
    buffer.kill()
    run("export", str(tmp_path / "lost.jsonl"), status=1)
    assert sorted(one.name for one in tmp_path.glob("*.*") if one.is_file()) == ["choices.jsonl", "choices.parquet"]


def test_the_token_that_rewards_are_posted_with_is_made_once_a_buffer(buffer: Server, tmp_path: Path) -> None:
    def told() -> str:
        settings = preference_settings(
            load_settings(), redis_url=buffer.url, gateway_url="http://127.0.0.1:1/gateway", oracle_token="o" * 16
        )
        return settings.gateway_token.get_secret_value()

    async def known() -> list[tuple[tuple[str, ...], str | None]]:
        client = await connect(buffer.url)
        try:
            return [(one.scopes, one.oracle) for one in await Tokens(client).all()]
        finally:
            await client.aclose()

    first = told()
    assert told() == first
    assert asyncio.run(known()) == [(("rate",), "preference")]
    (tmp_path / ".stack" / "preference-rate-token").write_text("rmt_of another buffer")
    assert told() != first
