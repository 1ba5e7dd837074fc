"""What `benchmarks.ablations` makes of its runs: paired differences, verdicts, snapshots and curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.ablation_evaluation import difference, verdict
from benchmarks.ablation_report import common_snapshot, curve, draw, markdown, summary
from benchmarks.ablation_results import Result, keep_result, read_kept, read_result
from benchmarks.ablation_runs import Options, Run
from benchmarks.arms.catalogue import ARMS, FORMS, START, Finding
from trainer.evaluate import Evaluation, Outcome
from trainer.evaluation_files import evaluation_json
from trainer.paired import Interval


def evaluation(passed: Sequence[bool]) -> Evaluation:
    outcomes = [Outcome(f"p{i // 2}", "kind", "", i, one) for i, one in enumerate(passed)]
    return Evaluation("x", 4, tuple(outcomes), 1.0, 1.0)


def test_the_difference_is_paired_by_picture_and_averaged_over_seeds() -> None:
    none, half, every = evaluation([False] * 8), evaluation([True, False] * 4), evaluation([True] * 8)
    interval, by_seed = difference([every, half], [none, none])
    assert interval.value == pytest.approx(0.75) and by_seed == [1.0, 0.5]
    assert interval.low == pytest.approx(0.75)  # every prompt's two pictures differ by as much
    rises, by_seed = difference([every], [every], starts=(half, none))
    assert rises.value == pytest.approx(-0.5) and by_seed == [-0.5]
    with pytest.raises(ValueError, match="same held-out prompts"):
        difference([every], [evaluation([True] * 6)])


def test_a_finding_is_seen_only_outside_the_interval_and_in_every_seed() -> None:
    directed, open_one = Finding("", "", "a", "b"), Finding("", "", "a", "b", directed=False)
    above, below, about = Interval(0.2, 0.1, 0.3, 0.05), Interval(-0.2, -0.3, -0.1, 0.05), Interval(0.1, -0.1, 0.3, 0.1)
    assert verdict(directed, above, [0.1, 0.3]) == "seen"
    assert verdict(directed, above, [0.5, -0.1]) == "undecided"
    assert verdict(directed, about, [0.1]) == "undecided"
    assert verdict(directed, below, [-0.2]) == "the opposite is seen"
    assert verdict(open_one, above, [0.2]) == "a is higher" and verdict(open_one, below, [-0.2]) == "b is higher"


OPTIONS = Options(folder=Path("unused"), overrides=("evaluation={prompts_per_kind: 1, pictures_per_kind: 2}",))


def result(arm: str, passed: str, *, seed: int = 0, **more: Any) -> Result:
    """Of a run that was judged by two pictures of each kind, both passed as `passed` says."""
    fields: dict[str, Any] = {"snapshots": {}, "curve": [], **more}
    return Result(
        arm, seed, 20.0, [1], False, 10, 1200, weights="", asked="", start="00" * 7, passed=passed * 7, **fields
    )


def test_forms_are_compared_at_the_last_snapshot_that_all_of_them_have() -> None:
    results = [
        result(name, "11", snapshots={str(at): ("10" if name == "e12a" else "00") * 7 for at in kept})
        for number, name in enumerate(FORMS)
        for kept in [(10, 20, 40)[: 2 + number % 2]]
    ]
    assert common_snapshot(results) == 20
    assert common_snapshot([one for one in results if one.arm != "e9"]) is None
    found = summary(results, OPTIONS)
    of_pair = {one["at"]: one for one in found["findings"] if (one["higher"], one["lower"]) == ("e12a", "e9")}
    assert of_pair["equal wall time"]["difference"]["value"] == 0.0
    assert of_pair["equal oracle calls"]["difference"]["value"] == pytest.approx(0.5)
    assert found["arms"]["e12a"]["rise"]["value"] == pytest.approx(1.0)
    assert "Not done: tdm_r1" in markdown(found)


def test_curves_are_means_over_seeds() -> None:
    results = [result("tuned_teacher", "11", seed=n, curve=[(0.5, 0.2 * n), (1.5, 0.1 + 0.2 * n)]) for n in range(2)]
    beside = result("matching_alone", "11", curve=[(0.5, 0.1)])
    assert curve(results) == [(0.5, pytest.approx(0.1)), (1.5, pytest.approx(0.2))]
    drawn = draw([*results, beside], OPTIONS)
    assert "tuned_teacher (2 seeds)" in drawn and "matching_alone (1 seed)" in drawn and "minute 1.5: 0.2" in drawn
    ET.fromstring(drawn)
    assert "tuned_teacher" not in draw(results, OPTIONS)  # one curve alone compares nothing


def test_what_is_kept_of_a_curve_goes_on_from_stage_to_stage(tmp_path: Path) -> None:
    run = Run(ARMS["tuned_teacher"], 1, replace(OPTIONS, folder=tmp_path, minutes=2.0))
    passes = json.dumps(evaluation_json(evaluation([True] * 14)))
    for number, stage in enumerate(run.arm.stages):
        folder = run.stage_folder(stage)
        folder.mkdir(parents=True)
        (folder / "trained.json").write_text(json.dumps({"minutes": 2, "threads": 1}))
        line = {"iteration": 1, "elapsed_s": 30.0, "reward": 0.1 * number - 0.5, "outcomes": {"a": {"scored": 120}}}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert not keep_result(run), "not judged yet"
    for folder in (run.folder, tmp_path / START):
        folder.mkdir(exist_ok=True)
        (folder / "evaluation.json").write_text(passes)
    assert keep_result(run)
    kept = read_result(run)
    assert kept is not None and (kept.iterations, kept.pictures_scored, kept.passed) == (2, 240, "1" * 14)
    assert kept.curve == [[0.5, 0.0], [1.5, 0.1]]


def test_committed_results_are_of_the_weights_and_prompts_that_ship() -> None:
    files = sorted((Path(__file__).parents[3] / "docs" / "ablations").glob("*.json"))
    assert files, "docs/ablations has no results"
    for file in files:
        kept = read_kept(file, Options(Path("unused")))
        assert file.stem == f"{kept.arm}-seed-{kept.seed}"
        assert kept.minutes == 20 and kept.threads == [1], file.name
