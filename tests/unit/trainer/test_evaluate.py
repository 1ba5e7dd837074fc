from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from rewardmesh.wire.strict_json import dump_json
from tests.unit.trainer.heldout_world import PLAN, PROMPTS, brightness_judge, grey_evaluation, grey_sampler
from trainer.evaluate import Evaluation, Outcome, evaluate, plan_heldout
from trainer.evaluation_files import (
    evaluation_json,
    heldout_figures,
    markdown_table,
    read_evaluation,
    read_heldout,
    write_heldout,
)
from trainer.paired import overall_interval, paired_difference, student_quantile


def made(passed: dict[str, list[list[bool]]], name: str = "made") -> Evaluation:
    """kind -> prompts -> passes."""
    outcomes = [
        Outcome(f"{kind} {p}", kind, "", seed, ok)
        for kind, prompts in passed.items()
        for p, marks in enumerate(prompts)
        for seed, ok in enumerate(marks)
    ]
    return Evaluation(name, 4, tuple(outcomes), 1.0, 1.0)


def test_the_plan_is_stable_and_goes_round_the_prompts() -> None:
    assert plan_heldout(PROMPTS, prompts_per_kind=4, pictures_per_kind=20, seed=100) == PLAN
    shuffled = [PROMPTS[i] for i in (3, 1, 2, 0, 9, 8, 7, 6, 5, 4, 10)]
    assert plan_heldout(shuffled, prompts_per_kind=4, pictures_per_kind=20, seed=100) == PLAN
    many = [item for item in PLAN if item.spec.kind == "many"]
    assert len(many) == 20 and len({item.spec.prompt for item in many}) == 4
    assert all(sum(item.spec.prompt == p for item in many) == 5 for p in {item.spec.prompt for item in many})
    assert [item.seed for item in PLAN] == list(range(100, 140))  # no seed twice
    with pytest.raises(ValueError, match="at least one prompt"):
        plan_heldout([], prompts_per_kind=4, pictures_per_kind=20, seed=100)


