"""What must not be recorded: forged, expired and foreign things. A clear answer, and a line in the audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from services.preference.model import Comparison, Group, digest_of
from services.preference.sessions import RaterSession
from tests.unit.services.preference.asking import NOW, accept, group_of
from tests.unit.services.preference.people import Here, hidden, serve

FAR = 4e9


@pytest.fixture
async def here(redis: Redis) -> AsyncIterator[Here]:
    async with serve(redis) as here:
        await accept(here.queue, 3, until=FAR)
        yield here


Attempt = Callable[[Here, httpx.AsyncClient], Awaitable[httpx.Response]]


async def lease_of_another(here: Here) -> str:
    async with here.browser(await here.invite()) as other:
        return hidden((await other.get("/")).text, "lease_id")


async def choice(client: httpx.AsyncClient, **changed: Any) -> httpx.Response:
    mine = {"lease_id": hidden((await client.get("/")).text, "lease_id"), "look_s": 2}
    return await client.post("/api/choice", json=mine | {"choice": "left", "choice_id": "choice-00"} | changed)


async def a_lease_of_another(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await choice(client, lease_id=await lease_of_another(here))


async def renewing_a_lease_of_another(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/api/renew", json={"lease_id": await lease_of_another(here)})


async def a_settled_comparison(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    lease_id = hidden((await client.get("/")).text, "lease_id")
    group = here.queue._state.groups["run/g1"]
    group.group = group.group.model_copy(update={"until": NOW})
    await here.queue.close_due()
    return await choice(client, lease_id=lease_id)


async def a_choice_of_another_mode(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await choice(client, choice="like")


async def a_choice_that_does_not_exist(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await choice(client, choice="both_good")


async def a_look_of_minus_one(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await choice(client, look_s=-1)


async def a_key_more(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await choice(client, rater_id="somebody.else")


async def a_tampered_form(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    page = (await client.get("/")).text
    form = {"lease_id": hidden(page, "lease_id"), "choice": "left", "choice_id": "<script>", "shown_at": "nan"}
    return await client.post("/choose", data=form)


async def from_another_site(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/api/undo", json={}, headers={"Origin": "https://evil.example"})


async def from_another_site_as_browsers_say(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/undo", headers={"Sec-Fetch-Site": "cross-site", "Origin": "null"})


async def a_picture_of_another_pair(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    mine = (await client.post("/api/lease", json={})).json()["pictures"]
    async with here.browser(await here.invite()) as other:
        theirs = (await other.post("/api/lease", json={})).json()["pictures"]
    (not_mine,) = set(theirs) - set(mine)
    return await client.get(f"/{not_mine}")


async def a_forged_invite(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    link = await here.invite()
    return await client.get(f"/join/{link[:-4]}AAAA")


async def an_expired_invite(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    link = await here.invite(expires_s=1e-3)
    await asyncio.sleep(0.01)
    return await client.post(f"/join/{link}")


async def a_forged_bearer(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    return await client.get("/api/me", headers={"Authorization": "Bearer x.y", "X-Rater": "ada"})


async def a_name_that_is_none(here: Here, client: httpx.AsyncClient) -> httpx.Response:
    headers = {"Authorization": f"Bearer {await here.invite()}", "X-Rater": "../ada"}
    return await client.get("/api/me", headers=headers)


ATTEMPTS: list[tuple[Attempt, int, str]] = [
    (a_lease_of_another, 409, "LeaseLost"),
    (renewing_a_lease_of_another, 409, "LeaseLost"),
    (a_settled_comparison, 409, "LeaseLost"),
    (a_choice_of_another_mode, 409, "ChoiceRefused"),
    (a_choice_that_does_not_exist, 422, "ProtocolError"),
    (a_look_of_minus_one, 422, "ProtocolError"),
    (a_key_more, 422, "ProtocolError"),
    (a_tampered_form, 422, "ProtocolError"),
    (from_another_site, 403, "AccessError"),
    (from_another_site_as_browsers_say, 403, "AccessError"),
    (a_picture_of_another_pair, 409, "LeaseLost"),
    (a_forged_invite, 403, "InviteRefused"),
    (an_expired_invite, 403, "InviteRefused"),
    (a_forged_bearer, 403, "InviteRefused"),
    (a_name_that_is_none, 422, "ProtocolError"),
]


@pytest.mark.parametrize(("attempt", "status", "kind"), ATTEMPTS, ids=lambda one: getattr(one, "__name__", ""))
async def test_it_is_refused_and_nothing_is_recorded(here: Here, attempt: Attempt, status: int, kind: str) -> None:
    async with here.browser(await here.invite()) as client:
        answer = await attempt(here, client)
    assert answer.status_code == status, answer.text
    path = answer.request.url.path
    if "/api/" in path or "/picture/" in path:
        assert answer.json()["error"]["kind"] == kind
    else:
        assert "<h1>" in answer.text
        assert "Go on" in answer.text
    assert await here.queue.latest(9) == []
    (line,) = await here.refusals()
    assert line.action == f"refused.{kind}"
    assert "join/" not in line.subject or "{link}" in line.subject, "no invite in the audit"


async def test_a_forged_cookie_is_nobody(here: Here) -> None:
    async with here.browser(await here.invite()) as client:
        name, value = "rewardmesh_rater", client.cookies["rewardmesh_rater"]
        session = RaterSession(rater_id="someone.else", invite_id="i", since=0, num_before=0)
        for forged in (f"{value[:-2]}AA", session.to_json(), ""):
            client.cookies.set(name, forged, path="/preference/", domain="127.0.0.1")
            assert (await client.post("/api/lease", json={})).status_code == 401


@pytest.mark.parametrize("data", [b"<svg onload=alert(1)>", b"GIF89a" + bytes(40), b"%PDF-1.7"])
async def test_a_picture_of_unsafe_type_is_not_shown(redis: Redis, data: bytes) -> None:
    """The oracle's side takes none; were one there all the same, no browser gets it."""
    async with serve(redis) as here:
        group, pictures = group_of(2, until=FAR)
        group, pictures = _with(group, pictures, data)
        await here.queue.accept(group, pictures, [Comparison(comparison_id="c", group_key=group.key, first=0, second=1)])
        async with here.browser(await here.invite()) as client:
            await client.get("/")
            unsafe = await client.get(f"/picture/{group.pictures[0].digest}")
            assert (unsafe.status_code, unsafe.json()["error"]["kind"]) == (422, "PictureRejected")
            assert (await client.get(f"/picture/{group.pictures[1].digest}")).headers["content-type"] == "image/webp"
        assert [line.action for line in await here.refusals()] == ["refused.PictureRejected"]


def _with(group: Group, pictures: list[bytes], data: bytes) -> tuple[Group, list[bytes]]:
    first = group.pictures[0].model_copy(update={"digest": digest_of(data)})
    return group.model_copy(update={"pictures": (first, *group.pictures[1:])}), [data, *pictures[1:]]


async def test_large_and_endless_bodies(here: Here) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"

    async with here.browser(await here.invite()) as client:
        assert (await client.post("/api/lease", content=b"x" * 70_000)).status_code == 413
        assert (await client.post("/api/lease", content=endless())).status_code == 411


async def test_an_unreachable_buffer_is_said_and_nothing_is_lost(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    from rewardmesh.wire.errors import BufferUnavailable

    async def away(*_: Any, **__: Any) -> None:
        raise BufferUnavailable("the server does not answer", "queue", "try again")

    async with here.browser(await here.invite()) as client:
        page = (await client.get("/")).text
        lease_id = hidden(page, "lease_id")
        with monkeypatch.context() as patch:
            patch.setattr(here.queue, "choose", away)
            answer = await choice(client, lease_id=lease_id)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await choice(client, lease_id=lease_id)).json()["first_time"]
