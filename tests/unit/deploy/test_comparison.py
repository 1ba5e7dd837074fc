"""`rewardmesh compare RUN RUN`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy import cli
from deploy.compared_runs import outcomes, read_run, recipe_differences
from deploy.comparison import as_markdown, as_page
from rewardmesh.wire.errors import RecipeError
from tests.unit.trainer.heldout_world import grey_evaluation
from trainer.evaluation_files import write_heldout
from trainer.recipe import dump_recipe, load_recipe


def metrics_line(iteration: int, reward: float) -> dict[str, Any]:
    counts = {"asked": 12, "scored": 11, "failed": 1}
    return {
        "iteration": iteration,
        "rewards": {"object_count": reward, "ocr_spelling": reward / 2},
        "reward": reward,
        "strict_share": reward - 0.1,
        "spread": 0.2,
        "samples": {"scored": 22},
        "outcomes": {"object_count": counts, "ocr_spelling": counts},
        "staleness": 1,
        "seconds": {"iteration": 5.0 + reward, "student": 2.0},
        "elapsed_s": 6.0 * iteration,
    }


def run_folder(path: Path, *, bright: float | None, overrides: list[str], iterations: int = 8) -> Path:
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(dump_recipe(load_recipe("demo", overrides)))
    lines = [json.dumps(metrics_line(number, 0.3 + number / 100)) for number in range(1, iterations + 1)]
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if bright is not None:
        write_heldout(path, before=grey_evaluation("before", 0.0), after=grey_evaluation("after", bright))
        (path / "summary.json").write_text('{"wall_s": 543.2}')
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return (
        run_folder(tmp_path / "first", bright=0.0, overrides=[]),
        run_folder(
            tmp_path / "second",
            bright=0.4,
            overrides=["run.seed=3", "feedback.oracles.1.weight=0.5"],
            iterations=12,
        ),
    )


def test_recipes_differ_where_they_differ_and_nowhere_else(folders: tuple[Path, Path]) -> None:
    first, second = map(read_run, folders)
    assert recipe_differences(first, second) == [
        ("feedback.oracles.ocr_spelling.weight", "1.0", "0.5"),
        ("run.seed", "0", "3"),
    ]
    assert recipe_differences(first, first) == []


def test_both_columns_stand_in_every_table(folders: tuple[Path, Path]) -> None:
    text = as_markdown(*map(read_run, folders))
    assert "second is higher in held-out accuracy: +0." in text
    assert "95 % interval, 40 pictures, paired" in text
    assert "| run.seed | 0 | 3 |" in text
    assert "| iterations | 8 | 12 |" in text
    assert "| seconds an iteration, student (median) | 2.00 | 2.00 |" in text
    assert "| ocr_spelling | first | 96 | 88 | 8 | 0 |" in text
    assert "| ocr_spelling | second | 144 | 132 | 12 | 0 |" in text


def test_the_page_draws_both_runs_in_one_chart(folders: tuple[Path, Path]) -> None:
    text = as_page(*map(read_run, folders))
    assert text.count('<li class="s0">first</li><li class="s1">second</li>') >= 5
    for title in ("Combined reward", "Seconds an iteration", "Reward of ocr_spelling"):
        assert f"<figcaption>{title}</figcaption>" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_other_seeds_are_not_paired_and_it_says_so(folders: tuple[Path, Path]) -> None:
    file = folders[1] / "heldout.json"
    heldout = json.loads(file.read_text())
    for outcome in heldout["after"]["outcomes"]:
        outcome["seed"] += 1
    file.write_text(json.dumps(heldout))
    text = as_markdown(*map(read_run, folders))
    assert "not a paired one" in text
    assert "| not paired |" in text


def test_what_is_not_there_yet_is_left_out(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    begun = run_folder(tmp_path / "begun", bright=None, overrides=[], iterations=0)
    text = as_markdown(read_run(folders[0]), read_run(begun))
    assert "begun has not been evaluated (`rewardmesh evaluate`)" in text
    assert "| iterations | 8 | – |" in text
    assert "Held-out strict" not in text
    assert [row[1] for row in outcomes(read_run(folders[0]), read_run(begun))] == ["first", "first"]


def test_runs_of_one_name_are_told_apart(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    other = run_folder(tmp_path / "elsewhere" / "first", bright=0.1, overrides=[])
    result = CliRunner().invoke(cli.app, ["compare", str(folders[0]), str(other), "--to", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.stderr
    assert f"# {folders[0]} and {other}" in result.stdout


def test_the_command_prints_tables_and_writes_the_page(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(folders) == 2
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    result = CliRunner().invoke(cli.app, ["compare", "first", "second"])
    assert result.exit_code == 0, result.stderr
    assert "Recipes differ in" in result.stdout
    assert (tmp_path / "compare-first-second.html").is_file()


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (("first", "none"), "there is no such run (none)"),
        (("first", "first"), "cannot be compared with itself"),
    ],
)
def test_runs_that_cannot_be_compared(
    tmp_path: Path,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    runs: tuple[str, str],
    said: str,
) -> None:
    assert len(folders) == 2
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    result = CliRunner().invoke(cli.app, ["compare", *runs])
    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize("name", ["recipe.yaml", "heldout.json", "summary.json"])
@pytest.mark.parametrize("content", ["{", '"text"', '{"after": 1}x'])
def test_a_damaged_file_is_named(folders: tuple[Path, Path], name: str, content: str) -> None:
    (folders[0] / name).write_text(content)
    with pytest.raises(RecipeError, match=name):
        read_run(folders[0])
