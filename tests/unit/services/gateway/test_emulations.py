"""Requests of Flow-Factory and OpenRLHF, as their clients write them, answered by a registered oracle."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.unit.services.gateway.conftest import Front, png

FLOW_FACTORY = "/as/flow-factory/blue/compute"
OPENRLHF = "/as/openrlhf/blue/get_reward"


async def test_flow_factory_s_client_is_answered(front: Front, blue: str, worker: object) -> None:
    """The keys that its client sends, with nulls; then those that its server template reads."""
    async with front.client("admin") as client:
        await client.post("/v1/oracles", json={"url": blue})
    sent = {
        "prompt": ["one", "two"],
        "image": [png(0), png(51)],
        "video": None,
        "condition_images": None,
        "condition_videos": None,
        "kwargs": None,
    }
    template = {"prompts": ["one"], "images": [png(255)], "extra": {"checks": [{"tag": "counting"}], "weight": 1}}
    url = front.url.replace("http://", f"http://any:{await front.token('score')}@")  # its one setting
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as trainer:
        assert (await trainer.get("/as/flow-factory/blue/health")).is_success
        assert (await trainer.post(FLOW_FACTORY, json=sent)).json() == {"rewards": [0.0, 0.2]}
        assert (await trainer.post(FLOW_FACTORY, json=sent)).json() == {"rewards": [0.0, 0.2]}
        assert (await trainer.post(FLOW_FACTORY, json=template)).json() == {"rewards": [1.0]}

        failing = sent | {"image": [png(0), png(red=True)]}
        answer = await trainer.post(FLOW_FACTORY, json=failing)
        assert answer.status_code == 502  # never a 0 in its place
        assert "oracle_error" in answer.text

        labels = [json.dumps({"tag": "counting"}), "a reference answer"]
        asked = {"query": ["q1", "q2"], "prompts": ["one", "two"], "labels": labels, "images": [png(51), png(102)]}
        rewards = [0.2, 0.4]
        expected = {"rewards": rewards, "scores": rewards, "extra_logs": {"blue": rewards}}
        assert (await trainer.post(OPENRLHF, json=asked)).json() == expected


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        (FLOW_FACTORY, {"prompt": ["one"], "image": None, "video": [[png()]]}, "video is not scored"),
        (FLOW_FACTORY, {"prompt": ["one", "two"], "image": [png()]}, "2 prompts and 1 pictures"),
        (FLOW_FACTORY, {"prompt": ["one"], "image": ["/9j/4AAQ"]}, "picture 0"),
        (FLOW_FACTORY, {"prompt": ["one"], "image": [png()], "kwargs": {"checks": [{"include": 1}]}}, "GenEval"),
        (OPENRLHF, {"query": ["q1"], "prompts": ["one"], "labels": [None]}, "0 pictures"),
        (OPENRLHF, {"prompts": ["one"]}, "query"),
    ],
)
async def test_what_cannot_be_scored_is_refused(front: Front, blue: str, path: str, body: object, word: str) -> None:
    async with front.client("admin", "score") as client:
        await client.post("/v1/oracles", json={"url": blue})
        answer = await client.post(path, json=body)
        assert answer.status_code == 422, answer.text
        assert word in answer.text


async def test_an_unknown_oracle_is_404(front: Front) -> None:
    async with front.client("score") as client:
        answer = await client.post(FLOW_FACTORY, json={"prompt": ["one"], "image": [png()]})
        assert answer.status_code == 404


async def test_a_wait_has_an_end_and_a_repeat_joins_it(
    front: Front, blue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.emulations.WAIT_S", 0.2)
    async with front.client("admin", "score") as client:  # nobody works here
        await client.post("/v1/oracles", json={"url": blue})
        for _ in range(2):
            answer = await client.post(FLOW_FACTORY, json={"prompt": ["one"], "image": [png()]})
            assert answer.status_code == 504
        depth = await front.gateway.stream("gateway.vision").depth("blue")
        assert depth.lag == 1
