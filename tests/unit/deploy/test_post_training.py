"""Post-training in one process: real networks and oracles, the smallest recipe, and a folder to go on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.oracles_in_process import OraclesInProcess
from deploy.post_training import HELDOUT_FILE, device_of, post_train
from deploy.world import app
from rewardmesh.wire.errors import OracleRejected, RecipeError
from trainer.recipe import load_recipe
from trainer.worlds.shapes.vocabulary import KINDS

SMALL = ["evaluation.pictures_per_kind=1", "run.iterations=1"]


@pytest.fixture(scope="module")
def oracles() -> OraclesInProcess:
    return OraclesInProcess()


def test_it_goes_on_where_it_was_and_measures_each_checkpoint(tmp_path: Path, oracles: OraclesInProcess) -> None:
    said: list[str] = []
    first, _ = post_train(load_recipe("smoke", SMALL), tmp_path / "run", oracles=oracles, tell=said.append)
    second, _ = post_train(
        load_recipe("smoke", [*SMALL, "run.iterations=2"]), tmp_path / "run", oracles=oracles, tell=said.append
    )
    assert (first.iterations, second.iterations) == (1, 2)
    lines = [json.loads(line) for line in (tmp_path / "run" / HELDOUT_FILE).read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert all(list(line["by_kind"]) == list(KINDS) and 0 <= line["strict"] <= 1 for line in lines)
    assert [words.split("  ")[0] for words in said if words.startswith("iteration")] == ["iteration 1", "iteration 2"]


def test_an_oracle_that_is_not_in_this_process_is_named(tmp_path: Path, oracles: OraclesInProcess) -> None:
    recipe = load_recipe("preference", [*SMALL, "prompts.groups_per_iteration=1", "prompts.group_size=2"])
    with pytest.raises(OracleRejected, match="preference"):
        post_train(recipe, tmp_path / "run", oracles=oracles)


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RecipeError, match="use_gpu"):
        device_of(load_recipe("gpu"))
    for command, device in (("distil", "cuda"), ("measure", "cuda"), ("fit-surrogate", "tpu")):
        ended = CliRunner().invoke(app, [command, "--device", device])
        assert ended.exit_code == 2 and "use cpu, or cuda" in " ".join(ended.output.replace("│", "").split())


def test_the_command_writes_what_training_goes_on_from(tmp_path: Path) -> None:
    overrides = [word for one in SMALL for word in ("--set", one)]
    arguments = ["post-train", "smoke", "--run", str(tmp_path / "run"), "--to", str(tmp_path / "weights"), *overrides]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    assert "finished after 1 iterations" in ended.output
    written = {path.relative_to(tmp_path / "weights").as_posix() for path in (tmp_path / "weights").rglob("*.safe*")}
    networks = {f"{name}/diffusion_pytorch_model.safetensors" for name in ("student", "fake_score")}
    assert written == {*networks, "surrogate.safetensors"}
