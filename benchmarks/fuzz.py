"""Fuzz of the gateway's own OpenAPI document: whatever is sent, the answer is one that it declares, in its shape.

    python -m benchmarks.fuzz [--requests N] [--json FILE]

Requests are generated from the document itself: bodies, queries and paths that keep to its schemas, that nearly do, and
that do not at all, with a token that may do everything. A failure is an answer of 500 or above, a status that the
operation does not declare, or a body that its schema does not allow. `tests/unit/services/gateway/test_fuzz.py` draws
from the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from rich.console import Console
from rich.table import Table

from benchmarks.record import commit
from benchmarks.served import embedded_server, serving
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.app import build_gateway
from services.gateway.audit import OPERATOR
from services.gateway.tokens import TokenRequest

__all__ = ["Answered", "Operation", "fault_of", "try_many"]

_NAMES = st.sampled_from(["blue", "g1", "1-0", "run-1", "0", "a b", "..", "%00", "é", "x" * 101, "a/b"])
_URLS = st.sampled_from(["http://127.0.0.1:9", "https://169.254.169.254/x", "http://[::1", "http://", "ftp://x", ""])
#: Text of every kind, halves of surrogate pairs too: JSON can say them.
_TEXT = st.text(st.characters(), max_size=20) | st.sampled_from(["\ud800", "\x00", "blue", "g1"])
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
_ANYTHING = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)
)

Document = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One operation of a document."""

    method: str
    path: str
    described: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request for an operation; its path has values for its parameters."""

    operation: Operation
    path: str
    request: dict[str, Any]


@dataclass
class Answered:
    """How often each operation gave each status, and what was wrong with an answer."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.statuses.total()


def fault_of(document: Document, operation: Operation, answer: httpx.Response) -> str | None:
    """What is wrong with an answer, by what the document declares; None if nothing is."""
    status = answer.status_code
    if status in {404, 405} and "Not" in answer.json()["error"]["what"]:
        return None  # `..` and `/` in a path make it another path
    declared = operation.described["responses"].get(str(status))
    if status >= 500 or declared is None:
        return f"{status} is not declared: {answer.text[:300]}"
    content = declared.get("content", {}).get("application/json")
    if content is not None:
        schema = content["schema"] | {"components": document["components"]}
        try:
            Draft202012Validator(schema).validate(answer.json())
        except (ValidationError, ValueError) as error:
            return f"{status} is of another shape: {error}"[:500]
    return None


def _values(document: Document, schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
    """Values that keep to the schema, as far as types, names and choices go, and some that do not."""
    return st.one_of(_keeping(document, schema, name), _keeping(document, schema, name), _ANYTHING)


def _keeping(document: Document, schema: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    if name == "url":
        return _URLS
    if "$ref" in schema:
        inner = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return st.deferred(lambda: _keeping(document, inner, name))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return st.one_of(*(_keeping(document, one, name) for one in schema[several]))
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    match schema.get("type"):
        case "object":
            fields = {key: _values(document, one, key) for key, one in schema.get("properties", {}).items()}
            needed = {key: one for key, one in fields.items() if key in schema.get("required", [])}
            return st.fixed_dictionaries(needed, optional={k: v for k, v in fields.items() if k not in needed})
        case "array":
            return st.lists(_values(document, schema.get("items", {}), name), max_size=3)
        case "integer":
            return st.integers(-2, 5) | st.integers()
        case "number":
            return st.floats(-1, 5) | st.floats(allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return _TEXT | _NAMES


@st.composite
def _asks(draw: st.DrawFn, document: Document) -> Asked:
    """An operation of the document, and a request for it."""
    path, methods = draw(st.sampled_from(list(document["paths"].items())))
    method = draw(st.sampled_from(list(methods)))
    operation = Operation(method, path, methods[method])
    filled = re.sub(r"{\w+}", lambda _: draw(_NAMES).replace("/", "%2F").replace(" ", "%20"), path)
    request: dict[str, Any] = {}
    params = {
        one["name"]: draw(_values(document, one["schema"]))
        for one in operation.described.get("parameters", [])
        if one["in"] == "query" and draw(st.booleans())
    }
    if params:
        request["params"] = {name: str(value).encode("utf-8", "replace") for name, value in params.items()}
    if "requestBody" in operation.described:
        schema = operation.described["requestBody"]["content"]["application/json"]["schema"]
        request["content"] = json.dumps(draw(_values(document, schema))).encode()
        request["headers"] = {"Content-Type": "application/json"}
    return Asked(operation, filled, request)


@asynccontextmanager
async def _gateway(redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that knows one oracle, and a client of it that may do everything."""
    app = build_gateway(redis_url, OutgoingPolicy())
    async with serving(app) as url:
        gateway = app.state.gateway
        await gateway.registry.put_oracle(OracleEndpoint(name="blue", url="http://127.0.0.1:9", max_batch=1))
        wanted = TokenRequest(team="vision", scopes=("score", "admin", "rate"), oracle="blue", requests_per_s=10_000)
        _, token = await gateway.tokens.create(wanted, actor=OPERATOR)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            yield client


def try_many(redis_url: str, num_requests: int, *, again: bool = False) -> Answered:
    """Sends so many requests to a gateway on the server; `again`: the same ones every time."""
    answered = Answered()
    with asyncio.Runner() as runner:
        stack = _gateway(redis_url)
        client = runner.run(stack.__aenter__())
        document: Document = runner.run(client.get("/v1/openapi.json")).json()

        @settings(
            max_examples=num_requests,
            database=None,
            deadline=None,
            derandomize=again,
            suppress_health_check=list(HealthCheck),
        )
        @given(_asks(document))
        def send(asked: Asked) -> None:
            answer = runner.run(client.request(asked.operation.method, asked.path, **asked.request))
            where = f"{asked.operation.method.upper()} {asked.operation.path}"
            answered.statuses[where, answer.status_code] += 1
            fault = fault_of(document, asked.operation, answer)
            if fault is not None:
                answered.failures.append(f"{where} {asked.path} {asked.request!r}: {fault}"[:2000])

        try:
            send()
        finally:
            runner.run(stack.__aexit__(None, None, None))
    return answered


def main(arguments: argparse.Namespace) -> int:
    """Prints what was answered, a row an operation; 1 if an answer was not as declared, or fewer were asked for."""
    with embedded_server() as redis_url:
        answered = try_many(redis_url, arguments.requests, again=True)
    measured, failures = commit(), answered.failures
    statuses = sorted({status for _, status in answered.statuses})
    table = Table(title="benchmarks.fuzz: requests by operation and status of the answer", title_justify="left")
    table.add_column("operation", overflow="fold")
    for status in statuses:
        table.add_column(str(status), justify="right")
    for where in sorted({where for where, _ in answered.statuses}):
        table.add_row(where, *(str(answered.statuses[where, status] or "") for status in statuses))
    console = Console()
    console.print(table)
    console.print(f"{answered.requests} requests, {len(failures)} failures; commit {measured}", highlight=False)
    for failure in failures[:10]:
        console.print(failure, markup=False)
    if arguments.json is not None:
        written = {"benchmark": "fuzz", "commit": measured, "requests": answered.requests, "failures": len(failures)}
        rows = [{"operation": where, "status": status, "n": n} for (where, status), n in answered.statuses.items()]
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(written | {"answers": rows}, indent=2) + "\n")
    return 0 if not failures and answered.requests >= arguments.requests else 1


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--requests", type=int, default=2_000, metavar="N", help="requests to send (default 2000)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the figures and the commit to FILE")
    raise SystemExit(main(options.parse_args()))
