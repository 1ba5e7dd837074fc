"""Networks by name: what ships, what does not yet, and what is no run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.networks import SHIPPED, Networks, shown_names
from rewardmesh.wire.errors import RecipeError, WeightsMissing
from trainer.worlds.shapes.weights_folder import WEIGHTS


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Networks:
    """On a pipeline that remembers which folders it was asked to load."""
    loaded: list[Path] = []

    def new_transformer(folder: Path) -> torch.nn.Module:
        loaded.append(folder)
        return torch.nn.Linear(1, 1)

    family = SimpleNamespace(teacher=None, student_sigmas=torch.ones, new_transformer=new_transformer, loaded=loaded)
    monkeypatch.setattr("benchmarks.networks.load_family", lambda _recipe, device: family)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    return Networks()


def test_networks_cost_what_their_names_say(networks: Networks) -> None:
    assert {name: networks.find(name).nfe for name in ("teacher", "teacher_4", "student")} == {
        "teacher": 80,
        "teacher_4": 4,
        "student": 4,
    }
    assert networks.family.loaded == [WEIGHTS / "student"]
    assert {"teacher", "teacher_4", "student"} < set(SHIPPED)


def test_what_does_not_ship_is_said_to_be_missing(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.networks.model_folder", lambda _: Path("nowhere"))
    with pytest.raises(WeightsMissing, match=r"no such network ships \(tdm_r1\)"):
        networks.find("tdm_r1")


def test_any_other_name_is_a_run(networks: Networks, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such run"):
        networks.find("other")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.yaml").touch()
    with pytest.raises(RecipeError, match="no checkpoint yet"):
        networks.find("begun")


def test_runs_whose_folders_share_a_name_stay_apart() -> None:
    assert shown_names(["student", "a/run", "b/run", "runs/demo"]) == {
        "student": "student",
        "a/run": "a/run",
        "b/run": "b/run",
        "runs/demo": "demo",
    }