def test_an_evaluation_counts_by_kind_and_overall_is_the_mean_of_kinds() -> None:
    told: list[tuple[int, int]] = []
    evaluation = grey_evaluation("student", 0.1, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (40, 40) and len(told) == 6
    assert evaluation.pictures is not None and evaluation.pictures.shape == (40, 16, 16, 3)
    levels = [np.random.default_rng(item.seed).random() + 0.1 for item in PLAN]
    expected = [math.floor(255 * min(level, 1)) / 255 > 0.7 for level in levels]
    assert [outcome.passed for outcome in evaluation.outcomes] == expected
    assert [(r.kind, r.num_prompts, r.num_pictures) for r in evaluation.by_kind] == [("many", 4, 20), ("one", 1, 20)]
    assert evaluation.overall == pytest.approx((sum(expected[:20]) / 20 + sum(expected[20:]) / 20) / 2)
    assert evaluation.seconds_a_picture > 0


def test_kinds_of_unequal_size_count_the_same() -> None:
    assert made({"a": [[True] * 9], "b": [[False]]}).overall == 0.5


def test_the_batch_size_changes_nothing() -> None:
    one, other = grey_evaluation("x", 0.1, batch_size=1), grey_evaluation("x", 0.1, batch_size=1000)
    assert one.outcomes == other.outcomes
    assert np.array_equal(one.pictures, other.pictures)


def test_a_judge_that_leaves_pictures_out_is_an_error() -> None:
    def forgetful(pictures, specs):
        passes, details = brightness_judge(pictures, specs)
        return passes[:-1], details

    with pytest.raises(ValueError, match="7 pictures were asked for: the sampler gave 7, the judge 6 passes"):
        grey_evaluation("x", 0.0, judge=forgetful)
    with pytest.raises(ValueError, match="no picture"):
        evaluate([], sampler=grey_sampler(0), judge=brightness_judge, name="x", nfe=4)


def test_the_difference_of_equal_evaluations_is_zero() -> None:
    difference = paired_difference(grey_evaluation("a", 0.1), grey_evaluation("b", 0.1))
    assert difference.overall.value == difference.overall.low == difference.overall.high == 0
    assert not difference.risen


def test_a_paired_difference_written_out() -> None:
    before = made({"a": [[False, False], [True, False], [True, True]]})
    after = made({"a": [[True, True], [True, False], [True, False]]})
    difference = paired_difference(before, after)
    sums = np.array([2.0, 0.0, -1.0])  # by prompt
    mean = sums.sum() / 6
    variance = 3 / 2 * ((sums - 2 * mean) ** 2).sum() / 36
    assert difference.overall.value == pytest.approx(1 / 6)
    assert difference.overall.standard_error == pytest.approx(variance**0.5)
    assert difference.overall == difference.by_kind["a"]
    assert difference.num_pictures == 6 and difference.num_prompts == 3


def test_the_overall_variance_is_that_of_independent_strata() -> None:
    rng = np.random.default_rng(0)
    before = made({kind: (rng.random((12, 4)) < 0.3).tolist() for kind in "abc"})
    after = made({kind: (rng.random((12, 4)) < 0.6).tolist() for kind in "abc"})
    difference = paired_difference(before, after)
    errors = [interval.standard_error for interval in difference.by_kind.values()]
    assert difference.overall.standard_error == pytest.approx(sum(e**2 for e in errors) ** 0.5 / 3)
    assert difference.overall.value == pytest.approx(after.overall - before.overall)
    assert difference.risen


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Prompts of unlike difficulty, five kinds of 8 prompts: the truth lies inside about 95 times in 100."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        chances = rng.beta(1, 2, size=(5, 8))
        evaluation = made({str(k): (rng.random((8, 6)) < chances[k][:, None]).tolist() for k in range(5)})
        interval = overall_interval(evaluation)
        inside += interval.low <= 1 / 3 <= interval.high
    assert 180 <= inside <= 199


def test_students_quantile() -> None:
    for degrees, expected in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e9, 1.960)):
        assert student_quantile(0.975, degrees) == pytest.approx(expected, rel=0.01)


def test_other_prompts_or_seeds_are_no_pair() -> None:
    one = made({"a": [[True, False]]})
    for other in (made({"b": [[True, False]]}), made({"a": [[True]]}), made({"a": [[True, False, True]]})):
        with pytest.raises(ValueError, match="same prompts and seeds"):
            paired_difference(one, other)


def test_json_is_strict_and_reads_back() -> None:
    evaluation = grey_evaluation("student", 0.1)
    content = json.loads(dump_json(evaluation_json(evaluation)))
    assert read_evaluation(content) == evaluation  # the pictures are not compared
    assert content["overall"]["value"] == pytest.approx(evaluation.overall)
    assert content["num_pictures"] == 40


def test_files_of_a_run_folder(tmp_path) -> None:
    before, after = grey_evaluation("before", 0.0), grey_evaluation("after", 0.3)
    assert read_heldout(tmp_path) is None
    difference = write_heldout(tmp_path / "run", before=before, after=after, others=[grey_evaluation("teacher", 0.2)])
    content = read_heldout(tmp_path / "run")
    assert content is not None
    assert paired_difference(read_evaluation(content["before"]), read_evaluation(content["after"])) == difference
    figures = heldout_figures(before, after, difference)
    assert figures["low"] < figures["after"] - figures["before"] < figures["high"]
    assert figures["pictures"] == 40
    table = (tmp_path / "run" / "heldout.md").read_text()
    assert "| kind | prompts | pictures | teacher | before | after | difference |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1  # every row has every cell


def test_a_table_of_one_network() -> None:
    table = markdown_table([grey_evaluation("teacher", 0.2, nfe=80)])
    assert re.search(r"\| \*\*overall\*\* \(mean of kinds\) \| 5 \| 40 \| \*\*0\.\d{3}\*\* \|", table)
    assert "| NFE |  |  | 80 |" in table
