"""docs/protocol.md says what the code does: every field, every failure code, and examples that run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fastapi.testclient import TestClient

from rewardmesh.kit.app import build_app
from rewardmesh.wire.codec import PNG, encode_picture
from rewardmesh.wire.messages import (
    Checks,
    Clause,
    Deferred,
    FailureCode,
    Message,
    OracleInfo,
    Sample,
    ScoreBatch,
    ScoreBatchReply,
    Scored,
    ScoreFailure,
    ScoreItem,
)
from tests.architecture.repository import read

DOCUMENT = read(Path("docs/protocol.md"))
MODELS = (
    OracleInfo, ScoreBatch, ScoreItem, Sample, Checks, Clause, ScoreBatchReply, Scored, ScoreFailure, Deferred,
)  # fmt: skip


def example(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return code


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[Message]) -> None:
    names = [field.alias or name for name, field in model.model_fields.items()]
    assert names
    assert [name for name in names if f"`{name}`" not in DOCUMENT] == []


def test_every_failure_code_is_described() -> None:
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", DOCUMENT.partition("### Failure codes")[2], re.MULTILINE))
    assert rows == set(get_args(FailureCode))


def test_the_request_in_it_is_one() -> None:
    batch = ScoreBatch.model_validate_json(example("json"))
    assert batch.items[0].sample.checks.include[0].cls == "circle"


def test_the_oracle_in_it_answers() -> None:
    """The class as printed, behind our app, asked with the request as printed."""
    namespace: dict[str, Any] = {}
    exec(compile(example("python"), "docs/protocol.md", "exec"), namespace)
    request = json.loads(example("json")) | {"oracle": "blue"}
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, :4, 2] = 255
    files = {
        "request": (None, json.dumps(request), "application/json"),
        "p3": ("p3", encode_picture(picture, PNG), PNG),
    }
    with TestClient(build_app(namespace["Blue"]())) as client:
        assert client.get("/v1/oracle").json()["name"] == "blue"
        assert client.get("/v1/health").json() == {"status": "ok"}
        reply = ScoreBatchReply.model_validate_json(client.post("/v1/score", files=files).content)
    assert [(result.sample_id, result.reward) for result in reply.results] == [("g17.3", 0.5)]
