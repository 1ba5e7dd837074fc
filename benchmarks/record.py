"""What all benchmarks share: repeated values, the commit and machine they hold for, a table, a JSON file.

A benchmark measures, makes `Figure`s of what it saw, and hands them to `report`:

    arguments = parser(__doc__).parse_args()
    report("stream", [Figure("8 x 10 KB", "groups/s", values)], json_file=arguments.json)

What others look up by name in the JSON file is handed over as `keys` and stands at its top. One that counts rather than
measures has a table of its own: `print_table` and `write`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

__all__ = ["Figure", "commit", "machine", "parser", "print_table", "report", "write"]

_WIDTH = 160  # of what is no terminal


@dataclass(frozen=True)
class Figure:
    """One measured quantity: a value for each repetition. `note` says what is particular about it."""

    what: str
    unit: str
    values: Sequence[float]
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)  # what only the JSON file needs

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """Smallest to largest, which says more about five values than a deviation does."""
        return "one run" if len(self.values) == 1 else f"{_short(min(self.values))} – {_short(max(self.values))}"


def parser(description: str | None, *, repeats: bool = True) -> argparse.ArgumentParser:
    """Arguments of every benchmark; the first line of its docstring describes it."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--json", type=Path, metavar="FILE", help="also write figures, commit and machine to FILE")
    if repeats:
        made.add_argument("--repetitions", type=int, default=5, metavar="N", help="values for each figure (default 5)")
    return made


def commit() -> str:
    """The commit measured, with `+changes` if the working tree differs from it, or `unknown`."""
    root = Path(__file__).parent
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """What the figures depend on. A load above the number of cores means that others were measured as well."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 1),
    }


def report(
    name: str,
    figures: Sequence[Figure],
    *,
    json_file: Path | None = None,
    title: str = "",
    keys: Mapping[str, Any] | None = None,
) -> None:
    """Prints the table and, if asked, writes the JSON file."""
    table = Table(title=title or f"benchmarks.{name}", title_justify="left")
    table.add_column("what")
    for column in ("median", "unit", "spread", "n"):
        table.add_column(column, justify="left" if column == "unit" else "right", no_wrap=True)
    table.add_column("note")
    for figure in figures:
        table.add_row(
            figure.what, _short(figure.median), figure.unit, figure.spread, str(len(figure.values)), figure.note
        )
    print_table(table)
    rows = [
        {
            "what": figure.what,
            "unit": figure.unit,
            "median": figure.median,
            "values": list(figure.values),
            "note": figure.note,
            **figure.extra,
        }
        for figure in figures
    ]
    write(name, {**(keys or {}), "figures": rows}, json_file=json_file)


def print_table(table: Table, *lines: str) -> None:
    """The table, the lines as they are, and what they hold for."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table)
    described = ", ".join(f"{key} {value}" for key, value in machine().items())
    for line in (*lines, f"commit {commit()}; {described}"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def write(name: str, content: Mapping[str, Any], *, json_file: Path | None) -> None:
    """The JSON file, if one is asked for: benchmark, commit, time and machine before the content."""
    if json_file is None:
        return
    when = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"benchmark": name, "commit": commit(), "when": when, "machine": machine()}
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps({**about, **content}, indent=2, allow_nan=False) + "\n")
    Console().print(f"written to {json_file}", soft_wrap=True, highlight=False)


def _short(value: float) -> str:
    """Three significant digits, without exponents for everyday sizes."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
