"""Each dialect against a real server that speaks its schema: what is sent, what is read, what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, get_args

import pytest

from reward_workers.client import OracleClient
from rewardmesh.dialects import DIALECTS
from rewardmesh.dialects.failures import CallerRefused, InvalidAnswer, Overloaded, RequestRefused, ServerError
from rewardmesh.dialects.openai_judge import reward_in
from rewardmesh.wire.codec import PNG, decode_picture
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.messages import OracleEndpoint, Scored, ScoreFailure
from tests.unit.reward_workers.conftest import LOOPBACK, claim_of

CLAIMS = [claim_of("a"), claim_of("b", picture=bytes([102, 0, 0, 0, 0, 255]))]
REWARDS = [0.2, 0.4]
RANGE = {"version": "3", "reward_min": 0.0, "reward_max": 1.0}
Answer = Callable[[dict[str, Any]], Any]


class Service:
    """Answers every POST with what `answer` makes of its JSON; keeps paths, headers and bodies."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.status = 200
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (part.split(": ", 1) for part in rest)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        method, path, _ = line.split(" ")
        assert method == "POST"
        self.asked.append((path, headers, body))
        said = self.answer(body)
        said = said if isinstance(said, bytes) else json.dumps(said).encode()
        head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + said)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Service]:
    service = Service(answer)
    server = await asyncio.start_server(service.connected, "127.0.0.1", 0)
    async with server:
        service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield service


def endpoint_of(service: Service, dialect: str, **options: Any) -> OracleEndpoint:
    written = {"name": "theirs", "url": service.url, "dialect": dialect, "max_batch": 8, "deadline_s": 20.0}
    return OracleEndpoint.model_validate(written | {"options": RANGE | options})


@asynccontextmanager
async def asking(answer: Answer, dialect: str, **options: Any) -> AsyncIterator[tuple[Service, OracleClient]]:
    async with serving(answer) as service:
        client = OracleClient(endpoint_of(service, dialect, **options), policy=LOOPBACK)
        async with client:
            yield service, client


def rewards_of(pictures: list[str]) -> list[float]:
    """What their model thinks: the first byte of each picture, which must be a PNG."""
    return [float(decode_picture(base64.b64decode(one, validate=True), PNG)[0, 0, 0]) / 255 for one in pictures]


def compute(body: dict[str, Any]) -> Any:
    assert set(body) == {"prompts", "images"}
    assert body["prompts"] == ["two red circles"] * len(body["images"])
    return {"rewards": rewards_of(body["images"])}


def compute_for_the_trainer(body: dict[str, Any]) -> Any:
    assert set(body) == {"prompt", "image"}
    return {"rewards": rewards_of(body["image"])}


def get_reward(body: dict[str, Any]) -> Any:
    assert body["query"] == body["prompts"] == ["two red circles"] * len(body["images"])
    assert json.loads(body["labels"][0])["tag"] == "counting"
    rewards = rewards_of(body["images"])
    return {"rewards": rewards, "scores": [0.0] * len(rewards), "extra_logs": {"dummy_scores": rewards}}


def infer(body: dict[str, Any]) -> Any:
    image, prompt = body["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "BYTES", [len(image["data"])])
    assert (prompt["name"], prompt["datatype"], prompt["data"][0]) == ("prompt", "BYTES", "two red circles")
    assert body["outputs"] == [{"name": "reward"}]
    data = rewards_of(image["data"])
    reward = {"name": "reward", "shape": [len(data), 1], "datatype": "FP32", "data": [[one] for one in data]}
    return {
        "model_name": "clip",
        "outputs": [{"name": "logits", "shape": [1], "datatype": "FP32", "data": [7]}, reward],
    }


def complete(body: dict[str, Any]) -> Any:
    assert body["model"] == "eye-1"
    (message,) = body["messages"]
    text, image = message["content"]
    assert "from 0 to 1" in text["text"]
    assert text["text"].endswith("two red circles")
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head) == ("image_url", "data:image/png;base64")
    content = f'I see {{"reward": 9}} circles.\n```json\n{{"reward": {rewards_of([data])[0]}}}\n```'
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}}],
    }


@pytest.mark.parametrize(
    ("dialect", "answer", "options", "path"),
    [
        ("flow_factory", compute, {}, "/compute"),
        ("flow_factory", compute_for_the_trainer, {"keys": "singular"}, "/compute"),
        ("openrlhf", get_reward, {}, "/get_reward"),
        ("kserve", infer, {"model": "clip"}, "/v2/models/clip/infer"),
        ("kserve", infer, {"model": "clip", "model_version": "4"}, "/v2/models/clip/versions/4/infer"),
    ],
)
async def test_a_batch_is_asked_and_answered(dialect: str, answer: Answer, options: dict[str, Any], path: str) -> None:
    async with serving(answer) as service:
        endpoint = endpoint_of(service, dialect, **options)
        async with OracleClient(endpoint, policy=LOOPBACK, secret="a-good-secret") as client:
            said = await client.score(CLAIMS)
    assert said.version == "3"
    assert [result.sample_id for result in said.results] == ["a", "b"]
    assert [result.reward for result in said.results if isinstance(result, Scored)] == pytest.approx(REWARDS)
    ((asked_path, headers, _),) = service.asked
    assert asked_path == path
    assert headers["authorization"] == "Bearer a-good-secret"
    assert headers["content-type"] == "application/json"
    assert len(headers["idempotency-key"]) == 64


