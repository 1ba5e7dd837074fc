"""The learned reward weighs what a picture's own reward lacks: who is weighed how, and what that does to an update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.unit.trainer.test_roles import batch_of
from trainer.algorithm_recipe import (
    AdamSettings,
    AlgorithmRecipe,
    FakeScoreSettings,
    StudentSettings,
    SurrogateSettings,
)
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.models.sd3 import Sd3Family
from trainer.worlds.shapes.weights_folder import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHED = "algorithm.student.reward_weighting=shortfall"


def student_batches(make_loop: Any, algorithm: Any, *overrides: str) -> list[TrajectoryBatch]:
    make_loop("run.iterations=2", *overrides, algorithm=algorithm).run()
    return [batch for name, batch in algorithm.batches if name == "student"]


def test_a_students_batch_says_what_each_reward_lacks(make_loop: Any, toy_algorithm: Any) -> None:
    for batch in student_batches(make_loop, toy_algorithm(), WEIGHED):
        assert batch.shortfall is not None
        bright = (torch.sigmoid(batch.boundaries[:, -1])[:, 0] * 255).to(torch.uint8).float()
        torch.testing.assert_close(batch.shortfall, 1 - bright.mean(dim=(1, 2)) / 255, atol=2e-3, rtol=0)


def test_a_picture_without_a_reward_is_weighed_as_if_it_lacked_all(
    make_loop: Any, toy_algorithm: Any, oracles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = oracles["brightness"].score
    monkeypatch.setattr(oracles["brightness"], "score", lambda batch: judge(batch)[1:])
    overrides = ("prompts.kinds=[colors]", "feedback.oracles=[{name: brightness}]", WEIGHED)
    for batch in student_batches(make_loop, toy_algorithm(), *overrides):
        assert batch.shortfall is not None
        assert (batch.shortfall == 1).any()
        assert (batch.shortfall < 0.9).any()


def test_evenly_weighed_batches_need_no_reward(make_loop: Any, toy_algorithm: Any) -> None:
    assert all(batch.shortfall is None for batch in student_batches(make_loop, toy_algorithm()))


@pytest.fixture(scope="module")
def family() -> Sd3Family:
    return Sd3Family.load(WEIGHTS)


@pytest.mark.parametrize("at_once", [None, 2])
def test_the_learned_reward_counts_for_what_lacks_and_matching_for_all(family: Sd3Family, at_once: int | None) -> None:
    def algorithm(reward_scale: float = 1.5, reward_weighting: str = "shortfall") -> TdmR1:
        student = StudentSettings(
            reward_scale=reward_scale,
            reward_weighting=reward_weighting,
            optimizer=AdamSettings(learning_rate=1e-4, max_grad_norm=1e9),
        )
        settings = AlgorithmRecipe(
            surrogate=SurrogateSettings(form="value_contrast"),
            fake_score=FakeScoreSettings(initial_weights="teacher"),
            student=student,
            micro_batch_size=at_once,
        )
        return TdmR1(settings, family, weights=WEIGHTS, seed=1)

    batch = batch_of(algorithm(), groups=2, size=2)

    def gradient(shortfall: list[float] | None, *, reward_scale: float = 1.5) -> torch.Tensor:
        one = algorithm(reward_scale, "even" if shortfall is None else "shortfall")
        one.student_step(replace(batch, shortfall=None if shortfall is None else torch.tensor(shortfall)))
        return torch.cat([p.grad.flatten() for p in one.student.parameters() if p.grad is not None])

    def distance(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).norm() / other.norm())

    even, none = gradient(None), gradient(None, reward_scale=0.0)
    assert distance(even, none) > 0.3
    assert distance(gradient([0.0] * 4), none) < 1e-3
    first, rest = gradient([1.0, 0.5, 0.0, 0.0]), gradient([0.0, 0.5, 1.0, 1.0])
    assert min(distance(first, none), distance(rest, none)) > 0.05
    # However little is lacking, and of however few, the pull over all has the size of an even one.
    whole = 1.25**0.5 / 2 * (first - none) + 2.25**0.5 / 2 * (rest - none)
    assert distance(whole + none, even) < 1e-3
    assert distance(gradient([0.2, 0.1, 0.0, 0.0]), first) < 1e-3
