"""`rewardmesh amend`: asks a run for one more oracle, or says in one line why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from trainer.amendments import read_amendments
from trainer.recipe import load_recipe
from trainer.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    folder = tmp_path / "tried"
    RunFolder(folder).adopt(load_recipe("smoke"))
    return folder


def amend(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["amend", *arguments])
    return result.exit_code, result.output


def test_the_run_is_asked_once_and_with_what_was_said(run: Path) -> None:
    arguments = ("tried", "sharpness", "--set", "weight=0.5", "--set", "on_missing.then=mask")
    for _ in range(2):
        code, said = amend(*arguments)
        assert (code, "asked for" in said) == (0, True), said
    (amendment,), faults = read_amendments(run)
    assert faults == {}
    assert (amendment.use.name, amendment.use.weight, amendment.use.on_missing.then) == ("sharpness", 0.5, "mask")
    assert amendment.is_pending


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("other", "sharpness"), "runs of"),
        (("tried", "object_count"), "learns from this oracle already"),
        (("tried", "sharpness", "--set", "weight=0"), "weight"),
        (("tried", "sharpness", "--set", "wieght=1"), "wieght"),
        (("tried", "sharpness", "--set", "on_missing.wait_s=0"), "wait_s 0 with drop_group"),
        (("tried", "no name"), "name"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(run: Path, arguments: tuple[str, ...], said: str) -> None:
    code, output = amend(*arguments)
    assert code == 1
    assert said in output
    assert "Traceback" not in output
    assert read_amendments(run) == ([], {})
