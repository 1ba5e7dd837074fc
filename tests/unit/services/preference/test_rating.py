"""Rating over HTTP: as a program with an invite, and as plain forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from services.preference.guard import HEADERS
from tests.unit.services.preference.asking import accept
from tests.unit.services.preference.people import QUIET, Here, hidden, serve

FAR = 4e9


@pytest.fixture
async def here(redis: Redis) -> AsyncIterator[Here]:
    async with serve(redis) as here:
        await accept(here.queue, 3, until=FAR)
        yield here


def program(here: Here, link: str, name: str = "ada") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {link}", "X-Rater": name}
    return httpx.AsyncClient(base_url=here.url, headers=headers, trust_env=False, timeout=30)


def made(
    pair: dict[str, object], choice: str = "left", choice_id: str = "choice-00", look_s: float = 1
) -> dict[str, object]:
    return {"lease_id": pair["lease_id"], "choice": choice, "choice_id": choice_id, "look_s": look_s}


async def test_a_program_rates_with_an_invite(here: Here) -> None:
    async with program(here, await here.invite()) as client:
        pair = (await client.post("/api/lease", json={})).json()
        assert pair["kind"] == "pair"
        assert pair["prompt"] == "two red circles"
        assert set(pair) == {"kind", "lease_id", "prompt", "pictures", "lease_s", "expires_in_s"}, "or gold shows"
        pictures = [await client.get(f"/{path}") for path in pair["pictures"]]
        assert [one.headers["content-type"] for one in pictures] == ["image/webp"] * 2
        assert pictures[0].headers["cache-control"] == "private, max-age=86400, immutable"

        kept = (await client.post("/api/choice", json=made(pair))).json()
        assert (kept["first_time"], kept["me"]["num_choices"], kept["me"]["num_waiting"]) == (True, 1, 2)
        again = (await client.post("/api/choice", json=made(pair))).json()
        assert (again["first_time"], again["me"]["num_choices"]) == (False, 1)
        assert (await client.get("/api/me")).json()["min_look_s"] == 0.5

        back = (await client.post("/api/undo", json={})).json()
        assert back["pictures"] == pair["pictures"]
        assert (await client.get("/api/me")).json()["num_choices"] == 0
        renewed = (await client.post("/api/renew", json={"lease_id": back["lease_id"]})).json()
        assert renewed["expires_in_s"] == pytest.approx(90, abs=5)
    (answer,) = await here.queue.raters()
    assert answer.rater_id.endswith(".ada")


async def test_a_lease_is_given_again_until_the_sender_has_it(here: Here) -> None:
    async with program(here, await here.invite()) as client:
        first = (await client.post("/api/lease", json={})).json()
        assert (await client.post("/api/lease", json={})).json()["lease_id"] == first["lease_id"]
        second = (await client.post("/api/lease", json={"have": [first["lease_id"]]})).json()
        assert second["lease_id"] != first["lease_id"]
        both = {"have": [first["lease_id"], second["lease_id"]]}
        assert (await client.post("/api/lease", json=both)).json() == {"kind": "nothing", "reason": "too_many_leases"}


async def test_a_pair_shown_again_has_its_whole_time(here: Here) -> None:
    async with program(here, await here.invite()) as client:
        pair = (await client.post("/api/lease", json={})).json()
        await asyncio.sleep(1)
        again = (await client.post("/api/lease", json={})).json()
        assert again["lease_id"] == pair["lease_id"]
        assert again["expires_in_s"] > pair["expires_in_s"] - 0.5


async def test_a_choice_counts_after_a_look(here: Here) -> None:
    async with program(here, await here.invite()) as client:
        pair = (await client.post("/api/lease", json={})).json()
        refused = await client.post("/api/choice", json=made(pair, look_s=0.49))
        assert (refused.status_code, refused.json()["error"]["kind"]) == (409, "ChoiceRefused")
        assert (await client.post("/api/choice", json=made(pair, "skip", look_s=0))).json()["first_time"]


async def test_choices_are_told_to_the_log(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    async with program(here, await here.invite()) as client:
        pair = (await client.post("/api/lease", json={})).json()
        await client.post("/api/choice", json=made(pair, choice_id="choice-17"))
        await client.post("/api/choice", json=made(pair, choice_id="choice-17"))
    said = capsys.readouterr()
    assert (said.out + said.err).count("choice-17") == 1


async def test_joining_by_a_link(here: Here) -> None:
    link = await here.invite(max_raters=2)
    async with here.browser() as client:
        looked = await client.get(f"/join/{link}")
        assert "Begin" in looked.text
        assert await here.queue.raters() == [], "looking at a link lets nobody in"
        assert (await client.get("/")).status_code == 401

        joined = await client.post(f"/join/{link}")
        assert "two red circles" in joined.text
        (cookie,) = joined.history[0].headers.get_list("set-cookie")
        for part in ("HttpOnly", "SameSite=strict", "Path=/preference/"):
            assert part in cookie
        assert "Secure" not in cookie, "it came by http"
        assert link not in cookie
        await client.post(f"/join/{link}")
    assert len(await here.queue.raters()) == 1, "the same browser is the same rater"
    async with here.browser() as client:
        behind_tls = await client.post(f"/join/{link}", headers={"X-Forwarded-Proto": "https"}, follow_redirects=False)
        assert "Secure" in behind_tls.headers["set-cookie"]
    async with here.browser() as client:
        assert (await client.post(f"/join/{link}")).status_code == 403, "two places"


async def test_prolific(here: Here) -> None:
    link = await here.invite(max_raters=9, num_choices=2, completion_code="C0DE")
    async with here.browser() as client:
        asked = await client.get(f"/join/{link}", params={"PROLIFIC_PID": "5f0", "STUDY_ID": "s", "SESSION_ID": "t"})
        ids = {name: hidden(asked.text, name) for name in ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")}
        await client.post(f"/join/{link}", data=ids)
        for number in range(2):
            page = (await client.get("/")).text
            assert "C0DE" not in page, "before it is earned"
            answer = await client.post("/choose", data=form(page, "tie"))
            assert f'<strong id="count">{number + 1}</strong> of 2' in answer.text
        assert "https://app.prolific.com/submissions/complete?cc=C0DE" in answer.text
        assert (await client.get("/api/me")).json()["completion_code"] == "C0DE"
    async with here.browser(link, PROLIFIC_PID="5f0") as client:
        assert "C0DE" in (await client.get("/")).text, "the same person, in another browser"
    (rater,) = await here.queue.raters()
    assert rater.prolific_pid == "5f0"
    (joined,) = [line for line in await here.preference.audit.latest(9) if line.action == "rater.join"]
    assert joined.detail == {"PROLIFIC_PID": "5f0", "STUDY_ID": "s", "SESSION_ID": "t"}


def form(page: str, choice: str) -> dict[str, str]:
    return {"choice": choice} | {name: hidden(page, name) for name in ("lease_id", "choice_id", "shown_at")}


async def test_plain_forms(here: Here) -> None:
    async with here.browser(await here.invite()) as client:
        first = (await client.get("/")).text
        assert hidden((await client.get("/")).text, "lease_id") == hidden(first, "lease_id"), "reloaded"
        for _ in range(2):  # a double click
            answer = await client.post("/choose", data=form(first, "left"))
            assert (answer.status_code, [one.status_code for one in answer.history]) == (200, [303])
        assert '<strong id="count">1</strong>' in answer.text
        late = await client.post("/choose", data=form(first, "right") | {"choice_id": "another-id"})
        assert late.status_code == 409
        assert "Another choice was made here already" in late.text
        second = (await client.get("/")).text
        back = (await client.post("/undo")).text
        assert hidden(back, "lease_id") != hidden(second, "lease_id"), "the one that was taken back, not the one held"
        assert '<strong id="count">0</strong>' in back
        none = await client.post("/undo")
        assert (none.status_code, "Go on" in none.text) == (409, True)


async def test_an_undo_after_the_choice_was_used_is_refused(here: Here) -> None:
    async with program(here, await here.invite()) as client:
        for number in range(3):
            pair = (await client.post("/api/lease", json={})).json()
            await client.post("/api/choice", json=made(pair, choice_id=f"choice-0{number}"))
        await here.queue.close_due()
        refused = await client.post("/api/undo", json={})
        assert (refused.status_code, refused.json()["error"]["kind"]) == (409, "NothingToUndo")
        assert (await client.post("/api/lease", json={})).json() == {"kind": "nothing", "reason": "empty"}


@pytest.mark.parametrize("reason", ["empty", "paused", "rater_paused"])
async def test_words_for_nothing_to_show(here: Here, reason: str) -> None:
    async with here.browser(await here.invite()) as client:
        (rater,) = await here.queue.raters()
        for lease in await here.queue.held(rater.rater_id):
            await here.queue.release(lease.lease_id, rater_id=rater.rater_id)
        if reason == "empty":
            while (await client.post("/api/lease", json={})).json()["kind"] == "pair":
                page = (await client.get("/")).text
                await client.post("/choose", data=form(page, "tie"))
        elif reason == "paused":
            await here.queue.pause(paused=True)
        else:
            await here.queue.pause_rater(rater.rater_id, paused=True)
        page = (await client.get("/")).text
    (shown,) = [part for part in page.split("<section")[1:] if " hidden" not in part.partition(">")[0]]
    assert f'data-say="{reason}"' in shown


async def test_single_pictures(redis: Redis) -> None:
    async with serve(redis, QUIET.model_copy(update={"mode": "singles"})) as here:
        await accept(here.queue, 2, [(0, None), (1, None)], until=FAR)
        async with here.browser(await here.invite()) as client:
            page = (await client.get("/")).text
            assert page.count("<img") == 1
            liked = await client.post("/choose", data=form(page, "like"))
            assert '<strong id="count">1</strong>' in liked.text
            wrong = await client.post("/choose", data=form(liked.text, "left"))
            assert wrong.status_code == 409
    assert [one.preferred for one in await here.queue.latest(9)] == ["like"]


async def test_every_answer_carries_the_policy(here: Here) -> None:
    async with here.browser(await here.invite()) as client:
        for path in ("/", "/join/x", "/api/me", "/static/work.js", "/nowhere", "/health", "/operator"):
            answer = await client.get(path)
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS, path
        assert (await client.get("/static/work.js")).headers["cache-control"] == "no-cache"
        assert (await client.get("/")).headers["cache-control"] == "no-store"


async def test_pages_hold_nothing_inline(here: Here) -> None:
    async with here.browser(await here.invite()) as client, here.operator() as operator:
        for page in ((await client.get("/")).text, (await operator.get("/operator")).text):
            for forbidden in ("<style", "style=", " onclick", " onload", "javascript:", "//cdn", "<script>"):
                assert forbidden not in page
