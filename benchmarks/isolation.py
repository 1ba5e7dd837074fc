"""How long a healthy oracle's rewards take while another oracle is sick, against the same without the other.

    python -m benchmarks.isolation [--json FILE]
    python -m benchmarks.isolation --kind hang --kind slow --seconds 20

Light oracles (`benchmarks.neighbours`), each in a process of its own, and one reward worker in another. For each window
groups are enqueued at a fixed rate, whatever becomes of them, and the latency of a group is the time from when it was
due to when the healthy oracle's completion of it is read. Undisturbed, the oracle is alone, twice in each repetition:
undisturbed against undisturbed is the band to hold the rest against. Otherwise every group goes to another oracle as
well, which is well, hangs, fails every other call, answers garbage, or is ten times as slow. Conditions take turns, in
an order that rotates. `p99_ratio.KIND` is the median over repetitions of p99 in that window over the p99 of the two
undisturbed windows of the same repetition; that of `well` is what sharing a machine costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import numpy as np

from benchmarks.neighbours import SICKNESSES, Sickness, draw_groups, light_app, light_endpoint
from benchmarks.record import Figure, parser, report
from benchmarks.served import app_process, embedded_server, worker_process
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import OracleEndpoint, Scored
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Group, Stream
from rewardmesh.wire.telemetry import configure_logging

AIM = 1.1
GROUP_SIZE = 4
WELL = "well"
HEALTHY = "healthy"
UNDISTURBED = ("undisturbed", "undisturbed again")


@dataclass(frozen=True)
class Window:
    """The healthy oracle's latencies, one a group, and the share of the other's samples that were scored by the end."""

    latencies_ms: np.ndarray
    other_scored: float


Windows = dict[str, list[Window]]
"""By condition, one a repetition."""


async def window(
    redis_url: str, healthy: OracleEndpoint, other: OracleEndpoint | None, groups: Sequence[Group], *, rate: float
) -> Window:
    """One window, with its oracles registered anew: no breaker remembers anything."""
    run_id = f"bench-{uuid4().hex[:8]}"
    client = await connect(redis_url)
    registry, stream = Registry(client), open_redis_stream(client, run_id)
    endpoints = [healthy] if other is None else [healthy, other]
    oracles = [endpoint.name for endpoint in endpoints]
    try:
        for endpoint in endpoints:
            await registry.put_oracle(endpoint)
        await registry.put_run(run_id)
        first, *rest = groups
        await stream.enqueue(first, oracles=[healthy.name])
        cursor, _ = await _completed(stream, {first.group_id}, after="0")  # the worker serves this run from now on
        done = asyncio.create_task(_completed(stream, {group.group_id for group in rest}, after=cursor))
        due = await _enqueue_at(stream, rest, oracles=oracles, rate=rate)
        _, seen = await done
        latencies_ms = np.array([1000 * (seen[group_id] - due_s) for group_id, due_s in due.items()])
        outcomes = [await stream.outcomes(group_id, other.name) for group_id in due] if other else []
        scored = sum(isinstance(one, Scored) for outcome in outcomes for one in outcome.results.values())
        for group_id in await stream.groups():
            await stream.forget(group_id)
        return Window(latencies_ms, scored / (len(due) * GROUP_SIZE))
    finally:
        await registry.end_run(run_id)
        for name in oracles:
            await registry.remove_oracle(name)
        await client.aclose()


async def _enqueue_at(
    stream: Stream, groups: Sequence[Group], *, oracles: Sequence[str], rate: float
) -> dict[str, float]:
    """Enqueues so many groups a second, and never waits for one; gives when each was due."""
    due: dict[str, float] = {}
    began = time.perf_counter()
    for index, group in enumerate(groups):
        due[group.group_id] = began + index / rate
        await asyncio.sleep(max(0.0, due[group.group_id] - time.perf_counter()))
        admitted = await stream.enqueue(group, oracles=oracles)
        if not all(admission.accepted for admission in admitted.values()):
            raise RuntimeError(f"{group.group_id} was refused: a byte budget is spent; lower --seconds or --rate")
    return due


async def _completed(stream: Stream, wanted: set[str], *, after: str) -> tuple[str, dict[str, float]]:
    """When the healthy oracle's completion of each group was read, and the cursor after the last."""
    seen: dict[str, float] = {}
    while wanted - set(seen):
        completed, after = await stream.completions(after=after, wait_s=1.0)
        now = time.perf_counter()
        seen |= {group_id: now for group_id, oracle in completed if oracle == HEALTHY}
    return after, seen


