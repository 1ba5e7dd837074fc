"""What crosses a process boundary. Import the modules by name; this file imports none of them.

errors          the one error tree
messages        samples, requests, results: strict, frozen, JSON
codec           pictures to bytes and back, bombs refused
names           every key of the server, every metric, span and log field
stream          the protocol of the stream and its life cycle
redis_stream    the stream on Redis 6.2+ or Valkey (Lua scripts in lua/)
memory_stream   the same stream in one process, without a server
registry        where an oracle is and what it bears; which runs are alive
buffer          connects to a server and checks that it may be trusted
networks        which addresses may be called
outgoing        the one HTTP client for URLs that people register
telemetry       structured logs
tracing         spans from rollout to outcome, where an exporter is set
"""

from __future__ import annotations

__all__ = [
    "buffer",
    "codec",
    "errors",
    "memory_stream",
    "messages",
    "names",
    "networks",
    "outgoing",
    "redis_stream",
    "registry",
    "stream",
    "telemetry",
    "tracing",
]
