"""Two judges on the same pictures, and the headline's figures from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.headline import NETWORKS, Judged, content_of, judge_network, table_of, write_grid
from benchmarks.networks import Network
from benchmarks.two_judges import TwoWay, disagreement_sheet, judged_by, two_way
from rewardmesh.wire.strict_json import dump_json
from tests.unit.trainer.heldout_world import PLAN, brightness_judge, grey_evaluation
from trainer.evaluate import HeldoutPrompt, Pictures
from trainer.worlds.shapes.vocabulary import KINDS


def strict_judge(pictures: Pictures, specs: Sequence[HeldoutPrompt]) -> tuple[list[bool], list[Mapping[str, Any]]]:
    """Passes half of what `brightness_judge` does, and never what that does not."""
    passes, details = brightness_judge(pictures, specs)
    return [passed and index % 2 == 0 for index, passed in enumerate(passes)], list(details)


def test_the_same_pictures_are_judged_again() -> None:
    first = grey_evaluation("student", 0.2)
    second = judged_by(first, PLAN, strict_judge)
    assert [outcome.seed for outcome in second.outcomes] == [outcome.seed for outcome in first.outcomes]
    assert second.overall < first.overall
    counts = two_way(first, second)
    assert set(counts) == {"many", "one"}
    for way in counts.values():
        assert way.only_second == 0 < way.only_first
        assert way.total == 20
        assert way.agreement == 1 - way.only_first / 20
    assert two_way(first, first)["one"].agreement == 1
    with pytest.raises(ValueError, match="no pictures"):
        judged_by(replace(first, pictures=None), PLAN, strict_judge)


def test_the_sheet_holds_what_they_see_differently() -> None:
    first = grey_evaluation("student", 0.2)
    second = judged_by(first, PLAN, strict_judge)
    apart = sum(way.only_first + way.only_second for way in two_way(first, second).values())
    sheet = disagreement_sheet(first, second)
    assert sheet.height == -(-apart // 6) * 206
    assert np.asarray(sheet).min() < 100
    assert np.asarray(disagreement_sheet(first, first)).min() == 255


def draw_grey(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
    levels = [np.random.default_rng(seed).integers(0, 256) for seed in seeds]
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def test_figures_have_the_names_that_are_looked_up_and_null_where_there_is_nothing() -> None:
    judged = {
        name: judge_network(
            Network(name, draw_grey, 4), name, pictures_per_kind=6, judges=(brightness_judge, strict_judge)
        )
        for name in ("teacher_80", "tdm_4")
    }
    content = content_of(judged, {"tdm_r1_4": "no such network ships"})
    for section in ("strict", "independent", "by_kind", "pictures_per_s"):
        assert list(content[section]) == list(NETWORKS)
        assert content[section]["tdm_r1_4"] is None
    assert list(content["by_kind"]["tdm_4"]) == list(KINDS)
    assert content["strict"]["tdm_4"] == judged["tdm_4"].oracles.overall > content["independent"]["tdm_4"]
    assert content["pictures"]["teacher_80"] == 6 * len(KINDS)
    assert content["speed_ratio"] > 0
    assert content["tdm_r1_4_above_teacher_80"] is None
    assert content["missing"] == {"tdm_r1_4": "no such network ships"}
    dump_json(content)
    assert table_of(judged).row_count == len(KINDS) + 6


def test_the_grid_has_a_column_for_each_network_and_every_kind(tmp_path: Path) -> None:
    one, two = ({name: Network(name, draw_grey, 4) for name in names} for names in (["tdm_4"], ["tdm_4", "tdm_r1_4"]))
    write_grid(tmp_path / "one.png", one, brightness_judge)
    write_grid(tmp_path / "two.png", two, brightness_judge)
    with Image.open(tmp_path / "one.png") as narrow, Image.open(tmp_path / "two.png") as wide:
        assert wide.width > narrow.width and wide.height == narrow.height > 2 * len(KINDS) * 32


def test_tdm_r1_is_held_against_its_teacher() -> None:
    bright, dark = grey_evaluation("after", 0.4), grey_evaluation("before", 0.0)
    content = content_of({"tdm_r1_4": Judged(bright, bright), "teacher_80": Judged(dark, dark)}, {})
    above = content["tdm_r1_4_above_teacher_80"]
    assert above["low"] < above["value"] == pytest.approx(bright.overall - dark.overall)
    assert above["low"] > 0


def test_agreement_counts_both_ways() -> None:
    assert TwoWay(5, 1, 2, 2).agreement == 0.7
