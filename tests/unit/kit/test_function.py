"""A function as an oracle: what it is given, and what becomes of what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import rewardmesh
from rewardmesh import Oracle, oracle
from rewardmesh.kit.__main__ import find_oracle
from rewardmesh.kit.app import build_app
from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.messages import Checks, Scored, ScoreFailure
from tests.unit.services.asking import GREY, given, parts, reply_of, sample


@oracle(version="1")
def brightness(pictures: Sequence[np.ndarray], prompts: Sequence[str], checks: Sequence[Checks]) -> list[Any]:
    return [
        (picture.mean() / 255, {"prompt": prompt, "tag": one.tag})
        for picture, prompt, one in zip(pictures, prompts, checks, strict=True)
    ]


def answer(function: Callable[..., Any], prompts: Sequence[str]) -> dict[str, Scored | ScoreFailure]:
    """What the app of the function answers, by prompt."""
    served = oracle(version="1", name="toy")(function)
    samples = [sample(f"s{index}", prompt=prompt) for index, prompt in enumerate(prompts)]
    with TestClient(build_app(served)) as client:
        reply = reply_of(client.post("/v1/score", **parts("toy", samples, [GREY] * len(samples))))  # type: ignore[arg-type]
    named = {one.sample_id: one.prompt for one in samples}
    return {named[result.sample_id]: result for result in reply.results}  # type: ignore[misc]


def test_it_is_what_it_is_declared_to_be() -> None:
    assert isinstance(brightness, Oracle)
    assert (brightness.info.name, brightness.info.version, brightness.info.reward_max) == ("brightness", "1", 1.0)
    assert brightness([GREY], ["a"], [Checks(tag="t")])[0][0] == pytest.approx(128 / 255)
    with pytest.raises(ValueError, match="reward_min"):
        oracle(version="1", name="x", reward_min=1.0)(brightness)
    with pytest.raises(ValueError, match="batch_size"):
        oracle(version="1", batch_size=0)


def test_it_is_given_pictures_prompts_and_checks_in_order() -> None:
    first, second = brightness.score([given(GREY, "a", prompt="p"), given(GREY * 0, "b", prompt="q")])
    assert first == Scored(sample_id="a", reward=128 / 255, detail={"prompt": "p", "tag": "test"})
    assert second == Scored(sample_id="b", reward=0.0, detail={"prompt": "q", "tag": "test"})


def test_it_is_given_no_more_than_its_batch_size() -> None:
    sizes: list[int] = []

    @oracle(version="1", max_batch=8, batch_size=3)
    def counted(pictures: Sequence[np.ndarray], prompts: Sequence[str], checks: Sequence[Checks]) -> np.ndarray:
        sizes.append(len(pictures))
        return np.linspace(0, 1, len(pictures), dtype=np.float32)

    results = counted.score([given(GREY, f"s{index}") for index in range(8)])
    assert sizes == [3, 3, 2]
    assert [result.sample_id for result in results] == [f"s{index}" for index in range(8)]
    assert all(isinstance(result, Scored) for result in results)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (2.0, "outside 0.0 to 1.0"),
        (None, "NoneType is no number"),
        ("1", "str is no number"),
        ((0.5, {"x": float("nan")}), "JSON"),
        ((0.5, "why"), "detail"),
    ],
)
def test_a_bad_reward_fails_its_picture_alone(bad: Any, said: str) -> None:
    results = answer(lambda pictures, prompts, checks: [bad if one == "bad" else 0.5 for one in prompts], ["a", "bad"])
    assert isinstance(results["a"], Scored)
    blamed = results["bad"]
    assert isinstance(blamed, ScoreFailure)
    assert blamed.code == "oracle_error"
    assert said in blamed.detail
    assert "\n" not in blamed.detail


def test_an_exception_fails_only_the_picture_to_blame() -> None:
    def picky(pictures: Sequence[np.ndarray], prompts: Sequence[str], checks: Sequence[Checks]) -> list[float]:
        return [1 / len(prompt.removeprefix("bad")) for prompt in prompts]

    results = answer(picky, ["a", "bad"])
    assert isinstance(results["a"], Scored)
    assert isinstance(results["bad"], ScoreFailure)
    assert "ZeroDivisionError" in results["bad"].detail


def test_another_number_of_rewards_than_pictures_is_no_answer() -> None:
    results = answer(lambda pictures, prompts, checks: [0.5, 0.5, 0.5], ["a", "b"])
    assert {getattr(result, "code", "") for result in results.values()} == {"oracle_error"}
    assert "3 rewards for 1 pictures" in results["a"].detail


def test_the_package_exports_what_it_says() -> None:
    for name in rewardmesh.__all__:
        assert getattr(rewardmesh, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = rewardmesh.nothing


@pytest.mark.parametrize("where", ["nowhere", "nowhere:x", "json:nothing", "json:dumps"])
def test_what_is_no_oracle_is_refused_with_what_to_do(where: str) -> None:
    with pytest.raises(RecipeError, match=where):
        find_oracle(where)
