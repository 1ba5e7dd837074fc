"""What every oracle promises, asked through its HTTP app: a toy, and ours with their real weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.wire.codec import PNG, WEBP, encode_picture, raw_media_type
from rewardmesh.wire.messages import OracleInfo, Sample, Scored, ScoreFailure, ScoreResult
from services.catalogue import ORACLES, make_oracle
from tests.unit.services.asking import batch, inline, multipart, parts, reply_of, sample
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.render import render, scene_for

pytestmark = pytest.mark.timeout(300)  # torch and EasyOCR are slow to load on a busy machine

NAMES = ("toy", *ORACLES)


class Toy(Oracle):
    """How much of the asked colour there is; knows red only."""

    info = OracleInfo(
        name="toy",
        version="1",
        reward_min=0.0,
        reward_max=1.0,
        media_types=(WEBP, PNG, "application/x-raw-rgb"),
        max_batch=64,
    )

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        return [
            Scored(sample_id=one.sample.sample_id, reward=float(one.picture[..., 0].mean() / 255))
            if one.sample.checks.include
            else failed(one.sample, "missing_checks", "no clause")
            for one in batch
        ]


@dataclass(frozen=True)
class Case:
    """An oracle with a picture that it must reward in full, one that it must not, and checks for both."""

    name: str
    client: TestClient
    info: OracleInfo
    checks: dict[str, Any]
    right: np.ndarray
    wrong: np.ndarray
    unfit: dict[str, Any]  # checks of another oracle's samples

    def ask(self, request: dict[str, Any]) -> list[ScoreResult]:
        response: httpx.Response = self.client.post("/v1/score", **request)  # type: ignore[assignment]
        reply = reply_of(response)
        assert (reply.oracle, reply.version) == (self.info.name, self.info.version)
        return reply.results

    def samples(self, number: int) -> list[Sample]:
        return [sample(f"s{index}", **self.checks) for index in range(number)]


def rendered(kind: str) -> tuple[dict[str, Any], np.ndarray]:
    spec = next(spec for spec in heldout_prompts() if spec.kind == kind)
    return spec.checks, render(scene_for(spec.checks, np.random.default_rng(11))).picture


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name: str = request.param
    words, word = rendered("spelling")
    shapes, shape = rendered("color_attr")
    chosen: dict[str, tuple[dict[str, Any], np.ndarray, np.ndarray, dict[str, Any]]] = {
        "toy": (shapes, np.full((48, 48, 3), 255, np.uint8), np.zeros((48, 48, 3), np.uint8), words),
        "object_count": (shapes, shape, word, words),
        "ocr_spelling": (words, word, shape, shapes),
    }
    checks, right, wrong, unfit = chosen[name]
    oracle = Toy() if name == "toy" else make_oracle(name, {})
    with TestClient(build_app(oracle)) as client:
        yield Case(name, client, oracle.info, checks, right, wrong, unfit)


def test_it_describes_itself(case: Case) -> None:
    info = OracleInfo.model_validate_json(case.client.get("/v1/oracle").content)
    assert info == case.info
    assert info.name == case.name
    assert case.client.get("/v1/health").json() == {"status": "ok"}


def test_it_rewards_right_over_wrong_and_explains(case: Case) -> None:
    right, wrong = case.ask(parts(case.name, case.samples(2), [case.right, case.wrong]))
    assert isinstance(right, Scored)
    assert isinstance(wrong, Scored)
    assert right.reward == case.info.reward_max
    assert case.info.reward_min <= wrong.reward < right.reward
    if case.name != "toy":
        assert right.detail["strict"] is True
        assert wrong.detail["strict"] is False


def test_both_forms_agree(case: Case) -> None:
    samples, pictures = case.samples(2), [case.right, case.wrong]
    assert case.ask(parts(case.name, samples, pictures)) == case.ask(inline(case.name, samples, pictures))


def test_every_media_type_gives_the_same_reward(case: Case) -> None:
    rewards = set()
    for named in case.info.media_types:
        media_type = raw_media_type(48, 48) if named == "application/x-raw-rgb" else named
        request = batch(case.name, case.samples(1), media_type)
        (result,) = case.ask(multipart(request, [encode_picture(case.wrong, media_type)]))
        assert isinstance(result, Scored)
        rewards.add(result.reward)
    assert len(rewards) == 1


def test_a_reward_depends_on_its_own_sample_only(case: Case) -> None:
    pictures = [case.right, case.wrong, case.right, case.wrong]
    together = {r.sample_id: r for r in case.ask(parts(case.name, case.samples(4), pictures))}
    for one, picture in zip(case.samples(4), pictures, strict=True):
        (alone,) = case.ask(parts(case.name, [one], [picture]))
        among = together[one.sample_id]
        assert isinstance(alone, Scored)
        assert isinstance(among, Scored)
        assert alone.reward == pytest.approx(among.reward, abs=1e-6)


def test_a_full_batch_is_taken_and_more_refused(case: Case) -> None:
    number = case.info.max_batch
    results = case.ask(parts(case.name, case.samples(number), [case.right] * number))
    assert sorted(r.sample_id for r in results) == sorted(one.sample_id for one in case.samples(number))
    assert {r.kind for r in results} == {"scored"}
    over = case.client.post("/v1/score", **parts(case.name, case.samples(number + 1), [case.right] * (number + 1)))
    assert over.status_code == 413


def test_a_sample_that_does_not_fit_fails_alone(case: Case) -> None:
    fit, unfit = sample("fit", **case.checks), sample("unfit", **case.unfit)
    results = {r.sample_id: r for r in case.ask(parts(case.name, [fit, unfit], [case.right] * 2))}
    assert isinstance(results["fit"], Scored)
    failure = results["unfit"]
    assert isinstance(failure, ScoreFailure)
    assert (failure.code, failure.retryable) == ("missing_checks", False)
    assert "\n" not in failure.detail


def test_a_picture_that_is_none_fails_alone(case: Case) -> None:
    good, bad = case.samples(2)
    request = batch(case.name, [good, bad], PNG)
    results = {r.sample_id: r for r in case.ask(multipart(request, [encode_picture(case.right, PNG), b"no picture"]))}
    assert isinstance(results[good.sample_id], Scored)
    failure = results[bad.sample_id]
    assert isinstance(failure, ScoreFailure)
    assert failure.code == "invalid_picture"


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (48, 20)])
def test_odd_pictures_are_judged_or_refused(case: Case, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 40, np.uint8)
    (result,) = case.ask(multipart(batch(case.name, case.samples(1), PNG), [encode_picture(picture, PNG)]))
    assert isinstance(result, Scored)
    assert result.reward < case.info.reward_max
