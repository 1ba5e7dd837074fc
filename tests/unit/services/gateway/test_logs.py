"""What the gateway and a worker log while oracles fail, on real parts: lines that parse, with ids, and no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from rewardmesh.kit.app import build_app
from rewardmesh.wire.telemetry import configure_logging
from tests.oracle_server import Call, OracleServer, Response
from tests.unit.services.gateway.conftest import Blue, Front, png, serving
from tests.unit.services.gateway.test_end_to_end import submission, wait

SECRETS = {"blue": "the-secret-of-blue", "object_count": "the-secret-of-count"}


@pytest.fixture(autouse=True)
def _logs(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Before the parts that log; given back afterwards, because they go where this test captures them."""
    configure_logging()
    yield
    structlog.reset_defaults()


async def test_every_line_is_json_with_its_ids_and_without_secrets(
    front: Front, worker: object, capsys: pytest.CaptureFixture[str]
) -> None:
    async def indiscreet(call: Call) -> Response:
        return Response(f"you sent {call.headers['authorization']}".encode(), 403)

    token = await front.token("admin", "score", requests_per_s=9)
    async with (
        front.client("admin", "score") as client,
        serving(build_app(Blue(), token=SECRETS["blue"])) as blue,
        OracleServer(answer=indiscreet) as count,
    ):
        for url in (blue, count.url):
            name = "blue" if url == blue else "object_count"
            wanted = {"url": url, "secret": SECRETS[name]}
            if name == "object_count":  # it keeps to no protocol, so it is not probed
                options = {"version": "1", "reward_min": 0, "reward_max": 1}
                wanted |= {"name": name, "dialect": "flow_factory", "max_batch": 4, "options": options}
            assert (await client.post("/v1/oracles", json=wanted)).status_code == 201
        sent = (await client.post("/v1/groups", json=submission(png(red=True), oracles=tuple(SECRETS)))).json()
        answers = await wait(client, sent["group_id"])
        assert all(result["kind"] == "failed" for one in answers.values() for result in one["results"].values())
        key = client.headers["Authorization"].removeprefix("Bearer ")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all({"event", "level", "timestamp", "part"} <= set(line) for line in lines)
    failed = [line for line in lines if line["event"] == "sample.failed"]
    assert {line["oracle"] for line in failed} == set(SECRETS)
    ids = {"run_id": "gateway.vision", "group_id": sent["group_id"], "sample_id": sent["sample_ids"][0]}
    assert all(ids.items() <= line.items() for line in failed)
    audit = [line for line in lines if line["part"] == "gateway.audit"]
    assert [line["action"] for line in audit] == ["token.create", "token.create", "oracle.register", "oracle.register"]
    said = json.dumps(lines)
    for secret in (*SECRETS.values(), token.split("_", 2)[2], key.split("_", 2)[2]):
        assert secret not in said
