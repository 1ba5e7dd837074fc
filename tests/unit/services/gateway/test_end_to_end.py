"""From a URL to rewards: register, submit, wait, results; dead letters; late answers; the page. Real parts, no Ray."""

from __future__ import annotations

import base64
import time
from typing import Any

import httpx

from rewardmesh.wire.codec import PNG
from services.gateway.app import build_gateway
from tests.unit.services.gateway.conftest import LOOPBACK, Front, png, serving


def submission(*pictures: str, oracles: tuple[str, ...] = ("blue",), **more: Any) -> dict[str, Any]:
    items = [{"prompt": "a photo", "media_type": PNG, "picture_base64": one} for one in pictures]
    return {"oracles": oracles, "pictures": items, **more}


async def register(client: httpx.AsyncClient, url: str, **limits: Any) -> None:
    answer = await client.post("/v1/oracles", json={"url": url, "concurrency": 2, **limits})
    assert answer.status_code == 201, answer.text


async def wait(client: httpx.AsyncClient, group_id: str) -> dict[str, Any]:
    for _ in range(3):
        answer = await client.get(f"/v1/groups/{group_id}", params={"wait_s": 15})
        assert answer.status_code == 200, answer.text
        if answer.json()["complete"]:
            return dict(answer.json()["oracles"])
    raise AssertionError(answer.text)


async def test_register_submit_wait_results(front: Front, blue: str, worker: object) -> None:
    async with front.client("admin", "score") as client:
        await register(client, blue)
        shown = (await client.get("/v1/oracles/blue")).json()
        assert shown["endpoint"] | {"url": blue, "version": "1", "max_batch": 8, "state": "active"} == shown["endpoint"]
        assert shown["breaker"]["kind"] == "closed"
        assert [one["endpoint"]["name"] for one in (await client.get("/v1/oracles")).json()] == ["blue"]

        sent = (await client.post("/v1/groups", json=submission(png(0), png(51), png(red=True)))).json()
        assert sent["accepted"] == {"blue": True}
        answers = (await wait(client, sent["group_id"]))["blue"]
        first, second, third = (answers["results"][sample_id] for sample_id in sent["sample_ids"])
        assert (first["reward"], second["reward"]) == (0.0, 0.2)
        assert (third["kind"], third["code"]) == ("failed", "oracle_error")
        assert answers["version"] == "1"
        assert answers["provenance"][sent["sample_ids"][0]] == {"version": "1", "media_type": PNG, "cached": False}

        # Dead letters: the one that failed, with its picture; asked about again, it fails again; then it is dropped.
        place = "/v1/runs/gateway.vision/oracles/blue/dead-letters"
        (letter,) = (await client.get(place)).json()
        assert (letter["sample"]["sample_id"], letter["has_picture"]) == (sent["sample_ids"][2], True)
        assert letter["picture_base64"] is None
        one = (await client.get(f"{place}/{letter['letter_id']}")).json()
        assert one["picture_base64"] == png(red=True)
        assert (await client.post(f"{place}/{letter['letter_id']}/requeue")).status_code == 204
        assert (await client.post(f"{place}/{letter['letter_id']}/requeue")).status_code == 404
        await wait(client, sent["group_id"])
        (again,) = (await client.get(place)).json()
        assert again["letter_id"] != letter["letter_id"]
        assert (await client.delete(f"{place}/{again['letter_id']}")).status_code == 204
        assert (await client.delete(f"{place}/{again['letter_id']}")).status_code == 404
        assert (await client.get(f"{place}/{again['letter_id']}")).status_code == 404
        assert (await client.get(place)).json() == []

        actions = [line["action"] for line in (await client.get("/v1/audit")).json()]
        assert actions == ["dead-letter.discard", "dead-letter.requeue", "oracle.register", "token.create"]
        assert (await client.delete(f"/v1/groups/{sent['group_id']}")).status_code == 204
        assert (await client.get(f"/v1/groups/{sent['group_id']}")).status_code == 404


async def test_multipart_is_the_same_and_a_repeat_asks_nothing_twice(front: Front, blue: str, worker: object) -> None:
    async with front.client("admin", "score") as client, front.client("score", team="other") as stranger:
        await register(client, blue)
        data = base64.b64decode(png(255))
        item = {"prompt": "a photo", "media_type": PNG, "picture": "p0"}
        request = {"oracles": ["blue"], "pictures": [item], "group_id": "mine"}
        files = {"request": (None, httpx.Request("POST", "http://x", json=request).content), "p0": ("p0", data, PNG)}
        answers = []
        for _ in range(2):
            sent = await client.post("/v1/groups", files=files)
            assert sent.status_code == 202, sent.text
            answers.append(await wait(client, "mine"))
        assert answers[0] == answers[1]
        assert answers[0]["blue"]["results"]["mine.0"]["reward"] == 1.0
        assert (await stranger.get("/v1/groups/mine")).status_code == 404  # a team sees its own


async def test_a_wait_has_an_end(front: Front, blue: str) -> None:
    async with front.client("admin", "score") as client:  # nobody works here
        await register(client, blue)
        sent = (await client.post("/v1/groups", json=submission(png()))).json()
        began = time.monotonic()
        answer = (await client.get(f"/v1/groups/{sent['group_id']}", params={"wait_s": 0.3})).json()
        assert time.monotonic() - began >= 0.3
        assert (answer["complete"], answer["oracles"]["blue"]["results"]) == (False, {})
        assert (await client.get(f"/v1/groups/{sent['group_id']}", params={"wait_s": 31})).status_code == 422


