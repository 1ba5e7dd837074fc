"""What there is and how it does: health, buffer, oracles, runs, audit; as JSON, and as one plain page for people.

The page is made here and needs no script. Whatever it shows is escaped, and its policy allows it one style and nothing
else. A browser asks for the token by HTTP Basic: any user, the token as the password.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import asdict
from html import escape
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from rewardmesh.wire.buffer import describe
from rewardmesh.wire.messages import Message
from services.gateway.audit import AuditLine
from services.gateway.context import Gateway
from services.gateway.gate import Admin, Look
from services.gateway.registering import OracleView, view

__all__ = ["Status", "collect", "render", "router"]

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #ccc}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Health(Message):
    """The gateway answers."""

    status: str


class RunView(Message):
    """A run that workers serve. `iteration`: how many its training has done; null where nobody trains."""

    run_id: str
    iteration: int | None


class DepthView(Message):
    """How much of a run waits for an oracle."""

    run_id: str
    oracle: str
    lag: int
    pending: int
    retrying: int
    deferred: int
    bytes_in_use: int
    budget_bytes: int
    oldest_pending_s: float
    dead_letters: int
    settled: int


class BufferView(Message):
    """What the buffer says about itself."""

    server: str
    version: str
    durability: str


class Status(Message):
    """Everything that the page shows."""

    buffer: BufferView
    oracles: list[OracleView]
    runs: list[RunView]
    depths: list[DepthView]


async def collect(gateway: Gateway) -> Status:
    """The present state, read and not kept. Raises BufferUnavailable."""
    buffer = await describe(gateway.redis)
    endpoints = await gateway.registry.oracles()
    runs, depths = [], []
    for run_id in await gateway.registry.runs():
        stream = gateway.stream(run_id)
        runs.append(RunView(run_id=run_id, iteration=await stream.iteration()))
        for endpoint in endpoints:
            depth = asdict(await stream.depth(endpoint.name))
            shown = {name: depth[name] for name in DepthView.model_fields if name in depth}
            depths.append(DepthView(run_id=run_id, oracle=endpoint.name, **shown))
    return Status(
        buffer=BufferView(server=buffer.server, version=buffer.version, durability=buffer.durability),
        oracles=[await view(gateway, endpoint) for endpoint in endpoints],
        runs=runs,
        depths=depths,
    )


def render(status: Status) -> str:
    """The page."""
    oracles = _table(
        ("oracle", "version", "where", "state", "breaker", "failures"),
        [
            (
                one.endpoint.name,
                one.endpoint.version or "not asked",
                one.endpoint.url,
                one.endpoint.state,
                one.breaker.kind,
                one.breaker.failures,
            )
            for one in status.oracles
        ],
    )
    runs = _table(
        ("run", "iterations done"),
        [(one.run_id, "nobody trains in it" if one.iteration is None else one.iteration) for one in status.runs],
    )
    depths = _table(
        (
            "run",
            "oracle",
            "lag",
            "pending",
            "retrying",
            "deferred",
            "oldest, s",
            "settled",
            "dead letters",
            "bytes",
            "of",
        ),
        [
            (
                one.run_id,
                one.oracle,
                one.lag,
                one.pending,
                one.retrying,
                one.deferred,
                round(one.oldest_pending_s, 1),
                one.settled,
                one.dead_letters,
                one.bytes_in_use,
                one.budget_bytes,
            )
            for one in status.depths
        ],
    )
    said = f"{status.buffer.server} {status.buffer.version}: {status.buffer.durability}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>rewardmesh</title>'
        f"<style>{_STYLE}</style><h1>rewardmesh</h1><p>{escape(said)}</p>"
        f"<h2>Oracles</h2>{oracles}<h2>Runs</h2>{runs}<h2>What waits</h2>{depths}</html>"
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "<p>none</p>"
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f'<td class="n">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"


router = APIRouter(tags=["status"])


@router.get("/v1/health")
async def health() -> Health:
    """The gateway answers; the one route without a token."""
    return Health(status="ok")


@router.get("/v1/status")
async def show_status(request: Request, token: Look) -> Status:  # noqa: ARG001 - the scope is all
    """Buffer, oracles with their breakers, runs and what waits in them."""
    return await collect(request.app.state.gateway)


@router.get("/v1/audit")
async def show_audit(
    request: Request,
    token: Admin,  # noqa: ARG001 - the scope is all
    max_count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AuditLine]:
    """Who changed what, newest first."""
    gateway: Gateway = request.app.state.gateway
    return await gateway.audit.latest(max_count)


@router.get("/", response_class=HTMLResponse)
async def show_page(request: Request, token: Look) -> HTMLResponse:  # noqa: ARG001 - the scope is all
    """The same for people, as one page."""
    return HTMLResponse(render(await collect(request.app.state.gateway)), headers=_HEADERS)
