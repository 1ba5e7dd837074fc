"""Every route with every kind of bad token, and that the list of routes is whole; what is too large, or malformed."""

from __future__ import annotations

import base64
from typing import Any, Literal

import httpx
import pytest

from benchmarks.access import Route, routes_of, try_all
from services.gateway.tokens import Scope
from tests.unit.services.gateway.conftest import Front

#: Every route but the open one, and a scope that it does not take.
ROUTES: list[tuple[str, str, Scope | Literal[""]]] = [
    ("GET", "/", "rate"),
    ("GET", "/v1/openapi.json", ""),
    ("GET", "/v1/status", "rate"),
    ("GET", "/v1/audit", "score"),
    ("GET", "/v1/oracles", "rate"),
    ("POST", "/v1/oracles", "score"),
    ("POST", "/v1/conformance", "score"),
    ("GET", "/v1/oracles/{name}", "rate"),
    ("PATCH", "/v1/oracles/{name}", "score"),
    ("DELETE", "/v1/oracles/{name}", "score"),
    ("POST", "/v1/oracles/{name}/recheck", "score"),
    ("POST", "/v1/oracles/{name}/results", "admin"),
    ("POST", "/v1/groups", "admin"),
    ("GET", "/v1/groups/{group_id}", "admin"),
    ("DELETE", "/v1/groups/{group_id}", "admin"),
    ("POST", "/v1/runs/{run_id}/amendments", "score"),
    ("GET", "/v1/runs/{run_id}/amendments", "rate"),
    ("GET", "/v1/runs/{run_id}/oracles/{name}/dead-letters", "score"),
    ("GET", "/v1/runs/{run_id}/oracles/{name}/dead-letters/{letter_id}", "score"),
    ("DELETE", "/v1/runs/{run_id}/oracles/{name}/dead-letters/{letter_id}", "score"),
    ("POST", "/v1/runs/{run_id}/oracles/{name}/dead-letters/{letter_id}/requeue", "score"),
    ("GET", "/as/flow-factory/{name}/health", "admin"),
    ("POST", "/as/flow-factory/{name}/compute", "admin"),
    ("POST", "/as/openrlhf/{name}/get_reward", "admin"),
]


async def document(front: Front) -> dict[str, Any]:
    async with front.client("admin") as client:
        return dict((await client.get("/v1/openapi.json")).json())


async def test_the_table_is_whole(front: Front) -> None:
    paths = (await document(front))["paths"]
    known = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    listed = {(method, path) for method, path, _ in ROUTES} - {("GET", "/v1/openapi.json")}
    assert known == listed | {("GET", "/v1/health")}


async def test_the_document_names_the_scopes_that_a_route_takes(front: Front) -> None:
    stated = {(route.method, route.path): route.wrong_scopes for route in routes_of(await document(front))}
    listed = {(method, path): scope for method, path, scope in ROUTES if scope}
    assert all(scope in stated[route] for route, scope in listed.items())


async def test_every_route_with_every_bad_token(front: Front) -> None:
    routes = [Route(method, path, (scope,) if scope else ()) for method, path, scope in ROUTES]
    attempts = await try_all(front.url, front.gateway.tokens, routes)
    assert [one for one in attempts if not one.refused] == []
    assert len(attempts) == 7 * len(ROUTES) - 1
    async with httpx.AsyncClient(base_url=front.url, trust_env=False, timeout=60) as client:
        assert (await client.get("/v1/health")).json() == {"status": "ok"}
        assert (await client.get("/nowhere")).status_code == 401  # what there is, is nobody's business


async def test_what_a_route_lets_in_would_be_noticed(front: Front) -> None:
    """The check can fail: a scope that a route takes is not refused."""
    attempts = await try_all(front.url, front.gateway.tokens, [Route("GET", "/v1/oracles", ("score",))])
    assert [one.token.what for one in attempts if not one.refused] == ["scope"]


async def test_a_token_may_come_as_a_password(front: Front) -> None:
    token = await front.token("score")
    async with httpx.AsyncClient(base_url=front.url, trust_env=False) as client:
        assert (await client.get("/v1/oracles", auth=("anybody", token))).status_code == 200
        assert (await client.get("/v1/oracles", headers={"Authorization": "Basic %%"})).status_code == 401
        wrong = base64.b64encode(b"anybody:\xff").decode()
        assert (await client.get("/v1/oracles", headers={"Authorization": f"Basic {wrong}"})).status_code == 401


async def test_too_often_is_429_with_a_time(front: Front) -> None:
    async with front.client("score", requests_per_s=0.1) as client:
        assert (await client.get("/v1/oracles")).status_code == 200
        refused = await client.get("/v1/oracles")
    assert (refused.status_code, refused.json()["error"]["kind"]) == (429, "RateExceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 10


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(front: Front) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 100_000

    async with front.client("score") as client:
        assert (await client.post("/v1/groups", content=b" " * 1_000_001)).status_code == 413
        assert (await client.post("/v1/groups", content=endless())).status_code == 413
        assert (await client.get("/v1/oracles")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/as/openrlhf/blue/get_reward", b'{"query": ["\\ud800"], "images": ["x"]}'),
        ("/as/openrlhf/blue/get_reward", b'{"query": ["q"], "labels": [{"tag": "\\ud800"}], "images": ["x"]}'),
        ("/v1/oracles/blue/results", b'{"version": "\\ud800", "results": []}'),
        ("/v1/conformance", b'{"url": "http://127.0.0.1:9/\\ud800"}'),
        ("/v1/oracles", b'{"url": "http://127.0.0.1:9", "options": {"\\ud800": "\\ud800"}}'),
    ],
)
async def test_text_that_utf_8_cannot_say_is_refused(front: Front, path: str, body: bytes) -> None:
    async with front.client("score", "admin", "rate", oracle="blue") as client:
        answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in {200, 422}, answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"NaN", b"\xff\xfe", b"[" * 100_000, b'{"oracles": ["\\ud800"]}', b'{"\\ud800": 1}'],
)
async def test_malformed_bodies_are_refused(front: Front, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with front.client("score", "admin") as client:
        for path in ("/v1/groups", "/v1/oracles", "/as/flow-factory/blue/compute", "/as/openrlhf/blue/get_reward"):
            answer = await client.post(path, content=body, headers=headers)
            assert answer.status_code in {400, 422}, (path, answer.status_code, answer.text)
            assert answer.json()["error"]["what"]