async def test_a_full_budget_is_429(front: Front, blue: str, monkeypatch: Any) -> None:
    async with front.client("admin", "score") as client:
        await register(client, blue)
        run = "gateway.vision"
        await client.post("/v1/groups", json=submission(png(), group_id="first"))
        await front.gateway.redis.hset(f"rm:{{{run}}}:stat:blue", "bytes", 64 * 2**20)
        refused = await client.post("/v1/groups", json=submission(png(), group_id="second"))
        assert (refused.status_code, refused.json()["error"]["kind"]) == (429, "BufferFull")
        assert refused.headers["retry-after"] == "1"


async def test_what_cannot_be_scored_is_refused_with_its_place(front: Front, blue: str) -> None:
    animated = b"RIFF" + (100).to_bytes(4, "little") + b"WEBPVP8X" + bytes(100)
    bomb = base64.b64decode(png())
    bomb = bomb[:16] + (65_000).to_bytes(4, "big") * 2 + bomb[24:]
    async with front.client("admin", "score") as client:
        await register(client, blue)
        for body, word in (
            (submission(png(), "bm8="), "picture 1"),
            (submission("%%"), "base64"),
            (submission(base64.b64encode(bomb).decode()), "65000"),
            (submission(base64.b64encode(animated).decode()), "picture 0"),
            (submission(png(), oracles=("nobody",)), "nobody"),
            (submission(png(), oracles=("blue", "blue")), "twice"),
            (submission(), "pictures"),
            (submission(png(), group_id="a/b"), "group_id"),
            (submission(png()) | {"frobnicate": 1}, "frobnicate"),
        ):
            answer = await client.post("/v1/groups", json=body)
            assert answer.status_code in {404, 422}, answer.text
            assert word in answer.text, answer.text
        missing = {"oracles": ["blue"], "pictures": [{"prompt": "", "media_type": PNG, "picture": "p9"}]}
        files = {"request": (None, httpx.Request("POST", "http://x", json=missing).content)}
        assert "missing" in (await client.post("/v1/groups", files=files)).text
        assert (await client.post("/v1/groups", content=b"x", headers={"Content-Type": "text/plain"})).is_client_error


async def test_late_answers_are_the_oracle_s_own(front: Front, blue: str) -> None:
    async with front.client("admin", "score") as client:
        await register(client, blue)
        sent = (await client.post("/v1/groups", json=submission(png(), png()))).json()
        ids = {"run_id": "gateway.vision", "group_id": sent["group_id"]}

        def answer(index: int, **result: Any) -> dict[str, Any]:
            return {"version": "7", "results": [ids | {"result": {"sample_id": sent["sample_ids"][index], **result}}]}

        good = answer(0, kind="scored", reward=0.5)
        async with front.client("rate", oracle="blue") as people, front.client("rate", oracle="red") as others:
            assert (await others.post("/v1/oracles/blue/results", json=good)).status_code == 403
            assert (await people.post("/v1/oracles/blue/results", json=good)).json() == {"recorded": 1, "ignored": 0}
            assert (await people.post("/v1/oracles/blue/results", json=good)).json() == {"recorded": 0, "ignored": 1}
            outside = answer(1, kind="scored", reward=1.5)
            assert "outside" in (await people.post("/v1/oracles/blue/results", json=outside)).text
            stale = answer(1, kind="failed", code="stale", detail="", retryable=False)
            assert (await people.post("/v1/oracles/blue/results", json=stale)).status_code == 422
            assert (await people.get("/v1/oracles")).status_code == 403
        known = (await client.get(f"/v1/groups/{sent['group_id']}")).json()["oracles"]["blue"]
        assert [result["reward"] for result in known["results"].values()] == [0.5]
        assert known["version"] == "7"


async def test_oracles_survive_a_restart_of_the_gateway(front: Front, blue: str, buffer: Any) -> None:
    async with front.client("admin") as client:
        await register(client, blue, max_batch=4, secret="s3cret-s3cret")
    async with serving(build_gateway(buffer.url, LOOPBACK)) as url:
        again = Front(url, front.gateway)
        async with again.client("admin") as client:
            shown = (await client.get("/v1/oracles/blue")).text
            assert '"max_batch":4' in shown
            assert '"has_secret":true' in shown
            assert "s3cret-s3cret" not in shown


async def test_the_page_shows_everything_and_runs_nothing(front: Front, blue: str) -> None:
    async with front.client("admin") as client:
        await register(client, blue)
        await front.gateway.registry.put_run("run-1")
        await front.gateway.stream("run-1").set_iteration(1_234)
        page = await client.get("/")
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        for word in ("blue", blue, "run-1", "1,234", "closed", "dead letters", "valkey"):
            assert word in page.text
        assert "<script" not in page.text
        status = (await client.get("/v1/status")).json()
        assert status["runs"] == [{"run_id": "run-1", "iteration": 1_234}]
        assert [(one["run_id"], one["lag"]) for one in status["depths"]] == [("run-1", 0)]
    async with httpx.AsyncClient(trust_env=False) as browser:
        refused = await browser.get(front.url)
        assert refused.status_code == 401
        assert "Basic" in refused.headers["www-authenticate"]
        assert (await browser.get(front.url, auth=("any", await front.token("score")))).status_code == 200


async def test_what_the_page_shows_is_escaped(front: Front) -> None:
    from rewardmesh.wire.messages import OracleEndpoint

    await front.gateway.registry.put_oracle(OracleEndpoint(name="x", url="http://x/<script>1</script>", max_batch=1))
    async with front.client("admin") as client:
        page = (await client.get("/")).text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
