"""Fuzz of our own OpenAPI document: whatever is sent, the answer is one that the document declares, in its shape.

Requests are generated from the document itself: bodies, queries and paths that keep to its schemas, that nearly do, and
that do not at all.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.app import build_gateway
from services.gateway.audit import OPERATOR
from services.gateway.context import open_gateway
from services.gateway.tokens import TokenRequest
from tests.contract.conftest import Server
from tests.unit.services.gateway.conftest import serving

NAMES = st.sampled_from(["blue", "g1", "1-0", "run-1", "0", "a b", "..", "%00", "é", "x" * 101, "a/b"])
URLS = st.sampled_from(["http://127.0.0.1:9", "https://169.254.169.254/x", "http://[::1", "http://", "ftp://x", ""])
#: Text of every kind, halves of surrogate pairs too: JSON can say them.
TEXT = st.text(st.characters(), max_size=20) | st.sampled_from(["\ud800", "\x00", "blue", "g1"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


class Fuzzed:
    """A gateway in a thread of its own, an all-powerful token, and how often each status was answered."""

    def __init__(self, url: str, token: str) -> None:
        self.client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=60
        )
        self.document: dict[str, Any] = self.client.get("/v1/openapi.json").json()
        self.operations = [
            (path, method, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
        ]
        self.statuses: Counter[int] = Counter()

    def schema(self, of: dict[str, Any]) -> dict[str, Any]:
        """A schema with the components that it refers to."""
        return of | {"components": self.document["components"]}

    def values(self, schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
        """Values that keep to the schema, as far as types, names and choices go, and some that do not."""
        return st.one_of(self._keeping(schema, name), self._keeping(schema, name), ANYTHING)

    def _keeping(self, schema: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
        if name == "url":
            return URLS
        if "$ref" in schema:
            inner = self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            return st.deferred(lambda: self._keeping(inner, name))
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return st.one_of(*(self._keeping(one, name) for one in schema[several]))
        if "const" in schema or "enum" in schema:
            return st.sampled_from(schema.get("enum") or [schema["const"]])
        match schema.get("type"):
            case "object":
                fields = {key: self.values(one, key) for key, one in schema.get("properties", {}).items()}
                needed = {key: one for key, one in fields.items() if key in schema.get("required", [])}
                return st.fixed_dictionaries(needed, optional={k: v for k, v in fields.items() if k not in needed})
            case "array":
                return st.lists(self.values(schema.get("items", {}), name), max_size=3)
            case "integer":
                return st.integers(-2, 5) | st.integers()
            case "number":
                return st.floats(-1, 5) | st.floats(allow_nan=False, allow_infinity=False)
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case _:
                return TEXT | NAMES

    @st.composite
    @staticmethod
    def requests(draw: st.DrawFn, self: Fuzzed) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
        """An operation, and a request for it."""
        path, method, operation = draw(st.sampled_from(self.operations))
        url = re.sub(r"{\w+}", lambda _: draw(NAMES).replace("/", "%2F").replace(" ", "%20"), path)
        request: dict[str, Any] = {}
        params = {
            one["name"]: draw(self.values(one["schema"]))
            for one in operation.get("parameters", [])
            if one["in"] == "query" and draw(st.booleans())
        }
        if params:
            request["params"] = {name: str(value).encode("utf-8", "replace") for name, value in params.items()}
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            request["json"] = draw(self.values(schema))
        return url, method, operation, request


@pytest.fixture(scope="module")
def fuzzed(buffer: Server) -> Iterator[Fuzzed]:
    started, stop = threading.Event(), threading.Event()
    found: list[Fuzzed] = []

    async def serve() -> None:
        async with open_gateway(buffer.url, OutgoingPolicy()) as gateway:
            await gateway.redis.flushall()
            await gateway.registry.put_oracle(OracleEndpoint(name="blue", url="http://127.0.0.1:9", max_batch=1))
            wanted = TokenRequest(
                team="vision", scopes=("score", "admin", "rate"), oracle="blue", requests_per_s=10_000
            )
            token = (await gateway.tokens.create(wanted, actor=OPERATOR))[1]
        async with serving(build_gateway(buffer.url, OutgoingPolicy())) as url:
            found.append(await asyncio.to_thread(Fuzzed, url, token))
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    yield found[0]
    found[0].client.close()
    stop.set()
    thread.join(30)


@pytest.mark.timeout(300)
def test_whatever_is_sent_is_answered_as_declared(fuzzed: Fuzzed) -> None:
    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(Fuzzed.requests(fuzzed))
    def send(asked: tuple[str, str, dict[str, Any], dict[str, Any]]) -> None:
        url, method, operation, request = asked
        if "json" in request:
            request = request | {
                "content": json.dumps(request["json"]).encode(),
                "headers": {"Content-Type": "application/json"},
            }
            del request["json"]
        answer = fuzzed.client.request(method, url, **request)
        fuzzed.statuses[answer.status_code] += 1
        if answer.status_code in {404, 405} and "Not" in answer.json()["error"]["what"]:
            return  # `..` and `/` in a path make it another path
        assert answer.status_code < 500, answer.text
        declared = operation["responses"].get(str(answer.status_code))
        assert declared is not None, (answer.status_code, answer.text)
        content = declared.get("content", {}).get("application/json")
        if content is not None:
            Draft202012Validator(fuzzed.schema(content["schema"])).validate(answer.json())

    send()
    assert sum(fuzzed.statuses.values()) >= 300
    assert {200, 422} <= set(fuzzed.statuses)
