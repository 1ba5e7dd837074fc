"""Whatever is sent to the gateway is answered as its own OpenAPI document declares."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from benchmarks.fuzz import Operation, fault_of, try_many
from tests.contract.conftest import Server

SCHEMA = {"type": "object", "required": ["oracle"], "properties": {"oracle": {"$ref": "#/components/schemas/Name"}}}
DOCUMENT = {"components": {"schemas": {"Name": {"type": "string"}}}}
OPERATION = Operation(
    "get", "/v1/x", {"responses": {"200": {"content": {"application/json": {"schema": SCHEMA}}}, "404": {}}}
)


@pytest.mark.timeout(300)
def test_whatever_is_sent_is_answered_as_declared(buffer: Server) -> None:
    answered = try_many(buffer.url, 300)
    assert answered.failures == []
    assert answered.requests >= 300
    assert {200, 422} <= {status for _, status in answered.statuses}


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {}), (418, {}), (200, {}), (200, {"oracle": 1}), (200, [])],
)
def test_an_answer_that_is_not_declared_would_be_noticed(status: int, body: Any) -> None:
    assert fault_of(DOCUMENT, OPERATION, httpx.Response(status, json=body))
    assert fault_of(DOCUMENT, OPERATION, httpx.Response(200, json={"oracle": "blue"})) is None
