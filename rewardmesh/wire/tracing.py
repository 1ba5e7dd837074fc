"""Spans of OpenTelemetry: where a sample's time went, from its rollout to its recorded outcome. One trace a group:

    rollout ─┬─ enqueue ─── claim ─┬─ ask ─── what the oracle adds
             │   (trainer)         └─ settle, or retry: a span a sample each (worker)
             └─ collect, one an oracle (trainer)

The gateway has no rollout: its `enqueue` goes on from the sender's span, or begins the trace.

Off unless an exporter is set by the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_EXPORTER` and their
like) and the process said `configure_tracing`: nothing of OpenTelemetry is imported then, and a span passes its parent
on. What crosses a process boundary is W3C's `traceparent`: in the trajectory store, beside the sample in the stream, in
the header of the call. Spans name ids, never prompts, pictures or secrets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.names import SPANS

__all__ = ["Span", "configure_tracing", "flush", "is_on", "span"]

FLUSH_MS: Final = 5000
_PREFIX: Final = "rewardmesh."
_tracers: list[Any] = []  # the one of this process, once it was configured and an exporter is set


def configure_tracing(part: str) -> None:
    """Sets up the spans of this process, if its environment asks for them; a provider that is there already is used.

    Raises: RewardmeshError for an exporter that is not installed.
    """
    exporters = _exporters()
    if not exporters or _tracers:
        return
    from opentelemetry import trace  # noqa: PLC0415 - not imported where no exporter is set

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(_provider(exporters))
    _tracers.append(trace.get_tracer(f"rewardmesh.{part}"))


def is_on() -> bool:
    """Whether spans of this process are recorded."""
    return bool(_tracers)


def flush() -> None:
    """Sends what has ended, for some seconds at most: for the end of a process that may be killed at once."""
    if _tracers:
        from opentelemetry import trace  # noqa: PLC0415 - as above

        send = getattr(trace.get_tracer_provider(), "force_flush", None)
        if send is not None:
            send(FLUSH_MS)


@dataclass(frozen=True)
class Span:
    """A span that is open. `traceparent` is what its children are told; the parent's where spans are off."""

    traceparent: str | None
    recorded: Any = None

    def set(self, **attributes: str | float) -> None:
        """Says more about it."""
        if self.recorded is not None:
            self.recorded.set_attributes(_named(attributes))


@contextmanager
def span(
    name: str, *, parent: str | None = None, links: Sequence[str] = (), **attributes: str | float | None
) -> Iterator[Span]:
    """A span of `names.SPANS` around what is done inside; an exception ends it as failed, by the name of its class.

    `parent` and `links` are traceparents of other spans; without a parent it begins a trace. Attributes that are None
    are left out.
    """
    if not _tracers:
        yield Span(parent)
        return
    from opentelemetry import trace  # noqa: PLC0415 - as above

    opened = _tracers[0].start_span(
        name,
        context=_context(parent),
        kind=trace.SpanKind[SPANS[name]],
        attributes=_named(attributes),
        links=[trace.Link(trace.get_current_span(_context(link)).get_span_context()) for link in links],
    )
    try:
        yield Span(_traceparent(opened), opened)
    except BaseException as error:
        opened.set_attribute("error.type", type(error).__name__)
        opened.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        opened.end()


def _exporters() -> list[str]:
    """Exporters that the environment asks for, by the names of their entry points."""
    said = os.environ.get
    if (said("OTEL_SDK_DISABLED") or "").strip().lower() == "true":
        return []
    endpoint = said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or said("OTEL_EXPORTER_OTLP_ENDPOINT")
    wanted = said("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    protocol = said("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or said("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    names = [name.strip() for name in wanted.split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in {"", "none"}]


def _provider(exporters: Sequence[str]) -> Any:
    """Resource, sampler, limits and batches are as the standard variables say."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "rewardmesh"}))
    provider = TracerProvider(resource=resource)
    for name in exporters:
        found = entry_points(group="opentelemetry_traces_exporter", name=name)
        if not found:
            what_to_do = "install it, or set OTEL_TRACES_EXPORTER to otlp, console or none"
            raise RewardmeshError("an exporter of traces is not installed", name, what_to_do)
        exporter: Any = next(iter(found)).load()
        provider.add_span_processor(BatchSpanProcessor(exporter()))
    return provider


def _context(traceparent: str | None) -> Any:
    """The context that a traceparent names; one in which a span begins a trace, for one that cannot be read."""
    from opentelemetry.context import Context  # noqa: PLC0415 - as above
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}, Context())


def _traceparent(opened: Any) -> str:
    said = opened.get_span_context()
    return f"00-{said.trace_id:032x}-{said.span_id:016x}-{said.trace_flags:02x}"


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {_PREFIX + name: value for name, value in attributes.items() if value is not None}
