"""Tokens: shown once, hashed at rest, expiring, revocable, counted; every change leaves a line."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import AccessError, RateExceeded, TokenRefused
from services.gateway.audit import OPERATOR, Actor, Audit
from services.gateway.tokens import Token, TokenRequest, Tokens
from tests.contract.conftest import Server


async def make(redis: Redis, **wanted: object) -> tuple[Token, str]:
    request = TokenRequest.model_validate({"team": "vision", "scopes": ("score",), **wanted})
    return await Tokens(redis).create(request, actor=OPERATOR)


async def everything(redis: Redis) -> str:
    """All that the server holds, as text."""
    found = ""
    for key in await redis.keys("*"):
        kind = await redis.type(key)
        held = {
            b"hash": redis.hgetall, b"stream": redis.xrange, b"string": redis.get, b"set": redis.smembers,
        }[kind]  # fmt: skip
        found += f"{key} {await held(key)}\n"
    return found


async def test_a_token_is_known_by_its_text_alone(redis: Redis) -> None:
    token, text = await make(redis)
    assert await Tokens(redis).check(text) == token
    assert await Tokens(redis).all() == [token]
    for wrong in ("", "rmt_", text[:-1], text + "A", text.upper(), text.replace(token.token_id, "0" * 12), "é" * 60):
        with pytest.raises(TokenRefused, match="not known"):
            await Tokens(redis).check(wrong)


async def test_only_a_digest_is_at_rest(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    token, text = await make(redis)
    secret = text.rpartition(f"{token.token_id}_")[2]
    held = await everything(redis)
    assert hashlib.sha256(secret.encode()).hexdigest() in held
    assert secret not in held
    with pytest.raises(TokenRefused) as refused:
        await Tokens(redis).check(text.replace(token.token_id, "0" * 12))
    logged = capsys.readouterr()
    assert secret not in logged.err + logged.out + str(refused.value)
    assert "token.create" in logged.err + logged.out


async def test_two_tokens_differ(redis: Redis) -> None:
    texts = {(await make(redis))[1] for _ in range(20)}
    assert len(texts) == 20
    assert all(len(text) == 60 for text in texts)


async def test_a_revoked_token_is_refused_at_once_and_stays_listed(redis: Redis) -> None:
    token, text = await make(redis)
    await Tokens(redis).revoke(token.token_id, actor=OPERATOR)
    with pytest.raises(TokenRefused, match="revoked"):
        await Tokens(redis).check(text)
    await Tokens(redis).revoke(token.token_id, actor=OPERATOR)
    assert [one.revoked for one in await Tokens(redis).all()] == [True]
    with pytest.raises(AccessError, match="no such token"):
        await Tokens(redis).revoke("nobody", actor=OPERATOR)


async def test_an_expired_token_is_refused(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    token, text = await make(redis, expires_s=600)
    await Tokens(redis).check(text)
    monkeypatch.setattr("services.gateway.tokens.time.time", lambda: token.created + 600)
    with pytest.raises(TokenRefused, match="expired"):
        await Tokens(redis).check(text)


async def test_the_rate_is_counted_for_all_replicas_together(redis: Redis, buffer: Server) -> None:
    token, _ = await make(redis, requests_per_s=5)
    other = await connect(buffer.url)
    replicas = [Tokens(redis), Tokens(other)]
    allowed, began = 0, time.monotonic()
    for turn in range(12):
        with contextlib.suppress(RateExceeded):
            await replicas[turn % 2].count(token)
            allowed += 1
    assert 5 <= allowed <= 6 + 5 * (time.monotonic() - began)  # a second's worth, and what passed meanwhile
    await asyncio.sleep(0.25)
    await Tokens(redis).count(token)
    await other.aclose()
    assert await redis.pttl(names.GATEWAY_RATE.format(token.token_id)) > 0


async def test_a_slow_rate_says_how_long(redis: Redis) -> None:
    token, _ = await make(redis, requests_per_s=0.1)
    await Tokens(redis).count(token)
    with pytest.raises(RateExceeded) as refused:
        await Tokens(redis).count(token)
    assert 9 <= refused.value.retry_after_s <= 10


async def test_the_rate_is_counted_on_the_oldest_server(old_buffer: Server) -> None:
    client = await connect(old_buffer.url)
    token, _ = await make(client, requests_per_s=1)
    await Tokens(client).count(token)
    with pytest.raises(RateExceeded):
        await Tokens(client).count(token)
    await client.aclose()


@pytest.mark.parametrize(
    "wanted",
    [
        {"scopes": ()},
        {"scopes": ("root",)},
        {"scopes": ("rate",)},
        {"oracle": "people"},
        {"team": "two words"},
        {"team": "x" * 61},
        {"requests_per_s": 0},
        {"requests_per_s": float("inf")},
        {"expires_s": -1},
    ],
)
def test_a_token_that_cannot_be_meant_is_refused(wanted: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TokenRequest.model_validate({"team": "vision", "scopes": ("score",), **wanted})


async def test_what_cannot_be_read_is_refused_not_a_fault(redis: Redis) -> None:
    token, text = await make(redis)
    await redis.hset(names.GATEWAY_TOKENS, token.token_id, '{"from": "another version"}')
    with pytest.raises(TokenRefused, match="cannot be read"):
        await Tokens(redis).check(text)


async def test_every_change_is_one_line(redis: Redis) -> None:
    before = time.time()
    token, _ = await make(redis, team="ocr")
    await Tokens(redis).revoke(token.token_id, actor=Actor(token_id="a1", team="infra"))
    revoked, created = await Audit(redis).latest(10)
    assert (created.action, created.actor, created.subject) == ("token.create", OPERATOR, token.token_id)
    assert created.detail == {"token_team": "ocr", "scopes": ["score"]}
    assert (revoked.action, revoked.actor.team) == ("token.revoke", "infra")
    assert before - 1 < created.at <= revoked.at < time.time() + 1
    assert len(await Audit(redis).latest(1)) == 1


async def test_the_audit_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.audit.KEPT", 10)
    for number in range(300):
        await Audit(redis).record(OPERATOR, "test", str(number))
    assert await redis.xlen(names.GATEWAY_AUDIT) < 200  # the server trims in whole nodes
    assert json.loads((await Audit(redis).latest(1))[0].to_json())["subject"] == "299"
