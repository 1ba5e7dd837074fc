"""The HTTP app around an oracle: the protocol's statuses, limits, and one result a sample."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from rewardmesh.kit.app import AppLimits, build_app
from rewardmesh.kit.oracle import Oracle, OracleInput, Result
from rewardmesh.wire.codec import PNG, decode_picture, encode_picture, raw_media_type
from rewardmesh.wire.messages import OracleInfo, Scored, ScoreFailure
from tests.unit.services.asking import GREY, batch, inline, multipart, parts, reply_of, sample

RAW = raw_media_type(8, 8)
LIMITS = AppLimits(max_body_bytes=20_000, max_picture_bytes=4000, max_pixels=64 * 64)


class Toy(Oracle):
    """Mean brightness; prompts make it misbehave."""

    def __init__(self) -> None:
        self.info = OracleInfo(
            name="toy",
            version="1",
            reward_min=0.0,
            reward_max=1.0,
            media_types=("application/x-raw-rgb", PNG),
            max_batch=4,
        )
        self.closed = False
        self.calls: list[tuple[int, str]] = []

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        self.calls.append((len(batch), threading.current_thread().name))
        results: list[Result] = []
        for one in batch:
            match one.sample.prompt:
                case "raise":
                    raise RuntimeError("cannot judge this")
                case "out of range":
                    results.append(Scored(sample_id=one.sample.sample_id, reward=2.0))
                case "stranger":
                    results.append(Scored(sample_id="stranger", reward=0.5))
                case "silent":
                    pass
                case "slow":
                    time.sleep(0.3)
                    results.append(Scored(sample_id=one.sample.sample_id, reward=0.5))
                case _:
                    results.append(Scored(sample_id=one.sample.sample_id, reward=float(one.picture.mean() / 255)))
        return results

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def client(toy: Toy) -> Iterator[TestClient]:
    with TestClient(build_app(toy, limits=LIMITS)) as opened:
        yield opened


def score(client: TestClient, request: dict[str, Any]) -> httpx.Response:
    return client.post("/v1/score", **request)  # type: ignore[return-value]


def one(prompt: str, sample_id: str = "s0", picture: np.ndarray = GREY) -> dict[str, Any]:
    return parts("toy", [sample(sample_id, prompt=prompt)], [picture])


def test_it_says_what_it_is(client: TestClient, toy: Toy) -> None:
    assert OracleInfo.model_validate_json(client.get("/v1/oracle").content) == toy.info
    assert client.get("/v1/health").json() == {"status": "ok"}


def test_both_forms_give_the_same(client: TestClient) -> None:
    samples = [sample("a"), sample("b")]
    pictures = [GREY, np.zeros((8, 8, 3), np.uint8)]
    by_parts = reply_of(score(client, parts("toy", samples, pictures)))
    assert by_parts == reply_of(score(client, inline("toy", samples, pictures)))
    assert {result.sample_id: result.reward for result in by_parts.results} == {"a": pytest.approx(128 / 255), "b": 0.0}  # type: ignore[union-attr]
    assert (by_parts.oracle, by_parts.version) == ("toy", "1")


def test_it_scores_in_one_thread_of_its_own(client: TestClient, toy: Toy) -> None:
    for _ in range(3):
        reply_of(score(client, one("fine")))
    assert {name for _, name in toy.calls} == {"score-toy_0"}


async def test_the_next_batch_is_opened_while_one_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    num_opened, second_opened = 0, threading.Event()

    def opening(*args: Any, **more: Any) -> Any:
        nonlocal num_opened
        num_opened += 1
        if num_opened == 2:
            second_opened.set()
        return decode_picture(*args, **more)

    class Waits(Toy):
        def score(self, batch: Sequence[OracleInput]) -> list[Result]:
            assert second_opened.wait(10)
            return super().score(batch)

    monkeypatch.setattr("rewardmesh.kit.app.decode_picture", opening)
    transport = httpx.ASGITransport(app=build_app(Waits()))
    async with httpx.AsyncClient(transport=transport, base_url="http://oracle") as http:
        asked = [http.post("/v1/score", **parts("toy", [sample()], [GREY])) for _ in range(4)]
        answers = await asyncio.gather(*asked)
    assert [[one.kind for one in reply_of(answer).results] for answer in answers] == [["scored"]] * 4


def test_a_bad_picture_fails_alone(client: TestClient) -> None:
    good, bad = sample("good"), sample("bad")
    reply = reply_of(score(client, multipart(batch("toy", [good, bad], RAW), [GREY.tobytes(), b"nonsense"])))
    results = {result.sample_id: result for result in reply.results}
    assert isinstance(results["good"], Scored)
    assert isinstance(results["bad"], ScoreFailure)
    assert (results["bad"].code, results["bad"].retryable) == ("invalid_picture", False)


def test_a_group_that_is_judged_whole_fails_whole(client: TestClient, toy: Toy) -> None:
    toy.info = toy.info.model_copy(update={"granularity": "group"})
    group = [sample("a"), sample("b"), sample("c")]
    assert {result.kind for result in reply_of(score(client, parts("toy", group, [GREY] * 3))).results} == {"scored"}
    broken = multipart(batch("toy", group, RAW), [GREY.tobytes(), b"nonsense", GREY.tobytes()])
    assert [result.code for result in reply_of(score(client, broken)).results] == ["invalid_picture"] * 3  # type: ignore[union-attr]
    group[1] = sample("b", prompt="raise")
    raising = reply_of(score(client, parts("toy", group, [GREY] * 3)))
    assert [result.code for result in raising.results] == ["oracle_error"] * 3  # type: ignore[union-attr]
    assert [size for size, _ in toy.calls] == [3, 3]  # never in parts


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("image/gif", b"GIF89a"),
        (PNG, b"\x89PNG\r\n\x1a\n" + b"\0" * 30),
        (raw_media_type(60000, 60000), b"\0" * 12),
        (PNG, encode_picture(np.zeros((80, 80, 3), np.uint8), PNG)),
        (PNG, b""),
        (RAW, b"\0" * 5000),
    ],
    ids=["unknown type", "broken", "claims a bomb", "too many pixels", "empty", "too many bytes"],
)
def test_pictures_that_are_none(client: TestClient, media_type: str, data: bytes) -> None:
    (result,) = reply_of(score(client, multipart(batch("toy", [sample()], media_type), [data]))).results
    assert isinstance(result, ScoreFailure)
    assert result.code == "invalid_picture"
    assert "\n" not in result.detail


def test_base64_that_is_none_fails_alone(client: TestClient) -> None:
    request = inline("toy", [sample("a"), sample("b")], [GREY, GREY])
    body = json.loads(request["content"])
    body["items"][1]["picture_base64"] = "***"
    request["content"] = json.dumps(body)
    results = {result.sample_id: result for result in reply_of(score(client, request)).results}
    assert isinstance(results["a"], Scored)
    assert isinstance(results["b"], ScoreFailure)


def test_an_oracle_that_raises_fails_only_the_sample_to_blame(client: TestClient) -> None:
    samples = [sample("a"), sample("b", prompt="raise"), sample("c")]
    results = {r.sample_id: r for r in reply_of(score(client, parts("toy", samples, [GREY] * 3))).results}
    assert isinstance(results["a"], Scored)
    assert isinstance(results["c"], Scored)
    blamed = results["b"]
    assert isinstance(blamed, ScoreFailure)
    assert blamed.code == "oracle_error"
    assert "cannot judge this" in blamed.detail


@pytest.mark.parametrize("prompt", ["out of range", "stranger"])
def test_unsound_results_are_failures(client: TestClient, prompt: str) -> None:
    (result,) = reply_of(score(client, one(prompt))).results
    assert isinstance(result, ScoreFailure)
    assert (result.sample_id, result.code) == ("s0", "oracle_error")


def test_a_partial_answer_is_passed_on(client: TestClient) -> None:
    assert reply_of(score(client, one("silent"))).results == []


def refusal(response: httpx.Response, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"what", "which", "what_to_do"}
    assert all("\n" not in line for line in error.values())
    return error


def test_malformed_requests(client: TestClient) -> None:
    raw = GREY.tobytes()
    as_json = {"Content-Type": "application/json"}
    refusal(score(client, multipart("{", [raw])), 400)
    refusal(score(client, multipart('{"oracle": NaN}', [raw])), 400)
    refusal(score(client, multipart(batch("toy", [sample()], RAW), [])), 400)
    refusal(score(client, {"files": {"p0": ("p0", raw, RAW)}}), 400)
    refusal(score(client, {"content": b"{", "headers": as_json}), 400)
    refusal(score(client, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}), 400)
    cut_short = {"Content-Type": "multipart/form-data; boundary=b"}
    refusal(
        score(client, {"content": b'--b\r\nContent-Disposition: form-data; name="request"', "headers": cut_short}), 400
    )
    refusal(score(client, {"content": b"x", "headers": {"Content-Type": "text/plain"}}), 415)


def test_what_is_not_a_batch_for_this_oracle(client: TestClient) -> None:
    raw = GREY.tobytes()
    refusal(score(client, multipart('{"oracle": "toy", "items": []}', [raw])), 422)
    refusal(score(client, multipart(batch("other", [sample()], RAW), [raw])), 422)
    refusal(score(client, multipart(batch("toy", [sample(), sample()], RAW), [raw, raw])), 422)
    later = batch("toy", [sample()], RAW).to_json().replace('"protocol":1', '"protocol":2')
    refusal(score(client, multipart(later, [raw])), 422)


def test_a_batch_or_body_too_large(client: TestClient) -> None:
    samples = [sample(f"s{i}") for i in range(5)]
    assert "at most 4" in refusal(score(client, parts("toy", samples, [GREY] * 5)), 413)["what_to_do"]
    refusal(score(client, {"content": b"x" * 30_000, "headers": {"Content-Type": "application/json"}}), 413)

    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 1000] * 30

    refusal(score(client, {"content": chunks(), "headers": {"Content-Type": "application/json"}}), 413)


def test_a_picture_sent_as_a_plain_field_is_read(client: TestClient) -> None:
    fields = {"request": (None, batch("toy", [sample()], RAW).to_json()), "p0": (None, GREY.tobytes())}
    (result,) = reply_of(score(client, {"files": fields})).results
    assert isinstance(result, Scored)


async def test_waiting_requests_are_bounded_and_deadlines_kept(toy: Toy) -> None:
    app = build_app(toy, limits=AppLimits(max_waiting=2, retry_after_s=3))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://oracle") as http:

        async def ask(index: int, **more: Any) -> httpx.Response:
            await asyncio.sleep(index * 0.02)
            return await http.post("/v1/score", **parts("toy", [sample(prompt="slow")], [GREY], **more))

        first, late, refused = await asyncio.gather(ask(0), ask(1, deadline_s=0.05), ask(2))
        assert (await http.get("/v1/health")).status_code == 200
    assert first.status_code == 200
    refusal(late, 503)
    refusal(refused, 429)
    assert refused.headers["Retry-After"] == late.headers["Retry-After"] == "3"
    assert len(toy.calls) == 1  # nobody was left to score for


def test_pictures_that_are_too_large_together_are_refused(toy: Toy) -> None:
    limits = AppLimits(max_request_pixels=2 * 64)
    with TestClient(build_app(toy, limits=limits)) as opened:
        reply_of(score(opened, parts("toy", [sample("a"), sample("b")], [GREY] * 2)))
        three = parts("toy", [sample("a"), sample("b"), sample("c")], [GREY] * 3)
        assert refusal(score(opened, three), 413)["what"] == "pictures are too large together"
    assert [asked for asked, _ in toy.calls] == [2]


@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer", "Basic secret", "secret", "Bearer secret2", "Bearer s\xe9cret".encode("latin-1")],
)
def test_every_route_but_health_asks_for_the_token(
    toy: Toy, header: str | bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {} if header is None else {"Authorization": header}
    with TestClient(build_app(toy, token="secret")) as opened:
        asked = [
            opened.get("/v1/oracle", headers=headers),
            opened.get("/openapi.json", headers=headers),
            opened.post("/v1/score", headers=headers, **one("fine")),
        ]
        assert opened.get("/v1/health").status_code == 200
        for response in asked:
            refusal(response, 401)  # type: ignore[arg-type]
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "secret" not in response.text
        assert toy.calls == []
        right = {"Authorization": "Bearer secret"}
        assert opened.get("/v1/oracle", headers=right).status_code == 200
        assert opened.get("/openapi.json", headers=right).status_code == 200
        assert opened.post("/v1/score", headers=right, **one("fine")).status_code == 200
    assert "secret" not in caplog.text


def test_an_empty_token_is_refused(toy: Toy) -> None:
    with pytest.raises(ValueError, match="empty token"):
        build_app(toy, token="")


def test_what_is_not_there_is_refused_in_the_same_words(client: TestClient) -> None:
    refusal(client.get("/v1/nothing"), 404)  # type: ignore[arg-type]
    refusal(client.get("/v1/score"), 405)  # type: ignore[arg-type]
    refusal(client.get("/docs"), 404)  # type: ignore[arg-type] - its page would be fetched from elsewhere


def test_it_closes_its_oracle(toy: Toy) -> None:
    with TestClient(build_app(toy)):
        assert not toy.closed
    assert toy.closed
