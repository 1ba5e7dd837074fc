"""The conformance check of foreign services: passes one that answers as registered, and names what another lacks."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from rewardmesh.kit.checking import ConformanceReport
from rewardmesh.kit.dialect_conformance import DIALECT_CHECKS, check_endpoint
from rewardmesh.wire.messages import OracleEndpoint
from tests.unit.reward_workers.test_dialects import RANGE, Answer, endpoint_of, rewards_of, serving


def compute(body: dict[str, Any]) -> Any:
    return {"rewards": rewards_of(body["images"])}


def infer(body: dict[str, Any]) -> Any:
    data = rewards_of(body["inputs"][0]["data"])
    return {"outputs": [{"name": "reward", "shape": [len(data)], "datatype": "FP32", "data": data}]}


def complete(body: dict[str, Any]) -> Any:
    image = body["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2]
    return {"choices": [{"message": {"content": f'{{"reward": {rewards_of([image])[0]}}}'}}]}


GOOD: dict[str, tuple[Answer, dict[str, Any]]] = {
    "flow_factory": (compute, {}),
    "openrlhf": (compute, {}),
    "kserve": (infer, {"model": "clip"}),
    "openai_judge": (complete, {"model": "eye-1"}),
}


async def examine(answer: Answer, dialect: str, *, status: int = 200, **more: Any) -> ConformanceReport:
    options = GOOD[dialect][1] | more.pop("options", {})
    async with serving(answer) as service, httpx.AsyncClient(trust_env=False) as http:
        service.status = status
        endpoint = endpoint_of(service, dialect, **options).model_copy(update=more)
        return await check_endpoint(endpoint, http=http)


def failed(report: ConformanceReport) -> set[str]:
    return {one.check for one in report.findings if not one.passed}


@pytest.mark.parametrize("dialect", GOOD)
async def test_a_service_that_answers_passes_every_check(dialect: str) -> None:
    report = await examine(GOOD[dialect][0], dialect)
    assert report.passed, str(report)
    assert tuple(one.check for one in report.findings) == DIALECT_CHECKS
    assert f"oracle theirs, version 3 at {report.url}: keeps to the dialect {dialect}" in str(report)
    batch = next(one for one in report.findings if one.check == "batch").detail
    assert batch == ("one picture a request" if dialect == "openai_judge" else "8 pictures in one request")
    assert "ms a picture" in str(report)


@pytest.mark.parametrize(
    ("dialect", "answer", "more", "wrong", "said"),
    [
        ("flow_factory", lambda _: {"rewards": [1.5]}, {}, {"picture", "answer"}, "outside the declared range 0.0 to"),
        ("flow_factory", lambda _: b'{"rewards": [NaN]}', {}, {"picture", "answer"}, "is no result"),
        ("flow_factory", lambda _: {"rewards": ["1"]}, {}, {"picture", "answer"}, "is no result"),
        ("flow_factory", lambda _: {"rewards": [0.5]}, {}, {"batch"}, "1 rewards for 8 samples"),
        ("flow_factory", lambda _: {"rewards": [], "error": "no GPU"}, {}, {"picture"}, "no GPU"),
        ("flow_factory", lambda _: b"<html>", {}, {"picture"}, "no JSON"),
        ("flow_factory", compute, {"status": 500}, {"picture"}, "POST /compute answered 500"),
        ("openai_judge", lambda _: {"choices": [{"message": {"content": "fine"}}]}, {}, {"picture"}, "no reward in"),
        ("kserve", lambda _: {"outputs": []}, {}, {"picture"}, "0 outputs named 'reward'"),
        ("kserve", infer, {"options": {"model": 7}}, {"options"}, "model: Input should be a valid string"),
        ("kserve", infer, {"options": {"magic": 1}}, {"options"}, "magic: Extra inputs are not permitted"),
        ("kserve", infer, {"options": {"reward_min": 2}}, {"options"}, "reward_min 2.0 is not below reward_max 1.0"),
    ],
)
async def test_what_is_wrong_is_named(
    dialect: str, answer: Answer, more: dict[str, Any], wrong: set[str], said: str
) -> None:
    report = await examine(answer, dialect, **more)
    assert failed(report) == wrong, str(report)
    assert said in str(report)
    assert "does not keep to the dialect" in str(report)


async def test_nobody_there_is_a_finding() -> None:
    async with serving(compute) as service:
        endpoint = endpoint_of(service, "flow_factory")
    async with httpx.AsyncClient(trust_env=False) as http:
        report = await check_endpoint(endpoint, http=http)
    assert failed(report) == {"picture"}
    assert "not checked, because of the above: batch, determinism" in str(report)
    assert RANGE["version"] in str(report)


async def test_one_that_never_answers_is_too_late() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        endpoint = OracleEndpoint(
            name="theirs", url=url, dialect="flow_factory", options=RANGE, max_batch=8, deadline_s=1.5
        )
        async with httpx.AsyncClient(trust_env=False) as http:
            report = await check_endpoint(endpoint, http=http)
    assert failed(report) == {"picture", "deadline"}
    assert "no answer within 1.5 s" in str(report)
