"""`rewardmesh status`: what runs here, what it is connected to, and what waits. Starts nothing and needs no driver."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from redis.asyncio import Redis

from deploy.parts import check_buffer, is_healthy, oracles_answer
from deploy.settings import Settings
from deploy.state import StackState, read_state
from rewardmesh.wire.buffer import connect, redact
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Depth, StreamSettings

__all__ = ["BufferReport", "collect", "describe_stack", "is_well", "report_lines"]


@dataclass(frozen=True)
class BufferReport:
    """What the registry knows, and how much waits for each (run, oracle)."""

    oracles: list[OracleEndpoint]
    runs: list[str]
    depths: dict[tuple[str, str], Depth]


def describe_stack(state: StackState | None, settings: Settings) -> list[str]:
    """The stack of this run root, part by part."""
    if state is None:
        return [f"no stack was started here ({settings.run_root}); `rewardmesh up` starts one"]
    lines = []
    for name, record, where in (
        ("buffer", state.server, redact(state.redis_url) if state.redis_url else "?"),
        ("ray", state.ray, state.ray_address or "?"),
    ):
        if record is None:
            lines.append(f"{name}: joined at {where}")
        else:
            lines.append(f"{name}: {'runs' if record.alive else 'DEAD'} at {where} (process {record.pid})")
    if state.ray is not None:
        lines.append(f"dashboard: {state.dashboard_url} (its token: `ray get-auth-token`)")
    if state.owner is not None:
        lines.append(
            f"owner: process {state.owner.pid}, {'alive' if state.owner.alive else 'DEAD'}; the stack ends with it"
        )
    if not state.alive:
        lines.append("parts of it are dead: `rewardmesh down` clears the rest away, `rewardmesh up` starts it anew")
    elif not state.ready:
        lines.append("it is still starting")
    return lines


async def collect(url: str) -> BufferReport:
    """Reads the registry and the depths. Raises BufferUnavailable, BufferMisconfigured."""
    client = await connect(url)
    try:
        registry = Registry(client)
        oracles, runs = await registry.oracles(), await registry.runs()
        depths = {
            (run_id, endpoint.name): await _depth(client, run_id, endpoint.name)
            for run_id in runs
            for endpoint in oracles
        }
        return BufferReport(oracles, runs, depths)
    finally:
        await client.aclose()


async def _depth(client: Redis, run_id: str, oracle: str) -> Depth:
    return await open_redis_stream(client, run_id, settings=StreamSettings()).depth(oracle)


def report_lines(settings: Settings) -> list[str]:
    """Everything that `rewardmesh status` prints."""
    state = read_state(settings.state_dir)
    lines = describe_stack(state, settings)
    url = settings.redis_url or (state.redis_url if state else None)
    if url is None or (settings.redis_url is None and state is not None and not state.alive):
        return lines
    try:
        lines.append(f"buffer says: {check_buffer(url)}")
        report = asyncio.run(collect(url))
    except RewardmeshError as error:
        return [*lines, str(error)]
    for endpoint in report.oracles:
        unusual = "" if endpoint.state == "active" else f", {endpoint.state}"
        health = "healthy" if is_healthy(endpoint.url) else "DOES NOT ANSWER"
        lines.append(f"oracle {endpoint.name}: {health} at {endpoint.url}{unusual}")
    for (run_id, oracle), depth in report.depths.items():
        lines.append(
            f"run {run_id}, {oracle}: lag {depth.lag}, pending {depth.pending}, retrying {depth.retrying}, "
            f"deferred {depth.deferred}, oldest {depth.oldest_pending_s:.1f} s, dead letters {depth.dead_letters}, "
            f"{depth.bytes_in_use:,} of {depth.budget_bytes:,} bytes"
        )
    if not report.runs:
        lines.append("no run is training")
    return lines


def is_well(settings: Settings) -> bool:
    """For health checks: the stack of this run root runs, and its oracles answer."""
    state = read_state(settings.state_dir)
    if state is None or state.redis_url is None or not (state.alive and state.ready):
        return False
    try:
        return oracles_answer(state.redis_url)
    except RewardmeshError:
        return False
