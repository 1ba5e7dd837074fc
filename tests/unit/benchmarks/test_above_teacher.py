"""`benchmarks.above_teacher`: paired with the teacher's pictures, and the exit status says whether all are above."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import above_teacher
from benchmarks.ablation_results import Result, checksum_of, plan_of
from benchmarks.ablation_runs import Options, shipped_weights, start_recipe
from trainer.evaluate import Evaluation, HeldoutPicture, Outcome
from trainer.evaluation_files import write_heldout
from trainer.recipe import dump_recipe, load_recipe


def evaluation(passed: int) -> Evaluation:
    outcomes = [Outcome(f"p{i // 2}", "kind", "", i, i < passed) for i in range(40)]
    return Evaluation("x", 4, tuple(outcomes), 1.0, 1.0)


def run(folder: Path, passed: int, *overrides: str) -> str:
    write_heldout(folder, before=evaluation(10), after=evaluation(passed))
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe("demo", overrides)))
    return str(folder)


def test_every_training_must_be_above_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(above_teacher, "draw_with_teacher", lambda _: evaluation(20))
    runs = [run(tmp_path / str(passed), passed) for passed in (32, 36, 40)]
    file = tmp_path / "above.json"
    assert above_teacher.main([*runs, "--json", str(file)]) == 0
    said, found = capsys.readouterr().out, json.loads(file.read_text())
    assert "0.900 (standard deviation 0.100)" in said
    assert list(found["above"].values()) == pytest.approx([0.3, 0.4, 0.5])
    assert found["mean_above"]["value"] == pytest.approx(0.4) and found["mean_above"]["low"] > 0
    below = run(tmp_path / "below", 18)
    assert above_teacher.main([*runs, below]) == 1
    assert above_teacher.main([run(tmp_path / "hardly", 21)]) == 1, "the interval is not above 0"


def test_a_kept_result_of_an_ablation_stands_for_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(tmp_path)
    plan = plan_of(options)
    drawn = []

    def teacher(asked: Sequence[HeldoutPicture]) -> Evaluation:
        drawn.append(asked)
        return Result(**kept | {"passed": "10" * (len(plan) // 2)}).evaluation(plan)

    kept: dict[str, Any] = {
        "arm": "tdm_r1", "seed": 0, "minutes": 20.0, "threads": [1], "diverged": False, "iterations": 1,
        "pictures_scored": 1, "weights": shipped_weights(start_recipe(options)), "asked": checksum_of(plan),
        "start": "0" * len(plan), "passed": "1" * len(plan), "snapshots": {}, "curve": [],
    }  # fmt: skip
    monkeypatch.setattr(above_teacher, "draw_with_teacher", teacher)
    file = tmp_path / "tdm_r1-seed-0.json"
    file.write_text(json.dumps(kept))
    assert above_teacher.main([str(file)]) == 0
    assert drawn == [plan]
    assert "+0.500" in capsys.readouterr().out
    file.write_text(json.dumps(kept | {"weights": "others"}))
    with pytest.raises(SystemExit, match="other weights"):
        above_teacher.main([str(file)])
    file.write_text("{}")
    with pytest.raises(SystemExit, match="no result of an ablation"):
        above_teacher.main([str(file)])


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(above_teacher, "draw_with_teacher", lambda _: evaluation(20))
    other = run(tmp_path / "other", 30, "evaluation.seed=5")
    with pytest.raises(SystemExit):
        above_teacher.main([run(tmp_path / "one", 30), other])
    assert "different evaluations" in capsys.readouterr().err
    (Path(other) / "heldout.json").unlink()
    with pytest.raises(SystemExit, match=r"has no heldout\.json"):
        above_teacher.main([other])
