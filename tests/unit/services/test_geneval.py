"""GenEval's rules, clause by clause, and what the graded reward promises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.wire.messages import Checks
from services.oracles.geneval import RELATIONS, Detection, Verdict, judge, relations, select

Box = tuple[float, float, float, float]


def seen(name: str, box: Box = (0, 0, 10, 10), confidence: float = 0.9, color: str | None = None) -> Detection:
    return Detection(name, confidence, box, color)


def verdict(include: list[dict[str, Any]], *found: Detection, exclude: list[dict[str, Any]] | None = None) -> Verdict:
    checks = Checks.from_metadata({"tag": "test", "include": include, "exclude": exclude or []})
    return judge(checks, select(found, min_confidence=0.3))


def test_select_keeps_the_most_confident_above_the_limit() -> None:
    found = [seen("cat", confidence=0.3), seen("cat", confidence=0.31), seen("dog", confidence=0.5)]
    found += [seen("cat", confidence=0.4 + index / 100) for index in range(20)]
    boxes = select(found, min_confidence=0.3)
    assert len(boxes["cat"]) == 16
    assert [box.confidence for box in boxes["cat"]] == sorted((box.confidence for box in boxes["cat"]), reverse=True)
    assert boxes["cat"][0].confidence == pytest.approx(0.59)
    assert select([seen("cat", confidence=0.3)], min_confidence=0.3) == {}


def test_a_present_object_passes_and_an_absent_one_fails() -> None:
    assert verdict([{"class": "cat"}], seen("cat")).strict
    failed = verdict([{"class": "cat"}], seen("dog"))
    assert (failed.strict, failed.reward, failed.matched) == (False, 0.0, (None,))
    assert failed.reasons == ("expected 1 cat, found 0",)


def test_more_than_asked_passes_unless_excluded() -> None:
    cats = [seen("cat"), seen("cat"), seen("cat")]
    assert verdict([{"class": "cat", "count": 2}], *cats).strict
    excluded = verdict([{"class": "cat", "count": 2}], *cats, exclude=[{"class": "cat", "count": 3}])
    assert not excluded.strict
    assert excluded.reasons == ("expected fewer than 3 cat, found 3",)
    assert verdict([{"class": "cat", "count": 2}], *cats[:2], exclude=[{"class": "cat", "count": 3}]).strict


def test_an_exclude_of_another_class() -> None:
    assert verdict([{"class": "cat"}], seen("cat"), exclude=[{"class": "dog"}]).strict
    assert not verdict([{"class": "cat"}], seen("cat"), seen("dog"), exclude=[{"class": "dog"}]).strict


def test_color_is_asked_of_the_most_confident_boxes_only() -> None:
    red_cat = [{"class": "cat", "color": "red"}]
    sure_red = seen("cat", confidence=0.9, color="red")
    unsure_red = seen("cat", confidence=0.5, color="red")
    assert verdict(red_cat, sure_red).strict
    wrong = verdict(red_cat, seen("cat", confidence=0.8, color="blue"), unsure_red)
    assert wrong.reasons == ("expected 1 red cat, found blue",)
    both = verdict([{"class": "cat", "count": 2, "color": "red"}], sure_red, unsure_red)
    assert both.strict


def test_color_is_asked_only_for_boxes_that_matter() -> None:
    asked: list[Detection] = []

    def color_of(detection: Detection) -> str:
        asked.append(detection)
        return "red"

    checks = Checks.from_metadata({"tag": "t", "include": [{"class": "cat", "color": "red"}, {"class": "dog"}]})
    cat = seen("cat")
    judge(checks, select([cat, seen("cat", confidence=0.5), seen("dog")], min_confidence=0.3), color_of=color_of)
    assert asked == [cat]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 20, 10, 30), {"left of"}),
        ((40, 20, 50, 30), {"right of"}),
        ((20, 0, 30, 10), {"above"}),
        ((20, 40, 30, 50), {"below"}),
        ((0, 0, 10, 10), {"left of", "above"}),
        ((20, 20, 30, 30), set()),
        ((21, 20, 31, 30), set()),  # within 0.1 x (10 + 10) of the same centre
        ((22, 20, 32, 30), set()),
    ],
)
def test_relations(box: Box, expected: set[str]) -> None:
    assert relations(seen("a", box), seen("b", (20, 20, 30, 30))) == expected


def test_relations_divide_by_the_offset_before_shrinking() -> None:
    """Offset 5 of extents 10 and 10: (5 − 2) / 5 = 0.6 is a relation; of extents 20 and 20, (5 − 4) / 5 is none."""
    assert relations(seen("a", (5, 0, 15, 10)), seen("b", (0, 0, 10, 10))) == {"right of"}
    assert relations(seen("a", (5, 0, 25, 20)), seen("b", (0, 0, 20, 20))) == frozenset()


def position(relation: str = "left of", target: int = 0) -> list[dict[str, Any]]:
    return [{"class": "dog"}, {"class": "cat", "position": [relation, target]}]


def test_position_against_the_matched_clause() -> None:
    dog, cat = seen("dog", (30, 0, 40, 10)), seen("cat", (0, 0, 10, 10))
    assert verdict(position(), dog, cat).strict
    wrong = verdict(position("above"), dog, cat)
    assert wrong.reasons == ("expected cat above dog, found left of",)
    assert wrong.matched == ((dog,), None)


def test_position_without_a_target_fails_and_says_so() -> None:
    failed = verdict(position(), seen("cat"))
    assert failed.reasons == ("expected 1 dog, found 0", "no target for cat to be left of")
    assert verdict(position(target=5), seen("cat"), seen("dog")).reasons == ("no target for cat to be left of",)


def test_a_clause_that_failed_by_color_is_no_target() -> None:
    include: list[dict[str, Any]] = [
        {"class": "dog", "color": "red"}, {"class": "cat", "position": ["left of", 0]},
    ]  # fmt: skip
    failed = verdict(include, seen("dog", (30, 0, 40, 10), color="blue"), seen("cat"))
    assert failed.reasons == ("expected 1 red dog, found blue", "no target for cat to be left of")


def test_position_must_hold_for_every_pair() -> None:
    include: list[dict[str, Any]] = [{"class": "dog"}, {"class": "cat", "count": 2, "position": ["left of", 0]}]
    dog = seen("dog", (30, 0, 40, 10))
    left, right = seen("cat", (0, 0, 10, 10)), seen("cat", (60, 0, 70, 10), confidence=0.5)
    failed = verdict(include, dog, left, right)
    assert not failed.strict
    assert failed.graded == pytest.approx((1 + 1 + 0.5) / 3)


def test_all_reasons_are_listed() -> None:
    failed = verdict([{"class": "cat"}, {"class": "dog", "count": 2}], seen("dog"), exclude=[{"class": "dog"}])
    assert len(failed.reasons) == 3


@pytest.mark.parametrize(("num_found", "graded"), [(0, 0.0), (1, 1 / 3), (2, 2 / 3), (3, 1.0), (4, 0.75), (5, 2 / 3)])
def test_graded_counting_is_best_at_the_count(num_found: int, graded: float) -> None:
    include, exclude = [{"class": "cat", "count": 3}], [{"class": "cat", "count": 4}]
    found = verdict(include, *[seen("cat")] * num_found, exclude=exclude)
    assert found.graded == pytest.approx(graded)
    assert found.strict == (num_found == 3)


def test_no_object_clause_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither an include nor an exclude"):
        judge(Checks(tag="spelling", text="ABC"), {})


names = st.sampled_from(["cat", "dog", "bird"])
colors = st.sampled_from(["red", "blue"])
corners = st.tuples(*[st.floats(0, 40, allow_nan=False)] * 2, *[st.floats(1, 20)] * 2).map(
    lambda raw: (raw[0], raw[1], raw[0] + raw[2], raw[1] + raw[3])
)
detections = st.lists(st.builds(Detection, names, st.floats(0, 1), corners, colors), max_size=8)
clauses = st.fixed_dictionaries(
    {"class": names, "count": st.integers(1, 4)},
    optional={"color": colors, "position": st.tuples(st.sampled_from(RELATIONS), st.integers(0, 3)).map(list)},
)
excludes = st.lists(st.fixed_dictionaries({"class": names, "count": st.integers(1, 5)}), max_size=2)


@given(st.lists(clauses, min_size=1, max_size=4), excludes, detections, st.floats(0, 1))
def test_reward_is_one_exactly_for_a_strict_pass(
    include: list[dict[str, Any]], exclude: list[dict[str, Any]], found: list[Detection], share: float
) -> None:
    checks = Checks.from_metadata({"tag": "t", "include": include, "exclude": exclude})
    result = judge(checks, select(found, min_confidence=0.3), strict_share=share)
    assert (result.reward == 1.0) == result.strict == (not result.reasons)
    assert 0.0 <= result.reward <= 1.0
    assert 0.0 <= result.graded <= 1.0
    assert len(result.matched) == len(include)
    if result.strict:
        assert None not in result.matched
        assert result.graded == 1.0


@given(corners, corners)
def test_relations_are_mirrored(one: Box, other: Box) -> None:
    mirror = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    there, back = relations(seen("a", one), seen("b", other)), relations(seen("b", other), seen("a", one))
    assert {mirror[name] for name in there} == back
    assert not {"left of", "right of"} <= there
    assert not {"above", "below"} <= there


@given(detections, st.randoms())
def test_judging_does_not_depend_on_the_order_of_detections(found: list[Detection], rng: Any) -> None:
    distinct = list({one.confidence: one for one in found}.values())
    shuffled = list(distinct)
    rng.shuffle(shuffled)
    include = [{"class": "cat", "color": "red"}, {"class": "dog", "position": ["above", 0]}]
    assert verdict(include, *distinct) == verdict(include, *shuffled)
