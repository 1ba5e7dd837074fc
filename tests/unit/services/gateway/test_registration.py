"""What may be registered under which name, and what is refused, with what to change."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rewardmesh.kit.app import build_app
from services.gateway.app import build_gateway
from tests.oracle_server import Call, OracleServer, Response
from tests.unit.reward_workers.test_dialects import serving as foreign
from tests.unit.services.gateway.conftest import Blue, Front, png, serving


async def refused(client: httpx.AsyncClient, **wanted: Any) -> str:
    answer = await client.post("/v1/oracles", json=wanted)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["what_to_do"]
    return answer.text


async def test_two_of_one_name_are_refused(front: Front, blue: str) -> None:
    async with front.client("admin") as client, serving(build_app(Blue())) as second:
        assert (await client.post("/v1/oracles", json={"url": blue})).status_code == 201
        for wanted in ({"url": blue}, {"url": second}, {"url": second, "name": "blue"}):
            said = await refused(client, **wanted)
            assert "is registered" in said
            assert blue in said
        assert (await client.delete("/v1/oracles/blue")).status_code == 204
        assert (await client.post("/v1/oracles", json={"url": second})).status_code == 201


async def test_of_two_registered_at_once_one_is_refused(front: Front, blue: str) -> None:
    async with front.client("admin") as client, serving(build_app(Blue())) as second:
        answers = await asyncio.gather(*(client.post("/v1/oracles", json={"url": url}) for url in (blue, second)))
        assert sorted(answer.status_code for answer in answers) == [201, 422]
        (kept,) = (answer.json()["endpoint"]["url"] for answer in answers if answer.status_code == 201)
        (said,) = (answer.text for answer in answers if answer.status_code == 422)
        assert f"it is at {kept}: change or remove that one" in said
        assert (await client.get("/v1/oracles/blue")).json()["endpoint"]["url"] == kept


async def test_a_service_that_judges_groups_is_registered_as_such(front: Front) -> None:
    async with front.client("admin", "score") as client, serving(build_app(Blue(granularity="group"))) as url:
        registered = await client.post("/v1/oracles", json={"url": url, "max_batch": 2})
        assert registered.json()["endpoint"]["granularity"] == "group"
        picture = {"prompt": "p", "media_type": "image/png", "picture_base64": png()}
        answer = await client.post("/v1/groups", json={"oracles": ["blue"], "pictures": [picture] * 3})
        assert answer.status_code == 422
        assert "it judges whole groups of at most 2 pictures, and these are 3" in answer.text
        assert "send fewer at once" in answer.text
        answer = await client.post("/v1/groups", json={"oracles": ["blue"], "pictures": [picture] * 2})
        assert answer.status_code == 202
        async with serving(build_app(Blue(version="2"))) as newer:
            changed = await client.patch("/v1/oracles/blue", json={"url": newer})
            assert changed.json()["endpoint"]["granularity"] == "sample"


async def test_what_is_no_service_is_refused(front: Front, blue: str) -> None:
    async with front.client("admin") as client:
        assert "no oracle answers" in await refused(client, url="http://127.0.0.1:9", deadline_s=2)
        assert "no oracle answers" in await refused(client, url=f"{blue}/elsewhere", deadline_s=10)
        assert "url" in await refused(client, url="ftp://127.0.0.1/x")
        assert "no options" in await refused(client, url=blue, options={"model": "clip"})
        assert "give both" in await refused(client, url=blue, dialect="kserve")
        assert (await client.get("/v1/oracles")).json() == []


@pytest.mark.parametrize("secret", ["user:s3cret@", "s3cret@", "127.0.0.1/?key=s3cret#", "127.0.0.1/#s3cret"])
async def test_a_url_with_a_secret_is_refused_and_not_repeated(front: Front, blue: str, secret: str) -> None:
    url = blue.replace("//", f"//{secret}")
    async with front.client("admin") as client:
        await client.post("/v1/oracles", json={"url": blue})
        for answer in (
            await client.post("/v1/oracles", json={"url": url}),
            await client.post("/v1/conformance", json={"url": url}),
            await client.patch("/v1/oracles/blue", json={"url": url}),
        ):
            assert answer.status_code == 422
            assert "what is secret is `secret`" in answer.json()["error"]["what"]
            assert "s3cret" not in answer.text


async def test_another_name_and_too_large_a_batch_are_refused(front: Front, blue: str) -> None:
    async with front.client("admin") as client:
        assert "calls itself blue" in await refused(client, url=blue, name="green")
        assert "8" in await refused(client, url=blue, max_batch=9)
        assert (await client.get("/v1/oracles/blue")).status_code == 404


async def test_a_private_address_is_refused_unless_it_is_allowed(buffer: Any, front: Front, blue: str) -> None:
    from rewardmesh.wire.outgoing import OutgoingPolicy

    app = build_gateway(buffer.url, OutgoingPolicy())
    async with serving(app) as url, Front(url, front.gateway).client("admin") as client:
        for address in (blue, "http://169.254.169.254/latest", "http://[::1]:1"):
            said = await refused(client, url=address, deadline_s=5)
            assert "not called" in said, said


async def test_what_does_not_conform_is_refused_with_the_report(front: Front) -> None:
    async def garbage(_: Call) -> Response:
        return Response(b'{"results": "none"}')

    async with OracleServer("broken", answer=garbage) as server, front.client("admin") as client:
        said = await refused(client, url=server.url, deadline_s=5)
        assert "conformance" in said
        assert "FAIL" in said
        tested = await client.post("/v1/conformance", json={"url": server.url, "deadline_s": 5})
        assert tested.json()["passed"] is False
        assert (await client.get("/v1/oracles")).json() == []


async def test_a_service_of_another_dialect_is_asked_for_a_reward_first(front: Front) -> None:
    rewards: list[float] = [0.5]

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {"rewards": rewards * len(body["images"])}

    async with foreign(answer) as service, front.client("admin") as client:
        options = {"version": "3", "reward_min": 0, "reward_max": 1}
        wanted = {"url": service.url, "dialect": "flow_factory", "name": "theirs", "max_batch": 4, "deadline_s": 5}
        said = await refused(client, **wanted)
        assert "version: Field required" in said
        assert service.asked == []
        assert "keys: " in await refused(client, **wanted, options=options | {"keys": "both"})
        rewards[0] = 7.0
        said = await refused(client, **wanted, options=options)
        assert "reward 7.0 is outside the declared range 0.0 to 1.0" in said
        tested = (await client.post("/v1/conformance", json=wanted | {"options": options})).json()
        assert tested["passed"] is False
        assert "FAIL  picture" in tested["report"]
        assert (await client.get("/v1/oracles")).json() == []

        rewards[0] = 0.5
        registered = await client.post("/v1/oracles", json=wanted | {"options": options, "secret": "their-secret"})
        assert (registered.status_code, registered.json()["endpoint"]["version"]) == (201, "3")
        assert service.asked[-1][1]["authorization"] == "Bearer their-secret"
        assert [len(body["images"]) for _, _, body in service.asked[-4:]] == [1, 4, 1, 1]
        assert (await client.post("/v1/oracles/theirs/recheck")).status_code == 200
        rewards.clear()
        assert (await client.post("/v1/oracles/theirs/recheck")).status_code == 422
        async with foreign(answer) as other:
            moved = await client.patch("/v1/oracles/theirs", json={"url": other.url})
            assert (moved.status_code, "0 rewards for 1 samples" in moved.text) == (422, True)
        unanswered = await client.patch("/v1/oracles/theirs", json={"url": "http://127.0.0.1:9"})
        assert (unanswered.status_code, "FAIL" in unanswered.text) == (422, True)


async def test_an_identity_that_changed_is_refused_and_a_new_version_is_taken_over(front: Front, blue: str) -> None:
    async with front.client("admin") as client, serving(build_app(Blue(version="2"))) as newer:
        assert (await client.post("/v1/oracles", json={"url": blue})).status_code == 201
        changed = await client.patch("/v1/oracles/blue", json={"url": newer})
        assert changed.json()["endpoint"]["version"] == "2"
        async with serving(build_app(Blue(name="green"))) as other:
            answer = await client.patch("/v1/oracles/blue", json={"url": other})
            assert (answer.status_code, "calls itself green" in answer.text) == (422, True)
        shown = (await client.get("/v1/oracles/blue")).json()["endpoint"]
        assert (shown["url"], shown["version"]) == (newer, "2")

        # The service at the registered URL is replaced, its version first, its identity then.
        endpoint = await front.gateway.registry.oracle("blue")
        await front.gateway.registry.put_oracle(endpoint.model_copy(update={"url": blue}))
        rechecked = await client.post("/v1/oracles/blue/recheck")
        assert rechecked.json()["endpoint"]["version"] == "1"
        async with serving(build_app(Blue(name="green"))) as other:
            await front.gateway.registry.put_oracle(endpoint.model_copy(update={"url": other}))
            assert (await client.post("/v1/oracles/blue/recheck")).status_code == 422


async def test_limits_state_and_secret_change_alone(front: Front, blue: str) -> None:
    async with front.client("admin") as client:
        await client.post("/v1/oracles", json={"url": blue, "secret": "first-secret"})
        before = (await client.get("/v1/oracles/blue")).json()
        for change, shown in (
            ({"concurrency": 7}, ("concurrency", 7)),
            ({"state": "paused"}, ("state", "paused")),
            ({"state": "draining"}, ("state", "draining")),
            ({"state": "active"}, ("state", "active")),
            ({"breaker": {"failures_to_open": 9}}, ("breaker", {"failures_to_open": 9, "open_s": 1, "max_open_s": 30})),
        ):
            after = (await client.patch("/v1/oracles/blue", json=change)).json()
            before["endpoint"][shown[0]] = shown[1]
            assert after == before
        assert await front.gateway.registry.secret("blue") == "first-secret"
        await client.patch("/v1/oracles/blue", json={"secret": "second-secret"})
        assert await front.gateway.registry.secret("blue") == "second-secret"
        after = (await client.patch("/v1/oracles/blue", json={"secret": None})).json()
        assert after["has_secret"] is False
        audit = (await client.get("/v1/audit")).text
        assert "second" not in audit
        assert "replaced" in audit
        assert (await client.patch("/v1/oracles/nobody", json={})).status_code == 404
        assert (await client.delete("/v1/oracles/nobody")).status_code == 404


@pytest.mark.parametrize("change", [{"concurrency": 0}, {"state": "gone"}, {"deadline_s": -1}, {"name": "x"}])
async def test_a_change_that_cannot_be_meant_is_refused(front: Front, blue: str, change: dict[str, Any]) -> None:
    async with front.client("admin") as client:
        await client.post("/v1/oracles", json={"url": blue})
        assert (await client.patch("/v1/oracles/blue", json=change)).status_code == 422
