"""The live view of `rewardmesh status`: oracles and what waits for them, drawn again every second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.settings import Settings
from deploy.status import Look, Pair, look, rates

__all__ = ["render", "watch"]

_PAUSE_S = 1.0
_RATE_OVER = 10  # looks


def watch(settings: Settings, console: Console, *, until: Callable[[], bool] = lambda: False) -> None:
    """Shows the present until Ctrl-C, or until it is told; the stack goes on either way."""
    looks: deque[Look] = deque(maxlen=_RATE_OVER)
    with suppress(KeyboardInterrupt), Live(Text("looking …"), console=console, auto_refresh=False) as live:
        while True:
            looks.append(look(settings))
            live.update(render(looks[-1], rates(looks[0], looks[-1])), refresh=True)
            if until():
                return
            time.sleep(_PAUSE_S)


def render(seen: Look, per_s: dict[Pair, float]) -> RenderableType:
    """One look, as tables."""
    parts: list[RenderableType] = [Text("\n".join(seen.stack))]
    if seen.problem:
        parts.append(Text(seen.problem, style="bold red"))
    if seen.status is not None:
        buffer = seen.status.buffer
        parts.append(Text(f"{buffer.server} {buffer.version}, {buffer.durability}", style="dim"))
        parts += [_oracles(seen, per_s), _runs(seen, per_s)]
        if not seen.status.runs:
            parts.append(Text("no run is training"))
    return Group(*parts, Text("every second; Ctrl-C ends this view and nothing else", style="dim"))


def _oracles(seen: Look, per_s: dict[Pair, float]) -> Table:
    assert seen.status is not None
    table = Table("oracle", "version", "state", "breaker", "health", "where", title="oracles", title_justify="left")
    table.add_column("settled/s", justify="right")
    table.add_column("dead letters", justify="right")
    for one in seen.status.oracles:
        endpoint, breaker, health = one.endpoint, one.breaker, seen.health[one.endpoint.name]
        depths = [depth for depth in seen.status.depths if depth.oracle == endpoint.name]
        known = [rate for (_, oracle), rate in per_s.items() if oracle == endpoint.name]
        failures = f", {breaker.failures} failures" if breaker.failures else ""
        table.add_row(
            endpoint.name,
            endpoint.version or "not asked",
            _marked(endpoint.state, good=endpoint.state == "active"),
            _marked(breaker.kind + failures, good=breaker.kind == "closed"),
            _marked(health, good=health != "DOES NOT ANSWER"),
            Text(endpoint.url, style="dim", overflow="ellipsis"),
            f"{sum(known):.1f}" if known else "–",
            _counted(sum(depth.dead_letters for depth in depths)),
        )
    return table


def _runs(seen: Look, per_s: dict[Pair, float]) -> Table:
    assert seen.status is not None
    table = Table("run", title="streams", title_justify="left")
    table.add_column("iterations", justify="right")
    table.add_column("oracle")
    for name in ("lag", "pending", "retrying", "deferred", "oldest", "settled", "settled/s", "dead letters", "budget"):
        table.add_column(name, justify="right")
    done = {run.run_id: run.iteration for run in seen.status.runs}
    for depth in seen.status.depths:
        rate = per_s.get((depth.run_id, depth.oracle))
        table.add_row(
            depth.run_id,
            "–" if (iteration := done[depth.run_id]) is None else str(iteration),
            depth.oracle,
            *(str(number) for number in (depth.lag, depth.pending, depth.retrying, depth.deferred)),
            f"{depth.oldest_pending_s:.1f} s",
            str(depth.settled),
            "–" if rate is None else f"{rate:.1f}",
            _counted(depth.dead_letters),
            f"{100 * depth.bytes_in_use / depth.budget_bytes:.0f} %",
        )
    return table


def _marked(text: str, *, good: bool) -> Text:
    return Text(text, style="" if good else "bold red")


def _counted(number: int) -> Text:
    return Text(str(number), style="yellow" if number else "")
