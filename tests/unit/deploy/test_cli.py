"""The command line: quick to ask for help, one line for what a user can put right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy import cli
from rewardmesh.wire.errors import WeightsMissing

HEAVY = ("torch", "ray", "diffusers", "fastapi", "numpy", "redis", "pydantic_settings")


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['rewardmesh', '--help']\n"
        "from deploy.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
    for command in (
        "demo",
        "up",
        "down",
        "train",
        "evaluate",
        "compare",
        "doctor",
        "status",
        "world",
        "token",
        "oracle",
        "dead-letter",
    ):
        assert f"  {command} " in said
    assert all(f"  {group} " in said for group in ("token", "oracle", "dead-letter"))


def test_an_error_of_ours_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise WeightsMissing("a weight file is missing", "detector.pt", "restore it")

    monkeypatch.setattr("deploy.settings.load_settings", fail)
    status, _, said = invoke("status")
    assert (status, said) == (1, "error: a weight file is missing (detector.pt): restore it\n")


def test_a_fault_of_ours_shows_no_traceback_but_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.settings.load_settings", lambda: 1 / 0)
    status, _, said = invoke("status")
    assert status == 1
    assert "ZeroDivisionError" in said
    assert "--debug" in said
    assert "Traceback" not in said


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDMESH_DEBUG", "1")
    monkeypatch.setattr("deploy.settings.load_settings", lambda: 1 / 0)
    result = CliRunner().invoke(cli.app, ["status"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_wrong_option_is_a_usage_error() -> None:
    status, _, said = invoke("train")
    assert status == 2
    assert "Missing argument" in said


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [("REWARDMESH_SERVE_PORT", "99999", "REWARDMESH_SERVE_PORT"), ("REDIS_URL", "redis://127.0.0.1:1", "REDIS_URL")],
)
def test_a_wrong_environment_is_one_line(
    variable: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    monkeypatch.setenv(variable, value)
    status, out, err = invoke("status")
    lines = [line for line in (out + err).splitlines() if word in line]
    assert len(lines) == 1
    assert "Traceback" not in out + err
    assert status == (1 if variable != "REDIS_URL" else 0)  # status reports a server that is away, and ends well
