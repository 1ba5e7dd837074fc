"""Invite links: signed, expiring, for so many raters, revocable, and each change an audit line."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr, ValidationError
from redis.asyncio import Redis

from rewardmesh.wire.errors import InviteRefused
from services.gateway.audit import OPERATOR, Audit
from services.preference import invites as module
from services.preference.invites import Invite, InviteRequest, Invites
from services.preference.settings import PreferenceSettings

SECRET = SecretStr("a secret of these tests alone")


async def make(redis: Redis, **wanted: object) -> tuple[Invite, str]:
    return await Invites(redis, SECRET).create(InviteRequest.model_validate(wanted), actor=OPERATOR)


async def test_a_link_brings_its_invite_and_can_be_had_again(redis: Redis) -> None:
    invites = Invites(redis, SECRET)
    invite, link_token = await make(redis, label="friends", completion_code="C1-9")
    assert await invites.check(link_token) == invite
    assert (invite.label, invite.completion_code, invite.max_raters) == ("friends", "C1-9", 1)
    assert invites.link_token(invite.invite_id) == link_token
    assert await invites.all() == [invite]


async def test_a_forged_link_is_refused_before_anything_is_looked_up(redis: Redis) -> None:
    invite, link_token = await make(redis)
    other, _ = await make(redis)
    signature = link_token.rpartition(".")[2]
    of_another_secret = Invites(redis, SecretStr("another secret, as long as that")).link_token(invite.invite_id)
    flipped = link_token[:-1] + ("A" if link_token[-1] != "A" else "Q")
    for forged in ("", ".", invite.invite_id, f"{other.invite_id}.{signature}", flipped, of_another_secret, "é.é"):
        with pytest.raises(InviteRefused, match="not one of ours"):
            await Invites(redis, SECRET).check(forged)


async def test_a_link_ends_at_its_time(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    invite, link_token = await make(redis, expires_s=60)
    monkeypatch.setattr(module.time, "time", lambda: invite.created + 59.9)
    assert await Invites(redis, SECRET).check(link_token) == invite
    monkeypatch.setattr(module.time, "time", lambda: invite.created + 60)
    with pytest.raises(InviteRefused, match="expired"):
        await Invites(redis, SECRET).check(link_token)


async def test_a_revoked_link_is_refused_at_once_and_stays_listed(redis: Redis) -> None:
    invites = Invites(redis, SECRET)
    invite, link_token = await make(redis)
    assert (await invites.revoke(invite.invite_id, actor=OPERATOR)).revoked
    await invites.revoke(invite.invite_id, actor=OPERATOR)
    with pytest.raises(InviteRefused, match="withdrawn"):
        await invites.check(link_token)
    with pytest.raises(InviteRefused, match="withdrawn"):
        await invites.valid(invite.invite_id)
    assert [one.revoked for one in await invites.all()] == [True]
    with pytest.raises(InviteRefused, match="no such invite"):
        await invites.revoke("nobody", actor=OPERATOR)


async def test_an_invite_has_so_many_places_and_who_is_in_stays_in(redis: Redis) -> None:
    invites = Invites(redis, SECRET)
    invite, _ = await make(redis, max_raters=3)

    async def comes(rater_id: str) -> bool:
        try:
            await invites.admit(invite, rater_id)
        except InviteRefused:
            return False
        return True

    admitted = await asyncio.gather(*(comes(f"rater-{number}") for number in range(20)))
    assert sum(admitted) == 3 == await invites.num_raters(invite.invite_id)
    inside = f"rater-{admitted.index(True)}"
    assert await comes(inside)
    assert not await comes("one more")


async def test_every_change_leaves_an_audit_line_without_the_link(redis: Redis) -> None:
    invite, link_token = await make(redis, label="friends")
    await Invites(redis, SECRET).revoke(invite.invite_id, actor=OPERATOR)
    lines = await Audit(redis).latest(10)
    assert [(one.action, one.subject) for one in lines] == [
        ("invite.revoke", invite.invite_id),
        ("invite.create", invite.invite_id),
    ]
    assert link_token not in str(lines)


async def test_an_invite_of_another_version_is_refused_and_no_fault(redis: Redis) -> None:
    invite, link_token = await make(redis)
    await redis.hset("rm:preference:invites", invite.invite_id, '{"invite_id": "from the future"}')
    with pytest.raises(InviteRefused, match="cannot be read"):
        await Invites(redis, SECRET).check(link_token)


@pytest.mark.parametrize(
    "wanted", [{"max_raters": 0}, {"expires_s": 0}, {"label": "line\nbreak"}, {"completion_code": "<b>"}]
)
def test_an_invite_that_cannot_be_meant_is_refused(wanted: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        InviteRequest.model_validate(wanted)


def test_settings_show_no_secret() -> None:
    settings = PreferenceSettings(
        redis_url="unix:///nowhere", secret=SECRET, gateway_url="http://127.0.0.1:8000/gateway", gateway_token=SECRET
    )
    assert SECRET.get_secret_value() not in repr(settings) + settings.model_dump_json()
