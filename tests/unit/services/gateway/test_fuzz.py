"""Fuzz of our own OpenAPI documents, with schemathesis: whatever is sent, the answer is one that the document declares.

Fewer of the requests of `python -m benchmarks.fuzz`, the same ones every time.
"""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from benchmarks.fuzz import Target, fuzz, gateway, oracle_app, served
from tests.contract.conftest import Server


def test_the_gateway_answers_as_declared_whatever_is_sent(buffer: Server) -> None:
    with gateway(buffer.url) as target:
        found = fuzz("gateway", target, examples=3)
    assert found.failures == []
    assert found.num_routes == 24
    assert found.num_requests >= 130
    assert {200, 404, 422} <= set(found.statuses)


def test_an_oracle_s_app_answers_as_declared_whatever_is_sent() -> None:
    with oracle_app() as target:
        found = fuzz("oracle's app", target, examples=10)
    assert found.failures == []
    assert (found.num_routes, found.num_requests >= 30) == (3, True)
    assert {200, 422} <= set(found.statuses)


def test_what_is_not_as_declared_is_found() -> None:
    app = FastAPI(openapi_url="/openapi.json")

    @app.get("/double")
    def double(number: int, shape: Literal["good", "bad"]) -> JSONResponse:
        if number > 10**6:
            raise ZeroDivisionError
        return JSONResponse({"doubled": 2 * number}, 200 if shape == "good" else 418)

    with served(app) as url:
        found = fuzz("double", Target(url, "/openapi.json", "none"), examples=20)
    assert any("Undocumented status code: Received: 418" in failure for failure in found.failures)
    assert any("Server error" in failure for failure in found.failures)
