from __future__ import annotations

import json
from typing import Any

import pytest

from reward_workers.validate import MAX_DETAIL_BYTES, check_results
from rewardmesh.dialects.failures import InvalidAnswer
from rewardmesh.dialects.reply import parse_reply
from rewardmesh.wire.messages import Deferred, OracleInfo, Scored, ScoreFailure
from rewardmesh.wire.stream import Result

INFO = OracleInfo(
    name="object_count", version="1", reward_min=-1.0, reward_max=1.0, media_types=("image/png",), max_batch=4
)


def scored(sample_id: str, reward: Any = 0.5, **more: Any) -> dict[str, Any]:
    return {"kind": "scored", "sample_id": sample_id, "reward": reward, **more}


def check(results: list[Any], ids: tuple[str, ...] = ("a", "b"), info: OracleInfo = INFO) -> list[Result]:
    body = json.dumps({"oracle": "object_count", "version": "1", "results": results}).encode()
    return check_results(parse_reply(body, oracle="object_count"), sample_ids=ids, info=info)


def check_text(result: str) -> Result:
    body = f'{{"oracle": "object_count", "version": "1", "results": [{result}, {json.dumps(scored("b"))}]}}'
    first, second = check_results(parse_reply(body.encode(), oracle="object_count"), sample_ids=("a", "b"), info=INFO)
    assert second == Scored(sample_id="b", reward=0.5)  # the neighbour is never harmed
    return first


def test_results_are_matched_by_id_whatever_their_order() -> None:
    assert check([scored("b", 1), scored("a", -1.0, detail={"boxes": [1]})]) == [
        Scored(sample_id="a", reward=-1.0, detail={"boxes": [1]}),
        Scored(sample_id="b", reward=1.0),
    ]


@pytest.mark.parametrize(
    "result",
    [
        '{"kind": "scored", "sample_id": "a", "reward": NaN}',
        '{"kind": "scored", "sample_id": "a", "reward": Infinity}',
        '{"kind": "scored", "sample_id": "a", "reward": 1e999}',
        '{"kind": "scored", "sample_id": "a", "reward": 1%s}' % ("0" * 400),
        '{"kind": "scored", "sample_id": "a", "reward": "0.5"}',
        '{"kind": "scored", "sample_id": "a", "reward": null}',
        '{"kind": "scored", "sample_id": "a", "reward": true}',
        '{"kind": "scored", "sample_id": "a", "reward": 1.001}',
        '{"kind": "scored", "sample_id": "a", "reward": -2}',
        '{"kind": "scored", "sample_id": "a"}',
        '{"kind": "scored", "sample_id": "a", "reward": 0.1, "extra": 1}',
        '{"kind": "scored", "sample_id": "a", "reward": 0.1, "detail": {"x": NaN}}',
        '{"kind": "scored", "sample_id": "a", "reward": 0.1, "detail": {"x": 1e999}}',
        '{"kind": "guessed", "sample_id": "a", "reward": 0.1}',
        '{"kind": "deferred", "sample_id": "a", "until": 99}',
        '{"kind": "failed", "sample_id": "a", "code": "no_such_code", "detail": "", "retryable": false}',
        '{"kind": "failed", "sample_id": "a", "code": "poison", "detail": "", "retryable": false}',
    ],
)
def test_what_is_wrong_with_one_result_fails_that_sample(result: str) -> None:
    failure = check_text(result)
    assert isinstance(failure, ScoreFailure)
    assert (failure.code, failure.retryable, failure.sample_id) == ("invalid_answer", False, "a")
    assert failure.detail


def test_the_ends_of_the_declared_range_belong_to_it() -> None:
    assert all(isinstance(result, Scored) for result in check([scored("a", -1), scored("b", 1)]))


def test_a_repeated_sample_fails_alone() -> None:
    first, second, third = check([scored("a", 0.1), scored("a", 0.2), scored("b")], ids=("a", "b", "c"))
    assert isinstance(first, ScoreFailure)
    assert isinstance(second, Scored)
    assert isinstance(third, ScoreFailure)


def test_a_partial_answer_leaves_the_rest_to_another_attempt() -> None:
    first, second = check([scored("b")])
    assert isinstance(first, ScoreFailure)
    assert (first.code, first.retryable) == ("invalid_answer", True)
    assert isinstance(second, Scored)


def test_an_oracles_own_failure_is_kept_as_it_is() -> None:
    said = {"kind": "failed", "sample_id": "a", "code": "invalid_picture", "detail": "no picture", "retryable": False}
    assert check([said, scored("b")])[0] == ScoreFailure.model_validate(said)


def test_a_declared_deferral_is_kept() -> None:
    info = INFO.model_copy(update={"deferred": True})
    first, _ = check([{"kind": "deferred", "sample_id": "a", "until": 2e9}, scored("b")], info=info)
    assert first == Deferred(sample_id="a", until=2e9)


def test_an_oversized_detail_is_left_out_and_the_reward_kept() -> None:
    first, _ = check([scored("a", detail={"text": "x" * MAX_DETAIL_BYTES}), scored("b")])
    assert isinstance(first, Scored)
    assert set(first.detail) == {"left_out_bytes"}


@pytest.mark.parametrize("results", [[scored("z")], [scored("a"), scored("b"), scored("c")], ["a"], [{}], [None]])
def test_an_answer_for_other_samples_is_refused_as_a_whole(results: list[Any]) -> None:
    with pytest.raises(InvalidAnswer):
        check(results)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"oracle": "object_count", "version": "1", "results": [',
        b'{"oracle": "other", "version": "1", "results": []}',
        b'{"oracle": "object_count", "version": "", "results": []}',
        b'{"oracle": "object_count", "version": "1", "results": {}}',
        b'{"oracle": "object_count", "version": "1", "results": [], "more": 1}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_an_envelope_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        parse_reply(body, oracle="object_count")
