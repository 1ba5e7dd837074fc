"""Pictures sent to the gateway: their trace goes on from the sender's, to the recorded outcome."""

from __future__ import annotations

from typing import Any

from rewardmesh.wire.tracing import flush
from tests.unit.services.gateway.conftest import Front, png
from tests.unit.services.gateway.test_end_to_end import submission, wait
from tests.unit.trainer.test_traces import Collector, collector, said

__all__ = ["collector"]  # a fixture

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_submission_s_trace_goes_on_from_the_sender_s_to_the_outcome(
    front: Front, blue: str, worker: Any, collector: Collector
) -> None:
    async with front.client("admin", "score") as client:
        assert (await client.post("/v1/oracles", json={"url": blue})).status_code == 201
        for headers in ({"traceparent": SENDER}, {}):
            sent = await client.post("/v1/groups", json=submission(png(), png(9)), headers=headers)
            await wait(client, sent.json()["group_id"])
    worker.stop()
    flush()
    followed, begun = collector.named("enqueue", run_id="gateway.vision")
    assert (followed.trace_id.hex(), followed.parent_span_id.hex()) == tuple(SENDER.split("-")[1:3])
    assert begun.parent_span_id == b""
    assert (said(followed)["samples"], said(followed)["oracles"], said(followed)["accepted"]) == (2, 1, 1)
    for enqueued in (followed, begun):
        of_trace = [one for one in collector.spans if one.trace_id == enqueued.trace_id]
        claims = [one for one in of_trace if one.name == "claim"]
        assert [one.parent_span_id for one in claims] == [enqueued.span_id] * 2
        settled = [one.parent_span_id for one in of_trace if one.name == "settle"]
        assert sorted(settled) == sorted(one.span_id for one in claims)
