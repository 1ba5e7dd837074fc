"""The commands that the README names exist, and CI runs exactly what a person runs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, read


def plan(*goals: str) -> list[str]:
    """The commands `make` would run, one a line, continuation lines joined."""
    result = subprocess.run(["make", "-n", *goals], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.replace("\\\n", " ").splitlines()


def test_ci_runs_make_check() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "exec make check"


def test_check_ends_with_the_tests() -> None:
    commands = [line for line in plan("check") if ".venv/bin/" in line]
    order = ["ruff check", "ruff format --check", "lint-imports", "mypy --strict", "-m pytest"]
    places = [max(i for i, line in enumerate(commands) if word in line) for word in order]
    assert places == sorted(places)
    assert places[-1] == len(commands) - 1


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md"])
def test_documented_make_goals_exist(path: str) -> None:
    goals = set(re.findall(r"\bmake ([a-z]+)", read(Path(path))))
    assert goals & {"demo", "test", "check"}
    defined = set(re.findall(r"^([a-z]+):", read(Path("Makefile")), re.MULTILINE))
    assert goals <= defined


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "docs/figures.md"])
def test_documented_modules_exist(path: str) -> None:
    """Every `python -m benchmarks.NAME` and the like that a document tells people to run."""
    modules = set(re.findall(r"python -m ([a-z_]+\.[a-z_.]+)", read(Path(path))))
    assert modules or path == "CONTRIBUTING.md"
    missing = [name for name in modules if not (ROOT / (name.replace(".", "/") + ".py")).is_file()]
    assert missing == []
