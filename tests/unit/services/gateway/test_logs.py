"""What the gateway and a worker log while oracles fail, on real parts: lines that parse, with ids, and no secret."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rewardmesh.kit.app import build_app
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.telemetry import configure_logging
from tests.oracle_server import Call, OracleServer, Response
from tests.unit.services.gateway.conftest import Blue, Front, png, serving
from tests.unit.services.gateway.test_end_to_end import submission, wait

SECRETS = {"blue": "the-secret-of-blue", "object_count": "the-secret-of-count"}


@pytest.fixture
async def oracles() -> AsyncIterator[dict[str, str]]:
    """One that asks for its token, and one that repeats what it was sent."""

    async def indiscreet(call: Call) -> Response:
        return Response(f"you sent {call.headers['authorization']}".encode(), 403)

    async with (
        serving(build_app(Blue(), token=SECRETS["blue"])) as blue,
        OracleServer(answer=indiscreet) as object_count,
    ):
        yield {"blue": blue, "object_count": object_count.url}


async def test_every_line_is_json_with_its_ids_and_without_secrets(
    front: Front, oracles: dict[str, str], worker: object, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    sent, key = await use_both(front, oracles)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all({"event", "level", "timestamp", "part"} <= set(line) for line in lines)
    failed = [line for line in lines if line["event"] == "sample.failed"]
    assert {line["oracle"] for line in failed} == set(SECRETS)
    ids = {"run_id": "gateway.vision", "group_id": sent["group_id"], "sample_id": sent["sample_ids"][0]}
    assert all(ids.items() <= line.items() for line in failed)
    audit = [line for line in lines if line["part"] == "gateway.audit"]
    assert [line["action"] for line in audit] == ["token.create", "oracle.register"]
    said = json.dumps(lines)
    assert "you sent" in said
    for secret in (*SECRETS.values(), key.split("_", 2)[2]):
        assert secret not in said


async def use_both(front: Front, oracles: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Sends a picture that fails with both, whose secrets are registered. Gives what was sent, and the token used."""
    async with front.client("admin", "score") as client:
        answer = await client.post("/v1/oracles", json={"url": oracles["blue"], "secret": SECRETS["blue"]})
        assert answer.status_code == 201, answer.text
        endpoint = OracleEndpoint(name="object_count", url=oracles["object_count"], max_batch=4)
        await front.gateway.registry.put_oracle(endpoint, secret=SECRETS["object_count"])
        sent = (await client.post("/v1/groups", json=submission(png(red=True), oracles=tuple(SECRETS)))).json()
        answers = await wait(client, sent["group_id"])
        assert all(result["kind"] == "failed" for one in answers.values() for result in one["results"].values())
        return sent, client.headers["Authorization"]
