"""`rewardmesh status`: what runs here, what it is connected to, and what waits. Starts nothing and needs no driver.

Owns looking, and what a look reads like in lines and as JSON; the view that redraws itself is `status_view`. What the
buffer knows is the gateway's own report (`services.gateway.status`), so that both always say the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from deploy.parts import oracles_answer, own_oracles
from deploy.settings import Settings
from deploy.state import StackState, read_state
from rewardmesh.wire.buffer import redact
from rewardmesh.wire.errors import AddressRefused, RewardmeshError
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.strict_json import dump_json

if TYPE_CHECKING:
    from services.gateway.status import Status

__all__ = ["Look", "describe_stack", "is_well", "json_of", "lines_of", "look", "rates"]

HEALTH_S = 2.0
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look saw. `status` None: there is no buffer, or it did not answer and `problem` says so."""

    stack: tuple[str, ...]
    status: Status | None = None
    health: dict[str, str] = field(default_factory=dict)
    """By oracle: healthy, DOES NOT ANSWER, or why it was not asked."""
    problem: str = ""
    taken_s: float = field(default_factory=time.monotonic)

    @property
    def settled(self) -> dict[Pair, int]:
        """Outcomes so far, by run and oracle."""
        return {(one.run_id, one.oracle): one.settled for one in self.status.depths} if self.status else {}


def look(settings: Settings) -> Look:
    """Looks once. Never raises for what does not answer: that is what it reports."""
    from services.gateway.context import open_gateway
    from services.gateway.status import collect

    async def ask(url: str) -> tuple[Status, dict[str, str]]:
        async with open_gateway(url, OutgoingPolicy.parse(settings.outgoing_networks)) as gateway:
            status = await collect(gateway)
            endpoints = [one.endpoint for one in status.oracles]
            async with gateway.http(HEALTH_S) as http:
                said = await asyncio.gather(*(_health(http, endpoint) for endpoint in endpoints))
            return status, dict(zip([endpoint.name for endpoint in endpoints], said, strict=True))

    state = read_state(settings.state_dir)
    stack = tuple(describe_stack(state, settings))
    url = settings.redis_url or (state.redis_url if state else None)
    if url is None or (settings.redis_url is None and state is not None and not state.alive):
        return Look(stack=stack)
    try:
        status, health = asyncio.run(ask(url))
    except RewardmeshError as error:
        return Look(stack=stack, problem=str(error))
    return Look(stack=stack, status=status, health=health)


def rates(earlier: Look, later: Look) -> dict[Pair, float]:
    """Outcomes a second between two looks, by run and oracle."""
    before, seconds = earlier.settled, later.taken_s - earlier.taken_s
    if seconds <= 0:
        return {}
    # Counted anew after a run was forgotten: then nothing is known, and nothing negative is said.
    return {pair: max(0, now - before[pair]) / seconds for pair, now in later.settled.items() if pair in before}


def describe_stack(state: StackState | None, settings: Settings) -> Iterator[str]:
    """The stack of this run root, part by part."""
    if state is None:
        yield f"no stack was started here ({settings.run_root}); `rewardmesh up` starts one"
        return
    for name, record, where in (
        ("buffer", state.server, redact(state.redis_url) if state.redis_url else "?"),
        ("ray", state.ray, state.ray_address or "?"),
    ):
        if record is None:
            yield f"{name}: joined at {where}"
        else:
            yield f"{name}: {'runs' if record.alive else 'DEAD'} at {where} (process {record.pid})"
    if state.ray is not None:
        yield f"dashboard: {state.dashboard_url} (its token: `ray get-auth-token`)"
    if state.owner is not None:
        yield f"owner: process {state.owner.pid}, {'alive' if state.owner.alive else 'DEAD'}; the stack ends with it"
    if not state.alive:
        yield "parts of it are dead: `rewardmesh down` clears the rest away, `rewardmesh up` starts it anew"
    elif not state.ready:
        yield "it is still starting"


def lines_of(seen: Look, per_s: dict[Pair, float]) -> Iterator[str]:
    """A look in lines, with the rates that go with it."""
    yield from seen.stack
    if seen.problem:
        yield seen.problem
    if seen.status is None:
        return
    buffer = seen.status.buffer
    yield f"buffer says: {buffer.server} {buffer.version}, {buffer.durability}"
    for one in seen.status.oracles:
        endpoint, breaker = one.endpoint, one.breaker
        unusual = "" if endpoint.state == "active" else f", {endpoint.state}"
        yield (
            f"oracle {endpoint.name}: {seen.health[endpoint.name]} at {endpoint.url}{unusual}, "
            f"version {endpoint.version or 'not asked'}, breaker {breaker.kind}"
        )
    for depth in seen.status.depths:
        rate = per_s.get((depth.run_id, depth.oracle))
        speed = "" if rate is None else f" ({rate:.1f} a second)"
        yield (
            f"run {depth.run_id}, {depth.oracle}: lag {depth.lag}, pending {depth.pending}, retrying {depth.retrying}, "
            f"deferred {depth.deferred}, oldest {depth.oldest_pending_s:.1f} s, settled {depth.settled}{speed}, "
            f"dead letters {depth.dead_letters}, {depth.bytes_in_use:,} of {depth.budget_bytes:,} bytes"
        )
    if not seen.status.runs:
        yield "no run is training"


def json_of(seen: Look, per_s: dict[Pair, float]) -> str:
    """The same for scripts: the gateway's report, with `health` by oracle and `settled_per_s` in each depth."""
    said = seen.status.model_dump(mode="json") if seen.status else {}
    for depth in said.get("depths", []):
        depth["settled_per_s"] = per_s.get((depth["run_id"], depth["oracle"]))
    return dump_json({"stack": list(seen.stack), "problem": seen.problem, "health": seen.health, **said})


def is_well(settings: Settings) -> bool:
    """For health checks: the stack of this run root runs, and its oracles answer."""
    state = read_state(settings.state_dir)
    if state is None or state.redis_url is None or not (state.alive and state.ready):
        return False
    try:
        return oracles_answer(state.redis_url, own_oracles(settings))
    except RewardmeshError:
        return False


async def _health(http: httpx.AsyncClient, endpoint: OracleEndpoint) -> str:
    """What the oracle's own health says; other dialects have no such route."""
    if endpoint.dialect != "rewardmesh":
        return f"not asked ({endpoint.dialect})"
    try:
        answer = await http.get(f"{endpoint.url.rstrip('/')}/v1/health")
    except AddressRefused:
        return "not asked (its address is not allowed here)"
    except (httpx.HTTPError, httpx.InvalidURL, RewardmeshError):
        return "DOES NOT ANSWER"
    return "healthy" if answer.status_code == httpx.codes.OK else "DOES NOT ANSWER"