async def test_a_judge_is_asked_about_one_sample_at_a_time() -> None:
    async with asking(complete, "openai_judge", model="eye-1") as (service, client):
        with pytest.raises(RequestRefused, match="it takes 1"):  # so that the batch is halved
            await client.score(CLAIMS)
        assert service.asked == []
        assert client.max_batch == 1
        (result,) = (await client.score(CLAIMS[1:])).results
    assert isinstance(result, Scored)
    assert result.reward == pytest.approx(0.4)
    assert service.asked[0][0] == "/chat/completions"


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ('{"reward": 0.5}', 0.5),
        ('{"reward": 0.1} and then {"reward": 0.9}.', 0.9),
        ('{"reward": 0.1} {"other": 1}', 0.1),
        ('{"reward": 0.3, "parts": [{"reward": 0.9}]}', 0.3),
        ('{"reasons": {"reward": 0.9}}', None),
        ('text { not json {"reward": 1} }', 1),
        ("0.75", 0.75),
        (" -1 \n", -1.0),
        ("0.75 of 1", None),
        ("1e3", None),
        ('{"reward": "0.5"}', None),
        ('{"reward": true}', None),
        ('{"reward": NaN}', None),
        ('{"reward": null}', None),
        ("I refuse.", None),
        ("", None),
        ('{"a":' * 3000, None),
        ("9" * 400, None),
        ('{"reward": 0.5}' + " " * 30_000, None),
    ],
)
def test_the_rule_by_which_a_reply_is_a_reward(reply: str, reward: float | None) -> None:
    assert reward_in(reply) == reward


OTHER_NUMBER = [{"rewards": [0.1]}, {"rewards": [0.1] * 3}, {"rewards": []}, {"rewards": 0.1}, {"rewards": None}, {}]


@pytest.mark.parametrize("dialect", ["flow_factory", "openrlhf"])
@pytest.mark.parametrize("answer", [*OTHER_NUMBER, [], "x", b"{", b"\xff", b"[" * 100_000])
async def test_rewards_without_a_place_belong_to_nobody(dialect: str, answer: Any) -> None:
    await raises(InvalidAnswer, dialect, answer)


TENSOR = {"name": "reward", "shape": [2], "datatype": "FP32", "data": [0.1, 0.2]}


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        [],
        [TENSOR, TENSOR],
        [TENSOR | {"name": "other"}],
        [TENSOR | {"shape": [1, 2]}],
        [TENSOR | {"data": [0.1]}],
        [TENSOR | {"data": "0.1 0.2"}],
        {"reward": TENSOR},
    ],
)
async def test_a_tensor_of_another_shape_is_refused(outputs: Any) -> None:
    await raises(InvalidAnswer, "kserve", {"outputs": outputs}, model="clip")


@pytest.mark.parametrize(
    "answer",
    [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": None}}]}, {"choices": "x"}],
)
async def test_a_completion_without_a_reward_is_refused(answer: Any) -> None:
    await raises(InvalidAnswer, "openai_judge", answer, claims=1, model="eye-1")


async def test_an_error_in_a_200_is_an_error() -> None:
    await raises(ServerError, "flow_factory", {"error": "out of memory"})


async def raises(
    error: type[RewardmeshError], dialect: str, answer: Any, *, claims: int = 2, **options: Any
) -> RewardmeshError:
    async with asking(lambda _: answer, dialect, **options) as (_, client):
        with pytest.raises(error) as caught:
            await client.score(CLAIMS[:claims])
    return caught.value


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        ("NaN", "reward"),
        ("-Infinity", "reward"),
        ('"1"', "reward"),
        ("true", "reward"),
        ("[0.1]", "reward"),
        ("1.5", "range"),
    ],
)
async def test_their_rewards_pass_the_same_checks(reward: str, why: str) -> None:
    body = f'{{"rewards": [{reward}, 0.5]}}'.encode()
    async with asking(lambda _: body, "flow_factory") as (_, client):
        first, second = (await client.score(CLAIMS)).results
    assert isinstance(first, ScoreFailure)
    assert first.code == "invalid_answer"
    assert why in first.detail
    assert second == Scored(sample_id="b", reward=0.5)


async def test_their_refusals_are_ours() -> None:
    async with asking(compute, "flow_factory") as (service, client):
        service.status = 429
        with pytest.raises(Overloaded):
            await client.score(CLAIMS)


@pytest.mark.parametrize(
    ("dialect", "options", "said"),
    [
        ("flow_factory", {"colour": "red"}, "colour"),
        ("flow_factory", {"keys": "both"}, "keys"),
        ("openrlhf", {"reward_max": -1.0}, "not below"),
        ("openrlhf", {"version": ""}, "version"),
        ("openrlhf", {"reward_min": "low"}, "reward_min"),
        ("kserve", {}, "model"),
        ("kserve", {"model": "../../admin"}, "model"),
        ("openai_judge", {}, "model"),
        ("rewardmesh", {}, "no options"),
    ],
)
async def test_options_that_are_none_are_refused_with_what_to_do(
    dialect: str, options: dict[str, Any], said: str
) -> None:
    failure = await raises(CallerRefused, dialect, {}, **options)
    assert said in str(failure)
    assert "register it with" in str(failure)
    assert not failure.retryable


def test_every_dialect_of_the_registry_is_spoken() -> None:
    assert set(DIALECTS) == set(get_args(OracleEndpoint.model_fields["dialect"].annotation))
