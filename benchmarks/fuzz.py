"""Fuzz of our own OpenAPI documents, of the gateway and of an oracle's app: requests that schemathesis makes of them.

    python -m benchmarks.fuzz [--examples N] [--json FILE]

Both apps are served over real HTTP, the gateway on a real buffer with an oracle that does not answer, and asked with a
token that may do everything. For every route, N requests keep to the document and N break it somewhere. A failure is an
answer that the document does not declare: a 5xx, another status, content type, header or body, or good news about a
request that the document forbids. `tests/unit/services/gateway/test_fuzz.py` makes fewer of the same requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from rich.console import Console
from rich.table import Table
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.record import commit
from benchmarks.served import embedded_server
from rewardmesh.kit.app import build_app
from rewardmesh.kit.function import oracle
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.app import build_gateway
from services.gateway.audit import OPERATOR
from services.gateway.context import open_gateway
from services.gateway.tokens import TokenRequest

__all__ = ["Fuzzed", "Target", "fuzz", "gateway", "oracle_app", "served"]

AnyCase = Case[Any]


@dataclass
class Fuzzed:
    """What became of the requests to one app."""

    app: str
    num_routes: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        return self.statuses.total()


@dataclass(frozen=True)
class Target:
    """An app that is served, where its document is, and the token for all of it."""

    url: str
    document: str
    token: str


@contextmanager
def gateway(redis_url: str) -> Iterator[Target]:
    """A gateway on an emptied buffer that knows the oracle `blue`, which nobody serves."""

    async def prepare() -> str:
        async with open_gateway(redis_url, OutgoingPolicy()) as opened:
            await opened.redis.flushall()
            await opened.registry.put_run("run-1")
            await opened.registry.put_oracle(OracleEndpoint(name="blue", url="http://127.0.0.1:9", max_batch=1))
            wanted = TokenRequest(
                team="vision", scopes=("score", "admin", "rate"), oracle="blue", requests_per_s=10_000
            )
            return (await opened.tokens.create(wanted, actor=OPERATOR))[1]

    token = asyncio.run(prepare())
    with served(build_gateway(redis_url, OutgoingPolicy())) as url:
        yield Target(url, "/v1/openapi.json", token)


@contextmanager
def oracle_app() -> Iterator[Target]:
    """An oracle of the kit, behind its app."""

    @oracle(name="blue", version="1", max_batch=4)
    def blue(pictures: Any, prompts: Any, checks: Any) -> list[float]:  # noqa: ARG001 - the kit's signature
        return [float(picture[..., 2].mean() / 255) for picture in pictures]

    with served(build_app(blue, token="an-oracle-s-token")) as url:  # noqa: S106 - of this benchmark alone
        yield Target(url, "/openapi.json", "an-oracle-s-token")


def fuzz(app: str, target: Target, *, examples: int) -> Fuzzed:
    """Makes the requests: the same ones every time. `examples`: of each kind, for each route."""
    found = Fuzzed(app)
    headers = {"Authorization": f"Bearer {target.token}"}
    with requests.Session() as session:
        session.trust_env = False
        document = session.get(target.url + target.document, headers=headers, timeout=60).json()

        def ask(case: AnyCase) -> None:
            answer = case.call(target.url, session=session, headers=headers)
            found.statuses[answer.status_code] += 1
            try:
                # That a well-formed request is taken is not promised: no oracle answers at most well-formed URLs.
                case.validate_response(answer, excluded_checks=[positive_data_acceptance], headers=headers)
            except FailureGroup as group:
                found.failures += [f"{case.operation.label}: {one.title}: {one.message}" for one in group.exceptions]

        for each in schemathesis.openapi.from_dict(document).get_all_operations():
            if isinstance(each, Err):
                raise each.err()
            operation = each.ok()
            found.num_routes += 1
            for mode in GenerationMode:
                with suppress(Unsatisfiable):  # a route that reads nothing cannot be asked wrongly
                    _with_each(operation.as_strategy(mode), examples, ask)
    return found


def _with_each(cases: SearchStrategy[AnyCase], examples: int, ask: Callable[[AnyCase], None]) -> None:
    """Asks with that many of the cases."""

    @settings(
        max_examples=examples,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def once(case: AnyCase) -> None:
        ask(case)

    once()


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app behind uvicorn, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the app did not start")
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def main(arguments: argparse.Namespace) -> int:
    """Prints what became of the requests; 1 if an answer was not as declared."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_server())
        fuzzed = [
            fuzz("gateway", stack.enter_context(gateway(redis_url)), examples=arguments.examples),
            fuzz("oracle's app", stack.enter_context(oracle_app()), examples=arguments.examples),
        ]
    table = Table("app", "routes", "requests", "answers by status", "failures", title="benchmarks.fuzz")
    for one in fuzzed:
        statuses = ", ".join(f"{number} × {status}" for status, number in sorted(one.statuses.items()))
        table.add_row(one.app, str(one.num_routes), str(one.num_requests), statuses, str(len(one.failures)))
    console = Console()
    console.print(table)
    console.print(f"commit {commit()}", highlight=False)
    for one in fuzzed:
        for failure in one.failures[:20]:
            console.print(f"{one.app}: {failure}", markup=False)
    if arguments.json is not None:
        apps = [
            {"app": one.app, "requests": one.num_requests, "statuses": one.statuses, "failures": one.failures}
            for one in fuzzed
        ]
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"benchmark": "fuzz", "commit": commit(), "apps": apps}, indent=2) + "\n")
    return 1 if any(one.failures for one in fuzzed) else 0


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--examples", type=int, default=50, metavar="N", help="requests of each kind for each route")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the figures and the commit to FILE")
    raise SystemExit(main(options.parse_args()))
