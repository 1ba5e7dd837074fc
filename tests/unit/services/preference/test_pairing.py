"""Which questions are asked: connected, closest first, the same each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardmesh.wire.messages import Checks, Sample
from services.preference.model import Group, GroupPicture, QueueSettings, digest_of
from services.preference.pairing import comparisons_of
from services.preference.rules import require_acceptable


def group_of(hints: Sequence[float | None], group_id: str = "g1") -> Group:
    sample = Sample(
        run_id="r",
        group_id=group_id,
        sample_id="s",
        policy_version=0,
        boundary_index=4,
        prompt="p",
        checks=Checks(tag="t"),
    )
    pictures = tuple(
        GroupPicture(
            sample=sample.model_copy(update={"sample_id": f"s{index}"}), digest=digest_of(bytes([index])), hint=hint
        )
        for index, hint in enumerate(hints)
    )
    return Group(
        key=f"r/{group_id}", run_id="r", group_id=group_id, prompt="p", pictures=pictures, accepted=0.0, until=1.0
    )


def pairs_of(group: Group, seed: int = 0, **settings: object) -> list[tuple[int, int | None]]:
    return [(one.first, one.second) for one in comparisons_of(group, QueueSettings(**settings), seed=seed)]


def reached(pairs: Sequence[tuple[int, int | None]]) -> set[int | None]:
    """The pictures that can be reached from the first one by going from pair to pair."""
    found: set[int | None] = {0}
    for _ in pairs:
        found |= {index for pair in pairs if found & set(pair) for index in pair}
    return found


@given(
    hints=st.lists(st.none() | st.floats(-1, 1), min_size=2, max_size=12),
    pairing=st.sampled_from(["close", "uniform"]),
    num=st.integers(1, 80),
    seed=st.integers(0, 9),
)
def test_any_group_is_connected_and_asked_once(hints: list[float | None], pairing: str, num: int, seed: int) -> None:
    group, size = group_of(hints), len(hints)
    settings = QueueSettings(pairing=pairing, comparisons_per_group=num)  # type: ignore[arg-type]
    comparisons = comparisons_of(group, settings, seed=seed)
    require_acceptable(group, [bytes([index]) for index in range(size)], comparisons)
    pairs = [(one.first, one.second) for one in comparisons]
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) == min(max(num, size - 1), size * (size - 1) // 2)
    assert reached(pairs[: size - 1]) == set(range(size))  # the tree comes first
    assert comparisons_of(group, settings, seed=seed) == comparisons


def test_the_closest_in_the_hint_come_first() -> None:
    group = group_of([0.0, 0.5, 0.1, 0.9])
    assert pairs_of(group, comparisons_per_group=5) == [(0, 2), (1, 2), (1, 3), (0, 1), (2, 3)]
    assert pairs_of(group, comparisons_per_group=1) == [(0, 2), (1, 2), (1, 3)]


@pytest.mark.parametrize("hints", [[0.5] * 5, [None] * 5, [0.1, 0.2, 0.3, 0.4, None]])
def test_where_hints_say_nothing_chance_decides(hints: list[float | None]) -> None:
    asked = Counter(pair for seed in range(300) for pair in pairs_of(group_of(hints), seed, comparisons_per_group=5))
    assert len(asked) == 10
    assert all(100 <= times <= 200 for times in asked.values())  # 150 on average


def test_another_seed_or_group_is_asked_otherwise() -> None:
    hints = [None] * 8
    first = pairs_of(group_of(hints))
    assert pairs_of(group_of(hints), seed=1) != first
    assert pairs_of(group_of(hints, "g2")) != first


def test_single_pictures_are_shown_once_each() -> None:
    pairs = pairs_of(group_of([0.1] * 20), mode="singles")
    assert {second for _, second in pairs} == {None}
    firsts = [first for first, _ in pairs]
    assert sorted(firsts) == list(range(20)) != firsts


def test_one_picture_alone_is_compared_with_nothing() -> None:
    assert pairs_of(group_of([0.1])) == []
