"""Every route of the gateway with every token that it must not take: none, wrong, expired, revoked, of a wrong scope.

    python -m benchmarks.access [--json FILE]

The routes and the scopes that each takes are read from the gateway's own OpenAPI document; each attempt is a request to
a gateway that listens on loopback. `tests/unit/services/gateway/test_access.py` makes the same attempts, with a list of
routes and scopes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
from rich.table import Table

from benchmarks.record import parser, print_table, write
from benchmarks.served import LOOPBACK, embedded_server, serving
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.app import build_gateway
from services.gateway.audit import OPERATOR
from services.gateway.tokens import Scope, TokenRequest, Tokens

__all__ = ["OPEN", "Attempt", "BadToken", "Route", "bad_tokens", "path_of", "routes_of", "try_all"]

OPEN: Final = ("GET", "/v1/health")  # the one route without a token
ORACLE: Final = "blue"
_SCOPES: Final[tuple[Scope, ...]] = ("score", "admin", "rate")
_ID_LENGTH: Final = len("rmt_0123456789ab_")  # of a token; the rest is its secret


@dataclass(frozen=True)
class Route:
    """A route, and scopes that it does not take."""

    method: str
    path: str
    wrong_scopes: tuple[Scope, ...]


@dataclass(frozen=True)
class BadToken:
    """What is sent as `Authorization`, and the answer that it must get."""

    what: str
    authorization: str | None
    status: int
    says: str


@dataclass(frozen=True)
class Attempt:
    """One route asked with one bad token."""

    route: Route
    token: BadToken
    status: int
    said: str

    @property
    def refused(self) -> bool:
        """With the status and the reason that are due, and without what was sent."""
        sent = (self.token.authorization or "").partition(" ")[2]
        leaked = len(sent) > _ID_LENGTH and sent[_ID_LENGTH:] in self.said
        return self.status == self.token.status and self.token.says in self.said and not leaked


def path_of(route: Route) -> str:
    """The route's path, with a name for each of its parameters."""
    return route.path.format(name=ORACLE, group_id="g1", run_id="run-1", letter_id="1-0")


def routes_of(document: Mapping[str, Any]) -> list[Route]:
    """Every route of an OpenAPI document but the open one; one that asks for no token takes none of the scopes."""
    routes = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            taken = {scope for one in operation.get("security", []) for scopes in one.values() for scope in scopes}
            if (method.upper(), path) != OPEN:
                routes.append(Route(method.upper(), path, tuple(scope for scope in _SCOPES if scope not in taken)))
    return routes


async def bad_tokens(tokens: Tokens) -> tuple[list[BadToken], dict[Scope, BadToken]]:
    """What no route takes, and by scope a good token that has that scope alone."""

    async def create(*scopes: Scope, **wanted: Any) -> tuple[str, str]:
        """Id and text."""
        oracle = ORACLE if "rate" in scopes else None
        request = TokenRequest(team="vision", scopes=scopes, oracle=oracle, requests_per_s=10_000, **wanted)
        token, text = await tokens.create(request, actor=OPERATOR)
        return token.token_id, text

    _, good = await create(*_SCOPES)
    _, expired = await create("score", "admin", expires_s=1e-6)
    revoked_id, revoked = await create("score", "admin")
    await tokens.revoke(revoked_id, actor=OPERATOR)
    bad = [
        BadToken("none", None, 401, "no token"),
        BadToken("wrong", f"Bearer {good[:-3]}AAA", 401, "not known"),
        BadToken("not ours", "Bearer x", 401, "not known"),
        BadToken("another scheme", f"Digest {good}", 401, "no token"),
        BadToken("expired", f"Bearer {expired}", 401, "expired"),
        BadToken("revoked", f"Bearer {revoked}", 401, "revoked"),
    ]
    alone = {scope: (await create(scope))[1] for scope in _SCOPES}
    return bad, {scope: BadToken("scope", f"Bearer {text}", 403, "scope") for scope, text in alone.items()}


async def try_all(url: str, tokens: Tokens, routes: Sequence[Route]) -> list[Attempt]:
    """Every route of the gateway at `url` with every bad token, those of wrong scopes last."""
    bad, by_scope = await bad_tokens(tokens)
    attempts = []
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        for route in routes:
            for token in (*bad, *(by_scope[scope] for scope in route.wrong_scopes)):
                headers = {"Authorization": token.authorization} if token.authorization else {}
                answer = await client.request(route.method, path_of(route), headers=headers)
                attempts.append(Attempt(route, token, answer.status_code, answer.text))
    return attempts


async def measure() -> list[Attempt]:
    """All attempts at a gateway of this process. Raises RuntimeError if a good token is refused too."""
    with embedded_server() as redis_url:
        app = build_gateway(redis_url, OutgoingPolicy.parse(LOOPBACK))
        async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            tokens: Tokens = app.state.gateway.tokens
            request = TokenRequest(team="vision", scopes=("score", "admin"))
            _, good = await tokens.create(request, actor=OPERATOR)
            answer = await client.get("/v1/openapi.json", headers={"Authorization": f"Bearer {good}"})
            if not answer.is_success:
                raise RuntimeError(f"a good token is refused: {answer.status_code} {answer.text}")
            document_itself = Route("GET", "/v1/openapi.json", ())  # a document does not list itself
            return await try_all(url, tokens, [*routes_of(answer.json()), document_itself])


def main(arguments: argparse.Namespace) -> int:
    """Prints the table, a row a route; 1 if anything was not refused as it must be."""
    attempts = asyncio.run(measure())
    kinds = list(dict.fromkeys(one.token.what for one in attempts))
    table = Table(title="benchmarks.access: status of the answer", title_justify="left")
    table.add_column("route", no_wrap=True)
    for kind in kinds:
        table.add_column(kind)
    for route in dict.fromkeys(one.route for one in attempts):
        cells = [
            ", ".join(
                f"{one.status}" if one.refused else f"{one.status} NOT REFUSED"
                for one in attempts
                if (one.route, one.token.what) == (route, kind)
            )
            for kind in kinds
        ]
        table.add_row(f"{route.method} {route.path}", *cells)
    refused, num_routes = sum(one.refused for one in attempts), len({one.route for one in attempts})
    print_table(table, f"{refused} of {len(attempts)} attempts at {num_routes} routes refused")
    rows = [
        {"route": f"{one.route.method} {one.route.path}", "token": one.token.what, "status": one.status}
        for one in attempts
    ]
    keys = {"tried": len(attempts), "refused": refused, "routes": num_routes, "attempts": rows}
    write("access", keys, json_file=arguments.json)
    return 0 if refused == len(attempts) else 1


if __name__ == "__main__":
    raise SystemExit(main(parser(__doc__, repeats=False).parse_args()))
