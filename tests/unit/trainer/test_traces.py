"""One sample's spans, from its rollout to its settled reward, as a collector on loopback gets them over OTLP/HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.util._once import Once

from reward_workers.process import worker_on_server
from reward_workers.settings import WorkerSettings
from rewardmesh.kit.app import build_app
from rewardmesh.wire import tracing
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.tracing import configure_tracing, flush
from tests.contract.conftest import Server, binary_of
from tests.oracle_server import OracleServer, Response, reply
from tests.unit.services.gateway.conftest import Blue
from trainer.loop import Loop
from trainer.recipe import Recipe
from trainer.training_process import open_buffer_feedback

SMALL = (
    "prompts.groups_per_iteration=2",
    "prompts.group_size=2",
    "feedback.max_inflight=1",
    "feedback.oracles=[{name: brightness}]",
    "run.iterations=1",
)


class Collector:
    """Takes what an exporter posts to `/v1/traces`."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {one.key: one.value.string_value for one in resource.resource.attributes}
                    collector.services.add(names["service.name"])
                    collector.spans += [one for scope in resource.scope_spans for one in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def named(self, name: str, **attributes: str) -> list[Any]:
        return [one for one in self.spans if one.name == name and attributes.items() <= said(one).items()]


def said(span: Any) -> dict[str, Any]:
    values = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
    return {name.removeprefix("rewardmesh."): value for name, value in values.items()}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """This process exports to it; afterwards it exports nothing again."""
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(tracing, "_tracers", [])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    configure_tracing("test")
    yield collector
    trace.get_tracer_provider().shutdown()  # type: ignore[attr-defined]
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


@contextmanager
def working(url: str, oracle: OracleServer) -> Iterator[None]:
    """A real worker and the oracle that it asks, in a thread with an event loop of its own."""
    ready, ended = threading.Event(), threading.Event()

    async def work() -> None:
        client = await connect(url)
        settings = WorkerSettings(redis_url=url, discover_every_s=0.1, claim_wait_s=0.1, max_backoff_s=0.1)
        async with oracle, worker_on_server(settings) as worker:
            endpoint = OracleEndpoint(name="brightness", url=oracle.url, max_batch=4, retry_base_s=0.01)
            await Registry(client).put_oracle(endpoint)
            task = asyncio.create_task(worker.run())
            ready.set()
            await asyncio.to_thread(ended.wait)
            worker.stop()
            await task
        await client.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert ready.wait(30)
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def test_a_sample_s_spans_are_one_trace_from_rollout_to_outcome(
    collector: Collector, tmp_path: Path, make_loop: Callable[..., Loop], make_recipe: Callable[..., Recipe]
) -> None:
    oracle, calls = OracleServer("brightness"), 0

    async def fail_once(call: Any) -> Response:
        nonlocal calls
        calls += 1
        return Response(b"", 500) if calls == 1 else reply(call)

    oracle.answer = fail_once
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    try:
        with working(server.url, oracle):
            feedback = open_buffer_feedback(
                make_recipe(*SMALL).feedback, run_id="run", url=server.url, group_pictures=4
            )
            try:
                assert make_loop(*SMALL, feedback=feedback).run().reason == "finished"
            finally:
                feedback.close()
    finally:
        server.kill()
    flush()

    assert collector.services == {"rewardmesh"}
    rollouts, settled = collector.named("rollout"), collector.named("settle")
    assert (len(rollouts), len(settled)) == (2, 4)  # a trace a group; an outcome a sample
    assert len({one.trace_id for one in rollouts}) == 2
    by_id = {one.span_id: one for one in collector.spans}
    for one in settled:
        road = [one]
        while road[-1].parent_span_id:
            road.append(by_id[road[-1].parent_span_id])
        assert [span.name for span in road] == ["settle", "claim", "enqueue", "rollout"]
        assert {span.trace_id for span in road} == {one.trace_id}
        assert len({said(span)["group_id"] for span in road}) == 1
        began = [span.start_time_unix_nano for span in reversed(road)]
        assert began == sorted(began)
        about = said(one)
        assert about["outcome"] == "scored"
        assert about["sample_id"].startswith(about["group_id"])
        assert about["run_id"] == "run"
        (asked,) = [ask for ask in collector.named("ask") if ask.parent_span_id == road[1].span_id]
        assert asked.trace_id == one.trace_id
        (collected,) = collector.named("collect", group_id=about["group_id"], oracle="brightness")
        assert (collected.trace_id, collected.parent_span_id) == (one.trace_id, road[-1].span_id)

    # The attempt that failed is in the same trace; each call carried the context of its first sample's span.
    failed = [one for one in collector.named("ask") if said(one).get("error.type") == "ServerError"]
    retried = collector.named("retry", code="server_error")
    assert len(failed) == len(retried) == len(oracle.calls[0].sample_ids)
    assert {one.parent_span_id for one in failed} == {one.parent_span_id for one in retried}
    for call in oracle.calls:
        _, trace_id, span_id, _ = call.headers["traceparent"].split("-")
        span = by_id[bytes.fromhex(span_id)]
        assert (span.name, span.trace_id.hex(), said(span)["sample_id"]) == ("ask", trace_id, call.sample_ids[0])
        others = [one for one in collector.named("ask") if span.span_id in {link.span_id for link in one.links}]
        assert sorted(said(one)["sample_id"] for one in others) == sorted(call.sample_ids[1:])


def test_an_oracle_adds_its_own_span_below_the_call_s(collector: Collector) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with TestClient(build_app(Blue())) as client:
        assert client.get("/v1/oracle", headers={"Traceparent": parent}).status_code == 200
    flush()
    (served,) = [one for one in collector.spans if one.kind == one.SPAN_KIND_SERVER]
    assert (served.trace_id.hex(), served.parent_span_id.hex()) == tuple(parent.split("-")[1:3])


def test_without_an_exporter_nothing_is_imported_and_a_parent_is_passed_on() -> None:
    code = """
import json, sys
from reward_workers.spans import sample_spans
from rewardmesh.wire import tracing
tracing.configure_tracing("worker")
claims = ["whatever they are"]
with sample_spans("claim", claims, oracle="count") as traced:
    assert traced is claims
with tracing.span("ask", parent="00-1-2-01") as one:
    one.set(more=1)
    passed = one.traceparent
print(json.dumps([passed, tracing.is_on(), [name for name in sys.modules if name.startswith("opentelemetry")]]))
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    for unset in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}):
        ended = subprocess.run(
            [sys.executable, "-c", code], env=kept | unset, capture_output=True, text=True, check=True
        )
        assert json.loads(ended.stdout) == ["00-1-2-01", False, []]


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, ["otlp_proto_http"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp_proto_grpc"]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp_proto_http", "console"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, []),
    ],
)
def test_the_standard_variables_decide(
    environment: dict[str, str], exporters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing._exporters() == exporters


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with pytest.raises(Exception, match=r"exporter of traces is not installed \(pigeon\)"):
        configure_tracing("test")
    assert not tracing.is_on()