async def measure(
    redis_url: str, urls: Mapping[str, str], *, kinds: Sequence[Sickness], seconds: float, rate: float, repetitions: int
) -> Windows:
    """All windows of all conditions."""
    groups = draw_groups(round(seconds * rate) + 1, GROUP_SIZE)
    healthy = light_endpoint(HEALTHY, urls[HEALTHY])
    conditions = dict.fromkeys(UNDISTURBED) | {kind: kind for kind in (WELL, *kinds)}
    found: Windows = {condition: [] for condition in conditions}
    names = list(conditions)
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            kind = conditions[name]
            other = light_endpoint(kind, urls[kind]).model_copy(update={"deadline_s": 1.0}) if kind else None
            found[name].append(await window(redis_url, healthy, other, groups, rate=rate))
            await asyncio.sleep(1.5)  # the worker ends what it still asked the sick one
    return found


def percentile(percent: int, *windows: Window) -> float:
    """Of the latencies of all of the windows, in ms."""
    return float(np.percentile(np.concatenate([one.latencies_ms for one in windows]), percent))


def p99_ratios(found: Windows) -> dict[str, list[float]]:
    """By condition and repetition: its p99 over the p99 of both undisturbed windows. `undisturbed` is the band: the
    second of these two over the first.
    """
    pairs = list(zip(*(found[name] for name in UNDISTURBED), strict=True))
    ratios = {"undisturbed": [percentile(99, again) / percentile(99, first) for first, again in pairs]}
    for name, windows in found.items():
        if name not in UNDISTURBED:
            ratios[name] = [
                percentile(99, one) / percentile(99, *pair) for one, pair in zip(windows, pairs, strict=True)
            ]
    return ratios


def figures_of(found: Windows, ratios: Mapping[str, Sequence[float]]) -> list[Figure]:
    """p50 and p99 by condition, then the ratios."""
    made = []
    for name, windows in found.items():
        own = f"of the other's samples {np.mean([one.other_scored for one in windows]):.0%} scored"
        size = f"{len(windows[0].latencies_ms)} groups of {GROUP_SIZE} a window"
        for percent, note in ((50, size), (99, "" if name in UNDISTURBED else own)):
            values = [percentile(percent, one) for one in windows]
            made.append(Figure(f"p{percent}, {name}", "ms", values, note))
    for name, shares in ratios.items():
        note = {"undisturbed": "the band", WELL: "what sharing costs"}.get(name, f"aim: {AIM} at most")
        made.append(Figure(f"p99, {name} / undisturbed", "ratio", shares, note))
    return made


def main() -> None:
    """Runs the benchmark and prints the table."""
    made = parser(__doc__)
    made.add_argument("--kind", choices=SICKNESSES, action="append", help="this sickness only (may be repeated)")
    made.add_argument("--seconds", type=float, default=6.0, metavar="S", help="of a window (default 6)")
    made.add_argument("--rate", type=float, default=25.0, metavar="N", help="groups a second (default 25)")
    arguments = made.parse_args()
    configure_logging(level="ERROR")
    kinds: Sequence[Sickness] = arguments.kind or SICKNESSES
    with ExitStack() as stack:
        redis_url = stack.enter_context(embedded_server())
        apps = {name: partial(light_app, name) for name in (HEALTHY, WELL)}
        apps |= {kind: partial(light_app, kind, kind) for kind in kinds}
        urls = {name: stack.enter_context(app_process(app)) for name, app in apps.items()}
        stack.enter_context(worker_process(redis_url))
        found = asyncio.run(
            measure(
                redis_url,
                urls,
                kinds=kinds,
                seconds=arguments.seconds,
                rate=arguments.rate,
                repetitions=arguments.repetitions,
            )
        )
    ratios = p99_ratios(found)
    figures = figures_of(found, ratios)
    keys = {
        "p99_ratio": {kind: float(np.median(ratios[kind])) for kind in (*kinds, WELL)},
        "band": ratios["undisturbed"],
    }
    report("isolation", figures, json_file=arguments.json, keys=keys)


if __name__ == "__main__":
    main()
