"""The launcher in one process (no workers, no cluster): it trains, resumes, and says what went wrong in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rewardmesh.wire.errors import OracleRejected, RecipeError, RewardmeshError, WeightsMissing
from trainer.in_process_feedback import InProcessFeedback
from trainer.launch import launch, train_worker
from trainer.recipe import Recipe
from trainer.training_process import Parts, training_prompts, with_absolute_folder


@pytest.fixture
def toy_parts(toy_algorithm: Any, prompts: Any, oracles: Any, tmp_path: Path) -> Iterator[ModuleType]:
    """A module that builds a toy's parts; its `seen` holds what it was asked for, and files that held a secret then."""
    module = ModuleType("toy_parts")
    module.seen = []  # type: ignore[attr-defined]
    module.watched = tmp_path  # type: ignore[attr-defined]
    module.oracles = oracles  # type: ignore[attr-defined]

    def build(recipe: Recipe, **asked: Any) -> Parts:
        from tests.unit.trainer.conftest import toy_decode

        held = {str(path) for path in module.watched.rglob("*") if path.is_file() and b"secret" in path.read_bytes()}
        module.seen.append({**asked, "files_with_secrets": held})
        return Parts(toy_algorithm(), toy_decode, prompts, InProcessFeedback(module.oracles))

    module.build = build  # type: ignore[attr-defined]
    sys.modules["toy_parts"] = module
    yield module
    del sys.modules["toy_parts"]


def go(recipe: Recipe, folder: Path, **more: Any) -> Any:
    return launch(recipe, folder, num_workers=0, parts="toy_parts:build", **more)


def test_it_trains_here_and_the_same_command_goes_on(
    make_recipe: Callable[..., Recipe], toy_parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    result = go(make_recipe("run.iterations=2"), folder, buffer_url="redis://secret@nowhere")
    assert (result.reason, result.iterations) == ("finished", 2)
    assert toy_parts.seen[0]["buffer_url"] == "redis://secret@nowhere"
    assert toy_parts.seen[0]["run_id"] == "run"
    assert toy_parts.seen[0]["files_with_secrets"] == set()
    assert not any("secret" in path.read_text(errors="ignore") for path in folder.rglob("*") if path.is_file())
    result = go(make_recipe("run.iterations=4"), folder)
    assert result.iterations == 4
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    resumed = next(line for line in logged if line["event"] == "resumed")
    assert {"part": "loop", "run_id": "run", "iteration": 2, "level": "info"}.items() <= resumed.items()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert "iterations: 4" in (folder / "recipe.yaml").read_text()


def test_another_experiment_in_the_folder_is_refused(
    make_recipe: Callable[..., Recipe], toy_parts: Any, tmp_path: Path
) -> None:
    go(make_recipe("run.iterations=1"), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"another experiment, different in algorithm\.batch_size, run\.seed"):
        go(make_recipe("run.seed=5", "algorithm.batch_size=32"), tmp_path / "run")


def test_what_ended_training_is_said_as_it_was(
    make_recipe: Callable[..., Recipe], toy_parts: Any, tmp_path: Path
) -> None:
    toy_parts.oracles.pop("spelled")
    with pytest.raises(OracleRejected, match="no such oracle in this process"):
        go(make_recipe(), tmp_path / "run")
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert (failure["type"], failure["retryable"]) == ("OracleRejected", False)


def test_a_model_folder_means_the_same_in_every_process(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe()
    assert with_absolute_folder(recipe) is recipe
    named = with_absolute_folder(make_recipe("model.folder=some/where"))
    assert named.model.folder == str(Path.cwd() / "some" / "where")


def test_a_run_folder_that_only_the_launcher_sees_is_refused(tmp_path: Path) -> None:
    config = {"recipe": "", "run_folder": str(tmp_path / "elsewhere"), "parts": ""}
    with pytest.raises(RewardmeshError, match=r"does not see the run folder .*elsewhere on .*REWARDMESH_RUN_ROOT"):
        train_worker(config, buffer_url=None)
    assert not (tmp_path / "elsewhere").exists()


def test_weights_that_are_not_there_are_named(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="nowhere"):
        launch(make_recipe(f"model.folder={tmp_path}/nowhere"), tmp_path / "run", num_workers=0)


def test_workers_without_ray_are_refused_in_one_line(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(RewardmeshError, match=r"Ray is not initialised \(1 workers\): call ray.init"):
        launch(make_recipe(), tmp_path / "run", num_workers=1)


def test_kinds_that_the_world_lacks_are_named(make_recipe: Callable[..., Recipe]) -> None:
    assert {spec.kind for spec in training_prompts(make_recipe("prompts.kinds=[colors]"))} == {"colors"}
    with pytest.raises(RecipeError, match=r"no such kind of prompt: colours \(prompts\.kinds\): known are "):
        training_prompts(make_recipe("prompts.kinds=[colours]"))
    with pytest.raises(RecipeError, match="no kind of prompt is left"):
        training_prompts(make_recipe("prompts.kinds=[colors]", "prompts.kind_weights={colors: 0}"))
