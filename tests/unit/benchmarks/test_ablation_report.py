"""What `benchmarks.ablations` makes of its runs: paired differences, verdicts, snapshots and curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.ablation_evaluation import common_snapshot, difference, verdict
from benchmarks.ablation_report import curve, draw, markdown, summary
from benchmarks.ablation_runs import Options, Run, runs_of
from benchmarks.arms.catalogue import ARMS, FORMS, Finding
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


def test_forms_are_compared_at_the_last_snapshot_that_all_of_them_have(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, seeds=1)
    runs = list(runs_of(list(ARMS), options))
    for number, run in enumerate(one for one in runs if one.arm.name in FORMS):
        folder = run.stage_folder(run.arm.stages[-1])
        (folder / "snapshots").mkdir(parents=True)
        for at in (10, 20, 40)[: 2 + number % 2]:
            (folder / "snapshots" / f"{at}.safetensors").touch()
        (folder / "trained.json").write_text(json.dumps({"minutes": 20, "threads": 1}))
        for name, passes in (("evaluation", 8), ("evaluation-20", 4 if run.arm.name == "e12a" else 0)):
            content = evaluation_json(evaluation([i < passes for i in range(8)]))
            (run.folder / f"{name}.json").write_text(json.dumps(content))
    assert common_snapshot(runs) == 20
    assert common_snapshot([run for run in runs if run.arm.name != "e9"]) is None
    found = summary(runs, options)
    of_pair = {one["at"]: one for one in found["findings"] if (one["higher"], one["lower"]) == ("e12a", "e9")}
    assert of_pair["equal wall time"]["difference"]["value"] == 0.0
    assert of_pair["equal oracle calls"]["difference"]["value"] == 0.5
    assert "Not done: tdm_r1" in markdown(found)


def test_curves_are_means_over_seeds_and_stages_follow_one_another(tmp_path: Path) -> None:
    options = Options(folder=tmp_path, minutes=2.0, seeds=2)
    runs = [Run(ARMS["tuned_teacher"], seed, options) for seed in range(2)]
    beside = Run(ARMS["matching_alone"], 0, options)
    for run in (*runs, beside):
        for number, stage in enumerate(run.arm.stages):
            folder = run.stage_folder(stage)
            folder.mkdir(parents=True)
            (folder / "trained.json").write_text(json.dumps({"minutes": 2, "threads": 1}))
            line = {"iteration": 1, "elapsed_s": 30.0, "reward": 0.1 * number + 0.2 * run.seed - 0.5}
            (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert curve(runs) == [(0.5, pytest.approx(0.1)), (1.5, pytest.approx(0.2))]
    drawn = draw([*runs, beside], options)
    assert "tuned_teacher (2 seeds)" in drawn and "matching_alone (1 seed)" in drawn and "minute 1.5: 0.2" in drawn
    ET.fromstring(drawn)
    assert "tuned_teacher" not in draw(runs, options)  # one curve alone compares nothing
