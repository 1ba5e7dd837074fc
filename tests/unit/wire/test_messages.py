"""Messages: strict JSON, frozen, nothing unknown; GenEval's own metadata go through unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rewardmesh.wire.messages import (
    Checks,
    Clause,
    Deferred,
    OracleEndpoint,
    OracleInfo,
    Sample,
    ScoreBatch,
    ScoreBatchReply,
    Scored,
    ScoreFailure,
    ScoreItem,
    ScoreRequest,
    parse_result,
)

GENEVAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "geneval" / "evaluation_metadata.jsonl"

METADATA: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}]},
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}]},
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "pink"}]},
    {
        "tag": "position",
        "include": [{"class": "bus", "count": 1}, {"class": "cow", "count": 1, "position": ["left of", 0]}],
    },
    {"tag": "spelling", "text": "CAT"},
]


def sample(**changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "group_id": "g:1/2",
        "sample_id": "g:1/2#3",
        "policy_version": 3,
        "boundary_index": 4,
        "prompt": "a “red” circle\n",
        "checks": Checks(tag="single_object", include=(Clause(cls="circle"),)),
    }
    return Sample(**(fields | changes))


MESSAGES = [
    sample(),
    ScoreRequest(sample=sample(), oracle="count", media_type="image/png", hint=0.5),
    Scored(sample_id="s", reward=-1.5, detail={"boxes": [[1, 2.5]], "read": None, "ok": True}),
    ScoreFailure(sample_id="s", code="timeout", detail="30 s", retryable=True),
    Deferred(sample_id="s", until=1e9),
    OracleInfo(name="count", version="1", reward_min=0, reward_max=1, media_types=("image/png",), max_batch=8),
    ScoreBatch(oracle="count", items=[ScoreItem(sample=sample(), media_type="image/png", picture="p0")], deadline_s=3),
    ScoreBatchReply(oracle="count", version="1", results=[Scored(sample_id="s", reward=1)]),
    OracleEndpoint(name="count", url="http://127.0.0.1:8000/count", max_batch=8),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_json_there_and_back(message: Any) -> None:
    assert type(message).model_validate_json(message.to_json()) == message
    assert type(message).model_validate_json(message.model_dump_json()) == message
    json.loads(message.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_unknown_keys_are_refused_and_fields_are_frozen(message: Any) -> None:
    with pytest.raises(ValidationError, match="Extra"):
        type(message).model_validate_json(json.dumps(json.loads(message.to_json()) | {"unknown": 1}))
    field = next(iter(type(message).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(message, field, getattr(message, field))


@pytest.mark.parametrize("metadata", METADATA, ids=lambda metadata: metadata["tag"])
def test_metadata_in_genevals_shape(metadata: dict[str, Any]) -> None:
    checks = Checks.from_metadata(metadata | {"prompt": "a photo of it"})
    assert checks.to_metadata() == metadata
    assert Checks.model_validate_json(checks.to_json()) == checks


@pytest.mark.skipif(not GENEVAL.exists(), reason="GenEval's metadata are not on this machine")
def test_all_of_genevals_metadata() -> None:
    lines = [json.loads(line) for line in GENEVAL.read_text().splitlines()]
    assert len(lines) == 553
    for line in lines:
        assert Checks.from_metadata(line).to_metadata() == {k: v for k, v in line.items() if k != "prompt"}


@pytest.mark.parametrize("reward", ["NaN", "Infinity", "-Infinity", "1e999", '"0.5"', "true", "null", "[1]"])
def test_a_reward_is_a_finite_number(reward: str) -> None:
    with pytest.raises(ValueError, match="reward"):
        parse_result(f'{{"kind": "scored", "sample_id": "s", "reward": {reward}}}')


def test_an_explanation_is_strict_json_too() -> None:
    with pytest.raises(ValueError, match="detail"):
        Scored(sample_id="s", reward=0, detail={"confidence": math.nan})
    with pytest.raises(ValueError, match="detail"):
        Scored(sample_id="s", reward=0, detail={"boxes": object()})
    with pytest.raises(ValueError, match="detail"):
        parse_result('{"kind": "scored", "sample_id": "s", "reward": 1, "detail": {"x": NaN}}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"kind": "guessed", "sample_id": "s"}',
        '{"sample_id": "s", "reward": 1}',
        '{"kind": "failed", "sample_id": "s", "code": "bad luck", "detail": "", "retryable": false}',
        '{"kind": "failed", "sample_id": "s", "code": "timeout", "detail": ""}',
        '{"kind": "deferred", "sample_id": "s", "until": -1}',
    ],
)
def test_results_that_are_none(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_result(text)


@pytest.mark.parametrize("changes", [{"run_id": "a b"}, {"run_id": "a:b"}, {"group_id": ""}, {"group_id": "a b"},
    {"sample_id": "{x}"}, {"sample_id": "x" * 201}, {"policy_version": -1}, {"policy_version": True},
    {"boundary_index": -1}, {"boundary_index": 1.5}])  # fmt: skip
def test_ids_and_counts_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sample(**changes)


def test_an_oracle_of_whole_groups_takes_two_samples_at_least() -> None:
    said = {"name": "x", "version": "1", "reward_min": 0, "reward_max": 1, "media_types": ("image/png",)}
    with pytest.raises(ValidationError, match="a group has two samples or more"):
        OracleInfo.model_validate({**said, "granularity": "group", "max_batch": 1})
    assert OracleInfo.model_validate({**said, "granularity": "group", "max_batch": 2}).max_batch == 2
    assert OracleInfo.model_validate({**said, "granularity": "sample", "max_batch": 1}).max_batch == 1


def test_impossible_messages() -> None:
    with pytest.raises(ValidationError, match="reward_min"):
        OracleInfo(name="x", version="1", reward_min=1, reward_max=1, media_types=("image/png",), max_batch=1)
    with pytest.raises(ValidationError, match="exactly one"):
        ScoreItem(sample=sample(), media_type="image/png")
    with pytest.raises(ValidationError, match="exactly one"):
        ScoreItem(sample=sample(), media_type="image/png", picture="p", picture_base64="cA==")
    with pytest.raises(ValidationError, match="url"):
        OracleEndpoint(name="x", url="localhost:80", max_batch=1)
    with pytest.raises(ValidationError, match="protocol"):
        ScoreBatch.model_validate(json.loads(MESSAGES[6].to_json()) | {"protocol": 2})
    with pytest.raises(ValidationError, match="count"):
        Clause(cls="circle", count=0)


def test_options_of_a_dialect_are_strict_json() -> None:
    with pytest.raises(ValidationError, match="options"):
        OracleEndpoint(name="o", url="http://o", max_batch=1, options={"reward_min": float("nan")})
