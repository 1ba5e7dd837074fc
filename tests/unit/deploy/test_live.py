"""The live view reads two files, whatever state they are in."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.live import RunReader, follow, iteration_line, render

DEPTH = {
    "object_count": {"samples": 8, "oldest_pending_s": 2.25, "dead_letters": 0, "bytes_in_use": 1, "budget_bytes": 2},
    "ocr_spelling": {"samples": 2, "oldest_pending_s": 0.5, "dead_letters": 2, "bytes_in_use": 1, "budget_bytes": 2},
}


def line(iteration: int) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "rewards": {"ocr_spelling": 0.25, "object_count": 0.5},
        "samples_scored_per_s": 42.0,
        "depth": DEPTH,
        "seconds": {"exposed_wait": 0.3, "hidden_reward": 1.7},
    }


def status(**more: Any) -> dict[str, Any]:
    return {
        "run_id": "demo",
        "recipe": "demo",
        "form": "value_contrast",
        "doing": "learning",
        "iteration": 7,
        "iterations": 70,
        "rewards": {"object_count": 0.5},
        "samples_scored_per_s": 42.0,
        "depth": DEPTH,
        "exposed_s": 3.0,
        "hidden_s": 17.0,
        "elapsed_s": 61.0,
        "seconds_left": 540.0,
        "updated_unix_s": time.time() + 60,
        **more,
    }


def shown(what: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(what)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_one_iteration_is_one_line_with_all_of_it() -> None:
    said = iteration_line(line(7), status())
    assert "\n" not in said
    for part in (
        "iteration 7/70",
        "object_count 0.500 ocr_spelling 0.250",
        "42.0 samples scored/s",
        "buffer 10 (oldest 2.2 s)",
        "0.3 s exposed",
        "1.7 hidden",
        "9:00 left",
    ):
        assert part in said


def test_the_table_shows_each_oracle_and_what_waits() -> None:
    said = shown(render(status(), title="training"))
    for part in ("7 of 70", "object_count", "8 waiting, oldest 2.2 s", "dead letters 2", "17.0 s hidden", "9:00 left"):
        assert part in said


def test_before_the_first_status_it_says_what_it_waits_for() -> None:
    assert "the trainer is starting" in shown(render({}, title="training"))
    assert shown(render(status(rewards={}, samples_scored_per_s=None, seconds_left=None, depth={})))


def test_files_are_read_as_they_grow(tmp_path: Path) -> None:
    reader = RunReader(tmp_path)
    assert reader.status() == {}
    assert reader.new_iterations() == []
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.write(json.dumps(line(1)) + "\n" + '{"iteration": 2, "rew')
    assert [one["iteration"] for one in reader.new_iterations()] == [1]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(1)) + "\n" + json.dumps(line(2)) + "\n")
    assert [one["iteration"] for one in reader.new_iterations()] == [2]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(1)) + "\n")  # rewound by a resume
    assert [one["iteration"] for one in reader.new_iterations()] == [1]


def test_the_status_of_an_earlier_start_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps(status(updated_unix_s=time.time() - 60)))
    assert RunReader(tmp_path).status() == {}


def test_without_a_terminal_it_prints_plain_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=40)
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(1)) + "\n")
    calls = iter([False, True])

    def done() -> bool:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line(2)) + "\n")
        return next(calls)

    follow(tmp_path, done=done, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in said
    assert [one.split(" |")[0] for one in said.splitlines()] == ["iteration 2", "iteration 2"]
