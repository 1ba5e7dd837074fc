"""The client against a real server on loopback: every way in which a call can fail has its class and code."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import Callable

import numpy as np
import pytest

from reward_workers.client import OracleClient, idempotency_key
from rewardmesh.dialects.failures import (
    CallerRefused,
    Dropped,
    InvalidAnswer,
    Overloaded,
    RequestRefused,
    ServerError,
    TimedOut,
    Unreachable,
    failure_of,
)
from rewardmesh.wire.codec import PNG, WEBP, decode_picture, encode_picture
from rewardmesh.wire.errors import OracleTimeout, OracleUnavailable, RewardmeshError
from rewardmesh.wire.messages import OracleEndpoint, Scored, ScoreFailure
from rewardmesh.wire.outgoing import OutgoingPolicy
from tests.oracle_server import Answer, Call, OracleServer, Response, reply
from tests.unit.reward_workers.conftest import LOOPBACK, claim_of

ClientOf = Callable[..., OracleClient]
CLAIMS = [claim_of("a"), claim_of("b")]


def always(response: Response) -> Answer:
    async def answer(_: Call) -> Response:
        return response

    return answer


async def test_a_batch_is_asked_and_answered(oracle: OracleServer, client_of: ClientOf) -> None:
    answer = await client_of(oracle, deadline_s=7).score(CLAIMS)
    assert answer.version == "1"
    assert answer.results == [Scored(sample_id="a", reward=0.2), Scored(sample_id="b", reward=0.2)]
    (call,) = oracle.calls
    assert call.headers["content-type"].startswith("multipart/form-data")
    assert call.headers["idempotency-key"] == idempotency_key("object_count", CLAIMS)
    assert call.batch.deadline_s == 7
    assert [item.sample for item in call.batch.items] == [claim.sample for claim in CLAIMS]
    assert list(call.pictures.values()) == [(claim.media_type, claim.picture) for claim in CLAIMS]


async def test_the_key_is_that_of_the_samples_and_not_of_the_attempt() -> None:
    key = idempotency_key("o", CLAIMS)
    assert key == idempotency_key("o", list(reversed(CLAIMS)))
    assert key != idempotency_key("other", CLAIMS)
    assert key != idempotency_key("o", CLAIMS[:1])


@pytest.mark.parametrize(
    ("response", "error", "code"),
    [
        (Response(b"", 429, {"Retry-After": "7"}), Overloaded, "overloaded"),
        (Response(b"", 503), Overloaded, "overloaded"),
        (Response(b"boom", 500), ServerError, "server_error"),
        (Response(b"", 502), ServerError, "server_error"),
        (Response(b"", 504), TimedOut, "timeout"),
        (Response(b"", 404), Unreachable, "unreachable"),
        (Response(b"", 401), CallerRefused, "oracle_error"),
        (Response(b"", 302, {"Location": "http://127.0.0.1:1/"}), CallerRefused, "oracle_error"),
        (Response(b"", 204), CallerRefused, "oracle_error"),
        (Response(b'{"error": "too large"}', 413), RequestRefused, "oracle_error"),
        (Response(b"", 422), RequestRefused, "oracle_error"),
        (Response(b"x" * 100, cut_to=50), Dropped, "dropped"),
        (Response(b"x" * 100, cut_to=0), Dropped, "dropped"),
        (Response(b'{"oracle": "object_count"'), InvalidAnswer, "invalid_answer"),
        (Response(b"x" * 100_000), InvalidAnswer, "invalid_answer"),
    ],
)
async def test_every_failure_has_a_class_and_a_code(
    oracle: OracleServer, client_of: ClientOf, response: Response, error: type[RewardmeshError], code: str
) -> None:
    oracle.answer = always(response)
    with pytest.raises(error) as caught:
        await client_of(oracle, max_reply_bytes=10_000).score(CLAIMS)
    failure = failure_of(caught.value, "a")  # type: ignore[arg-type]
    assert failure.code == code
    assert failure.retryable is caught.value.retryable
    assert "object_count" in failure.detail
    assert "\n" not in failure.detail


async def test_retry_after_is_read(oracle: OracleServer, client_of: ClientOf) -> None:
    oracle.answer = always(Response(b"", 429, {"Retry-After": "7"}))
    with pytest.raises(Overloaded) as caught:
        await client_of(oracle).score(CLAIMS)
    assert caught.value.retry_after_s == 7.0


async def test_what_a_refusal_says_is_kept(oracle: OracleServer, client_of: ClientOf) -> None:
    oracle.answer = always(Response(b'{"error": {"what": "batch\n is too large"}}' + b"x" * 5000, 413))
    with pytest.raises(RequestRefused, match=r"answered 413, .*batch is too large") as caught:
        await client_of(oracle).score(CLAIMS)
    assert len(str(caught.value)) < 1000


async def test_silence_ends_at_the_deadline(oracle: OracleServer, client_of: ClientOf) -> None:
    oracle.answer = lambda _: asyncio.sleep(60, Response())
    began_s = time.monotonic()
    with pytest.raises(OracleTimeout, match=r"no answer within 0.3 s"):
        await client_of(oracle, deadline_s=0.3).score(CLAIMS)
    assert time.monotonic() - began_s < 10


async def test_a_trickle_ends_at_the_deadline_too(client_of: ClientOf) -> None:
    """Every read succeeds in time, and yet the answer never ends."""

    gone = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that leaves before it has asked, or leaves bytes unread, is gone as well.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not writer.is_closing() and not reader.at_eof():
                writer.write(b" ")
                await asyncio.sleep(0.05)
        writer.close()
        gone.set()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
        slow = OracleServer()
        slow.port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimedOut):
            await client_of(slow, deadline_s=2).score(CLAIMS)
        await asyncio.wait_for(gone.wait(), 20)


async def test_nobody_there_is_unreachable(client_of: ClientOf) -> None:
    async with OracleServer() as gone:
        pass
    with pytest.raises(Unreachable) as caught:
        await client_of(gone).score(CLAIMS)
    assert isinstance(caught.value, OracleUnavailable)


async def test_a_url_that_is_none_is_unreachable() -> None:
    endpoint = OracleEndpoint(name="o", url="http://[nonsense", max_batch=1)
    with pytest.raises(Unreachable):
        async with OracleClient(endpoint) as client:
            await client.score(CLAIMS)


async def test_one_nan_fails_one_sample(oracle: OracleServer, client_of: ClientOf) -> None:
    body = json.dumps(
        {
            "oracle": "object_count",
            "version": "1",
            "results": [
                {"kind": "scored", "sample_id": "a", "reward": float("nan")},
                {"kind": "scored", "sample_id": "b", "reward": 0.5},
            ],
        }
    )
    oracle.answer = always(Response(body.encode()))
    first, second = (await client_of(oracle).score(CLAIMS)).results
    assert isinstance(first, ScoreFailure)
    assert first.code == "invalid_answer"
    assert second == Scored(sample_id="b", reward=0.5)


async def test_wrong_ids_are_an_invalid_answer(oracle: OracleServer, client_of: ClientOf) -> None:
    async def answer(call: Call) -> Response:
        return reply(call, results=[{"kind": "scored", "sample_id": "zz", "reward": 0.5}])

    oracle.answer = answer
    with pytest.raises(InvalidAnswer, match="not asked about"):
        await client_of(oracle).score(CLAIMS)


async def test_another_oracle_at_the_url_is_refused(oracle: OracleServer, client_of: ClientOf) -> None:
    client = client_of(oracle)
    oracle.info_response = Response(oracle.info.model_copy(update={"name": "other"}).to_json().encode())
    with pytest.raises(CallerRefused, match="is the oracle 'other'"):
        await client.score(CLAIMS)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"name": NaN}', b"[" * 100_000])
async def test_an_oracle_that_does_not_say_what_it_is(oracle: OracleServer, client_of: ClientOf, body: bytes) -> None:
    oracle.info_response = Response(body)
    with pytest.raises(InvalidAnswer):
        await client_of(oracle).score(CLAIMS)


async def test_a_redeployed_oracle_is_judged_by_its_new_range(oracle: OracleServer, client_of: ClientOf) -> None:
    client = client_of(oracle)
    await client.score(CLAIMS)
    oracle.info = oracle.info.model_copy(update={"version": "2", "reward_max": 10.0})

    async def answer(call: Call) -> Response:
        return reply(call, version="2", results=[{"kind": "scored", "sample_id": "a", "reward": 9.0}])

    oracle.answer = answer
    answer_2 = await client.score(CLAIMS[:1])
    assert (answer_2.version, answer_2.results) == ("2", [Scored(sample_id="a", reward=9.0)])


async def test_an_oracle_that_opens_only_png_gets_png(client_of: ClientOf) -> None:
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    webp = claim_of("a", media_type=WEBP, picture=encode_picture(picture, WEBP))
    broken = claim_of("b", media_type=WEBP, picture=b"no picture")
    async with OracleServer(media_types=(PNG,)) as oracle:
        first, second = (await client_of(oracle).score([webp, broken])).results
    (call,) = oracle.calls
    ((media_type, sent),) = call.pictures.values()
    assert media_type == PNG
    assert np.array_equal(decode_picture(sent, PNG), picture)
    assert isinstance(first, Scored)
    assert isinstance(second, ScoreFailure)
    assert (second.code, second.retryable) == ("invalid_picture", False)


async def test_an_oracle_that_opens_nothing_lossless_is_not_asked(client_of: ClientOf) -> None:
    async with OracleServer(media_types=("image/jpeg",)) as oracle:
        (result,) = (await client_of(oracle).score(CLAIMS[:1])).results
    assert isinstance(result, ScoreFailure)
    assert result.code == "invalid_picture"
    assert oracle.calls == []


async def test_the_smaller_batch_limit_holds(client_of: ClientOf) -> None:
    async with OracleServer(max_batch=3) as oracle:
        client = client_of(oracle)
        assert client.max_batch == 8
        await client.info()
        assert client.max_batch == 3


async def test_an_address_that_is_not_allowed_is_a_terminal_failure(oracle: OracleServer, client_of: ClientOf) -> None:
    with pytest.raises(CallerRefused) as caught:
        await client_of(oracle, policy=OutgoingPolicy()).score(CLAIMS)
    failure = failure_of(caught.value, "a")
    assert (failure.code, failure.retryable) == ("oracle_error", False)
    assert "127.0.0.1" in failure.detail
    assert "REWARDMESH_ALLOWED_NETWORKS" in failure.detail
    assert oracle.calls == []


async def test_the_secret_is_sent_and_nothing_repeats_it(
    oracle: OracleServer, client_of: ClientOf, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "s3cret-of-the-oracle"
    caplog.set_level("DEBUG")
    client = client_of(oracle, secret=secret)
    await client.score(CLAIMS)
    assert oracle.calls[0].headers["authorization"] == f"Bearer {secret}"
    oracle.answer = always(Response(b"x" * 495 + f" your token {secret} is wrong; {secret}".encode(), 401))
    with pytest.raises(CallerRefused) as refused:
        await client.score(CLAIMS)
    results = [{"kind": "failed", "sample_id": "a", "code": "oracle_error", "detail": secret, "retryable": False}]

    async def answer(call: Call) -> Response:
        return reply(call, results=results)

    oracle.answer = answer
    failed = (await client.score(CLAIMS)).results
    out = capsys.readouterr()
    for text in (str(refused.value), repr(refused.value), repr(client), repr(client._http), repr(failed), caplog.text):
        assert "s3cret" not in text
    assert "s3cret" not in out.out + out.err


@pytest.mark.parametrize("secret", ["", "short", "two words of it", "line\nbreak-in-it", "schlüssel-schlüssel"])
async def test_a_secret_that_no_header_carries_is_refused_and_not_repeated(
    oracle: OracleServer, client_of: ClientOf, secret: str
) -> None:
    with pytest.raises(CallerRefused, match="no bearer token") as caught:
        await client_of(oracle, secret=secret).score(CLAIMS)
    assert not secret or secret not in str(caught.value)
    assert oracle.calls == []


async def test_a_url_with_a_password_is_refused_and_the_password_not_repeated() -> None:
    endpoint = OracleEndpoint(name="o", url="http://me:hunter2@127.0.0.1/path?key=hunter2", max_batch=1)
    async with OracleClient(endpoint, policy=LOOPBACK) as client:
        with pytest.raises(CallerRefused) as caught:
            await client.score(CLAIMS[:1])
    assert "hunter2" not in repr(caught.value)


async def test_a_compressed_answer_is_invalid_and_a_compressed_refusal_is_still_one(
    oracle: OracleServer, client_of: ClientOf
) -> None:
    client = client_of(oracle)
    oracle.answer = always(Response(gzip.compress(b"{}" * 1000), headers={"Content-Encoding": "gzip"}))
    with pytest.raises(InvalidAnswer, match="compressed"):
        await client.score(CLAIMS)
    oracle.answer = always(Response(gzip.compress(b"{}"), 503, {"Content-Encoding": "gzip"}))
    with pytest.raises(Overloaded, match="compressed"):
        await client.score(CLAIMS)


async def test_more_samples_than_it_takes_are_refused_before_they_are_sent(client_of: ClientOf) -> None:
    async with OracleServer(max_batch=1) as oracle:
        with pytest.raises(RequestRefused, match="it takes 1"):
            await client_of(oracle).score(CLAIMS)
        assert oracle.calls == []
