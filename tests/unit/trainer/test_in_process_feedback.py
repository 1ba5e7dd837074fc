"""Oracles of the training process: what they are handed at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rewardmesh.kit.oracle import Oracle, OracleInput, Result
from rewardmesh.wire.errors import OracleRejected
from rewardmesh.wire.messages import OracleInfo, Scored
from trainer.feedback import PictureGroup, PictureSample
from trainer.in_process_feedback import InProcessFeedback


class Counting(Oracle):
    """Keeps the groups of every batch."""

    def __init__(self, **info: object) -> None:
        known = {"name": "toy", "version": "1", "reward_min": 0, "reward_max": 1, "media_types": ["image/png"]}
        self.info = OracleInfo.model_validate(known | info)
        self.batches: list[list[str]] = []

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        self.batches.append([one.sample.group_id for one in batch])
        return [Scored(sample_id=one.sample.sample_id, reward=0.5) for one in batch]


def group(group_id: str, size: int) -> PictureGroup:
    picture = np.zeros((2, 2, 3), np.uint8)
    return PictureGroup(
        run_id="r",
        group_id=group_id,
        policy_version=0,
        prompt="p",
        checks={"tag": "single_object"},
        samples=tuple(
            PictureSample(sample_id=f"{group_id}-{i}", boundary_index=4, picture=picture) for i in range(size)
        ),
        awaited=("toy",),
    )


def test_batches_are_as_large_as_the_oracle_takes_them() -> None:
    oracle = Counting(max_batch=4)
    InProcessFeedback({"toy": oracle}).publish([group("a", 3), group("b", 3)])
    assert oracle.batches == [["a", "a", "a", "b"], ["b", "b"]]


def test_an_oracle_that_judges_groups_gets_each_whole() -> None:
    oracle = Counting(max_batch=4, granularity="group")
    feedback = InProcessFeedback({"toy": oracle})
    feedback.publish([group("a", 3), group("b", 2)])
    assert oracle.batches == [["a"] * 3, ["b"] * 2]
    assert {one.group_id: len(one.results) for one in feedback.collect()} == {"a": 3, "b": 2}
    with pytest.raises(OracleRejected, match=r"whole groups of at most 4 pictures, and one has 5.*lower prompts"):
        feedback.publish([group("c", 5)])
