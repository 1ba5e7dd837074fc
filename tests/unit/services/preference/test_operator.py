"""The operator's page: who may see it, what it shows, what it changes, and the line that each change leaves."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator

import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from rewardmesh.wire.codec import WEBP, encode_picture
from services.gateway.audit import OPERATOR
from services.preference.model import GoldPair, digest_of
from tests.unit.services.preference.asking import accept, choose, picture, rater
from tests.unit.services.preference.people import Here, hidden, serve

FAR = 4e9


@pytest.fixture
async def here(redis: Redis) -> AsyncIterator[Here]:
    async with serve(redis) as here:
        yield here


async def actions(here: Here) -> list[str]:
    return [line.action for line in await here.preference.audit.latest(100)]


async def test_signing_in(here: Here) -> None:
    async with here.browser() as client:
        assert "Sign in" in (await client.get("/operator")).text
        for text in ("nonsense", await here.admin_token("score")):
            refused = await client.post("/operator/signin", data={"token": text})
            assert refused.status_code in {401, 403}
            assert text not in refused.text
        good = await here.admin_token()
        shown = await client.post("/operator/signin", data={"token": good})
        assert "comparisons waiting" in shown.text
        cookie = shown.history[0].headers["set-cookie"]
        assert good not in cookie
        assert good.rpartition("_")[2] not in cookie
        for part in ("HttpOnly", "SameSite=strict", "Path=/preference/"):
            assert part in cookie
        token_id = good.split("_")[1]
        await here.preference.tokens.revoke(token_id, actor=OPERATOR)
        assert "Sign in" in (await client.get("/operator")).text
        assert (await client.post("/operator/pause", data={"paused": "true"})).status_code == 401
    assert "operator.sign-in" in await actions(here)


async def test_nothing_is_shown_or_changed_without_signing_in(here: Here) -> None:
    async with here.browser(await here.invite()) as client:
        for path in ("/operator/preferences.jsonl", "/operator/picture/x"):
            assert (await client.get(path)).status_code == 401
        for path in ("pause", "rater", "invite", "revoke"):
            form = {"paused": "true", "rater_id": "x", "invite_id": "x"}
            assert (await client.post(f"/operator/{path}", data=form)).status_code == 401
    assert not (await here.queue.depth()).paused


async def test_what_it_shows(here: Here) -> None:
    await accept(here.queue, 3, until=FAR)
    pictures = [encode_picture(picture(shade), WEBP) for shade in (1, 2)]
    pair = GoldPair(
        gold_id="g7", prompt="a gold prompt", first=digest_of(pictures[0]), second=digest_of(pictures[1]), preferred="second"
    )
    await here.queue.add_gold(pair, pictures)
    ada = await rater(here.queue, "ada")
    shown = await choose(here.queue, ada)
    await here.queue.pause_rater(await rater(here.queue, "<b>bea</b>"), paused=True, why="below the rate")
    async with here.operator() as client:
        page = (await client.get("/operator")).text
        assert "ada" in page
        assert "paused: below the rate" in page
        assert "&lt;b&gt;bea" in page, "escaped"
        assert "a gold prompt" in page
        assert '<dd>2</dd>' in page.partition("comparisons waiting")[2][:40]
        seen = await client.get(f"/operator/picture/{shown.left}")  # type: ignore[union-attr]
        assert seen.headers["content-type"] == "image/webp"
        assert f"/operator/picture/{shown.left}" in page  # type: ignore[union-attr]


async def test_changes_leave_lines(here: Here) -> None:
    ada = await rater(here.queue, "ada")
    async with here.operator() as client:
        await client.post("/operator/pause", data={"paused": "true"})
        assert (await here.queue.depth()).paused
        await client.post("/operator/pause", data={"paused": "false"})
        await client.post("/operator/rater", data={"rater_id": ada, "paused": "true"})
        known = await here.queue.rater(ada)
        assert known is not None
        assert (known.paused, known.why_paused) == (True, "by an operator")
        form = {"label": "study 1", "days": "2", "max_raters": "30", "num_choices": "50", "completion_code": "C0DE"}
        page = (await client.post("/operator/invite", data=form)).text
        (invite,) = await here.preference.invites.all()
        assert (invite.label, invite.max_raters, invite.num_choices) == ("study 1", 30, 50)
        link = here.preference.invites.link_token(invite.invite_id)
        assert f"{here.url}/join/{link}" in page
        async with here.browser(link) as somebody:
            assert (await somebody.get("/")).status_code == 200
            assert hidden(page, "invite_id") == invite.invite_id
            await client.post("/operator/revoke", data={"invite_id": invite.invite_id})
            assert (await somebody.get("/")).status_code == 403, "a session ends with its invite"
            assert (await somebody.get(f"/join/{link}")).status_code == 403
    lines = ["invite.revoke", "rater.join", "invite.create", "rater.pause", "queue.resume", "queue.pause"]
    assert [one for one in await actions(here) if one in lines] == lines


async def test_export(here: Here) -> None:
    group = await accept(here.queue, 2, until=FAR)
    ada = await rater(here.queue, "ada")
    await choose(here.queue, ada)
    await here.queue.close_due()
    await here.queue.settled(group.key)
    async with here.operator() as client:
        lines = await client.get("/operator/preferences.jsonl")
        (row,) = [json.loads(line) for line in lines.text.splitlines()]
        assert row["caption"] == "two red circles"
        assert "attachment" in lines.headers["content-disposition"]
        table = pq.read_table(io.BytesIO((await client.get("/operator/preferences.parquet?pictures=true")).content))
        assert table.num_rows == 1
        assert table["jpg_0"][0].as_py()
    assert (await actions(here)).count("export") == 2
