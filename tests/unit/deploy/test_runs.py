"""Which folder a run gets: a new one beside what is there, or the last one again."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.runs import choose_run_folder, find_run, is_finished
from rewardmesh.wire.errors import RecipeError


def finish(folder: Path, reason: str = "finished") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "outcome.json").write_text(f'{{"reason": "{reason}"}}')


def test_a_first_run_has_the_bare_name(tmp_path: Path) -> None:
    assert choose_run_folder(tmp_path, "demo", resume=None) == (tmp_path / "demo", False)


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path: Path) -> None:
    finish(tmp_path / "demo", "stopped")
    assert not is_finished(tmp_path / "demo")
    assert choose_run_folder(tmp_path, "demo", resume=None) == (tmp_path / "demo", True)


def test_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    finish(tmp_path / "demo")
    (tmp_path / "demonstration").mkdir()
    assert choose_run_folder(tmp_path, "demo", resume=None) == (tmp_path / "demo-2", False)
    for number in range(2, 12):
        finish(tmp_path / f"demo-{number}")
    assert choose_run_folder(tmp_path, "demo", resume=None) == (tmp_path / "demo-12", False)
    assert choose_run_folder(tmp_path, "demo", resume=True) == (tmp_path / "demo-11", True)
    assert choose_run_folder(tmp_path, "demo", resume=False) == (tmp_path / "demo-12", False)


def test_who_can_be_asked_is_asked(tmp_path: Path) -> None:
    finish(tmp_path / "demo")
    assert choose_run_folder(tmp_path, "demo", resume=None, ask=lambda _: True) == (tmp_path / "demo", True)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such run to resume"):
        choose_run_folder(tmp_path, "demo", resume=True)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="not a name"):
        choose_run_folder(tmp_path, name, resume=None)


def test_a_run_is_found_by_name_or_path(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "recipe.yaml").touch()
    assert find_run(tmp_path, "demo") == find_run(tmp_path, str(tmp_path / "demo"))
    with pytest.raises(RecipeError, match=r"runs of .* are demo"):
        find_run(tmp_path, "other")
