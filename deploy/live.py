"""What a run does right now, from the two files that it keeps: `status.json` and `metrics.jsonl`.

On a terminal a table that redraws itself; elsewhere one line an iteration, and a line when what it does changes for
long. Reads files only: it shows a run of another process, or of another machine on a shared folder, just as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["RunReader", "follow", "iteration_line", "render"]

_REFRESH_S = 0.5
_QUIET_S = 20.0


class RunReader:
    """Reads a run folder again and again; a file that is not there yet is an empty one."""

    def __init__(self, folder: Path) -> None:
        self._status = folder / "status.json"
        self._metrics = folder / "metrics.jsonl"
        self._offset = 0
        self._since = time.time()

    def status(self) -> dict[str, Any]:
        """The present status; empty before the run has written one, or while an older one still lies there."""
        try:
            found: dict[str, Any] = json.loads(self._status.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if found.get("updated_unix_s", 0.0) >= self._since else {}

    def skip_present(self) -> None:
        """Leaves out the iterations that are there already."""
        self._offset = self._metrics.stat().st_size if self._metrics.exists() else 0

    def new_iterations(self) -> list[dict[str, Any]]:
        """Lines of metrics that came since the last call; a line that is still being written waits."""
        if not self._metrics.exists():
            return []
        with self._metrics.open("rb") as file:
            if self._metrics.stat().st_size < self._offset:  # rewound by a resume
                self._offset = 0
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines() if line.strip()]


def follow(folder: Path, *, done: Callable[[], bool], console: Console, title: str = "") -> None:
    """Shows the run until `done`. Exceptions of `done`, and Ctrl-C, leave it with the terminal in order."""
    reader = RunReader(folder)
    reader.skip_present()
    if console.is_terminal:
        with Live(render({}, title=title), console=console, refresh_per_second=4, transient=True) as live:
            while not done():
                live.update(render(reader.status(), title=title))
                time.sleep(_REFRESH_S)
        return
    _follow_plainly(reader, done=done, console=console)


def _follow_plainly(reader: RunReader, *, done: Callable[[], bool], console: Console) -> None:
    said_at, doing = time.monotonic(), ""
    while True:
        ended = done()  # asked first, so that the last line is shown
        for line in reader.new_iterations():
            console.print(iteration_line(line, reader.status()), highlight=False, markup=False, soft_wrap=True)
            said_at = time.monotonic()
        if ended:
            return
        status = reader.status()
        if time.monotonic() - said_at > _QUIET_S and status.get("doing", "starting the trainer") != doing:
            doing = status.get("doing", "starting the trainer")
            console.print(f"… {doing}", highlight=False, markup=False, soft_wrap=True)
            said_at = time.monotonic()
        time.sleep(_REFRESH_S)


def iteration_line(line: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """One iteration in one line."""
    seconds = line.get("seconds", {})
    depth, oldest_s = _waiting(line.get("depth", {}))
    rewards = " ".join(f"{name} {value:.3f}" for name, value in sorted(line.get("rewards", {}).items()))
    total = status.get("iterations")
    parts = [
        f"iteration {line.get('iteration', '?')}" + (f"/{total}" if total else ""),
        rewards or "no rewards",
        f"{_number(line.get('samples_scored_per_s'))} samples scored/s",
        f"buffer {depth} (oldest {oldest_s:.1f} s)",
        f"reward time {_number(seconds.get('exposed_wait'))} s exposed {_number(seconds.get('hidden_reward'))} hidden",
    ]
    left_s = status.get("seconds_left")
    if left_s is not None:
        parts.append(f"{_duration(left_s)} left")
    return " | ".join(parts)


def render(status: Mapping[str, Any], *, title: str = "") -> RenderableType:
    """The live table for a terminal."""
    if not status:
        return Text(f"{title}: the trainer is starting (it loads torch and the networks) …".removeprefix(": "))
    done, total = int(status.get("iteration", 0)), int(status.get("iterations", 0) or 1)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    table.add_row(
        "run", f"{status.get('run_id', '?')}  recipe {status.get('recipe', '?')}  form {status.get('form', '?')}"
    )
    table.add_row("now", str(status.get("doing", "")))
    table.add_row("iteration", f"{done} of {total}")
    table.add_row("", ProgressBar(total=total, completed=done, width=40))
    for name, reward in sorted(status.get("rewards", {}).items()):
        table.add_row(f"reward {name}", f"{reward:.3f}")
    table.add_row("samples scored", f"{_number(status.get('samples_scored_per_s'))} a second")
    for name, depth in sorted(status.get("depth", {}).items()):
        waiting, oldest_s = _waiting({name: depth})
        failed = f"  dead letters {depth['dead_letters']}" if depth.get("dead_letters") else ""
        table.add_row(f"buffer {name}", f"{waiting} waiting, oldest {oldest_s:.1f} s{failed}")
    table.add_row(
        "reward time",
        f"{_number(status.get('exposed_s'))} s exposed (learning stood still), "
        f"{_number(status.get('hidden_s'))} s hidden behind learning",
    )
    left_s = status.get("seconds_left")
    table.add_row(
        "time",
        f"{_duration(status.get('elapsed_s', 0.0))} gone, {_duration(left_s) if left_s is not None else '?'} left",
    )
    return Group(Text(title, style="bold"), table) if title else table


def _waiting(depths: Mapping[str, Mapping[str, Any]]) -> tuple[int, float]:
    """Samples without an outcome over all oracles, and the age of the oldest in seconds."""
    waiting = sum(int(depth.get("samples", 0)) for depth in depths.values())
    return waiting, max((float(depth.get("oldest_pending_s", 0.0)) for depth in depths.values()), default=0.0)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
