"""Every name that more than one process must agree on: keys of the server, metrics, spans, log fields.

All keys of a run begin with `rm:{run_id}:`; the braces are a hash tag, so that one Lua call may touch them all, also
on a cluster. What follows is one of `RUN_KEYS`, or one of `KEY_KINDS` with a group id, an oracle or a random token.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "GATEWAY_AUDIT",
    "GATEWAY_GROUP",
    "GATEWAY_INFOS",
    "GATEWAY_RATE",
    "GATEWAY_TOKENS",
    "KEY_KINDS",
    "LOG_FIELDS",
    "METRICS",
    "PREFERENCE_AUDIT",
    "PREFERENCE_INVITED",
    "PREFERENCE_INVITES",
    "REGISTRY_ORACLES",
    "REGISTRY_RUNS",
    "REGISTRY_SECRETS",
    "RUN_KEYS",
    "SPANS",
    "WORKERS",
    "answer_keys",
    "breaker_key",
    "labels_of",
    "prefix",
    "run_key",
    "text",
]

REGISTRY_ORACLES: Final = "rm:registry:oracles"  # hash: name -> OracleEndpoint as JSON
REGISTRY_RUNS: Final = "rm:registry:runs"  # set of run ids
GATEWAY_TOKENS: Final = "rm:gateway:tokens"  # hash: token id -> what it may, and the digest of its secret, as JSON
GATEWAY_AUDIT: Final = "rm:gateway:audit"  # stream: one entry a change; trimmed
GATEWAY_INFOS: Final = "rm:gateway:infos"  # hash: oracle -> what it said about itself when it was registered
GATEWAY_RATE: Final = "rm:gateway:rate:{}"  # string by token id: when its next request is due; expires
GATEWAY_GROUP: Final = "rm:gateway:group:{}:{}"  # set by team and group: the oracles that took it; expires
PREFERENCE_AUDIT: Final = "rm:preference:audit"  # stream: one entry for each request of raters that was refused; trimmed
PREFERENCE_INVITES: Final = "rm:preference:invites"  # hash: invite id -> Invite as JSON
PREFERENCE_INVITED: Final = "rm:preference:invited:{}"  # set by invite id: raters who came by it
REGISTRY_SECRETS: Final = "rm:registry:secrets"  # hash: name of an oracle -> the bearer token that we send to it
WORKERS: Final = "workers"  # the one consumer group of every stream

RUN_KEYS: Final[dict[str, str]] = {
    "settings": "string: the StreamSettings that the producer last enqueued with",
    "policy": "sorted set: the current policy version, as the score of `version`",
    "amendments": "hash: oracle -> Amendment as JSON; expires",
    "groups": "sorted set: groups not forgotten, by the time they came",
    "results": "stream: completed (group, oracle) pairs; trimmed",
}
KEY_KINDS: Final[dict[str, str]] = {
    "group": "hash by group: messages, where each sample waits, outcomes",
    "blobs": "hash by group: pictures that some oracle still needs",
    "stage": "hash by token: pictures on their way in; expires",
    "stream": "stream by oracle: samples waiting or under lease, ids only",
    "retry": "sorted set by oracle: samples to be claimed again, by due time",
    "deferred": "sorted set by oracle: samples whose answer comes later, by deadline",
    "held": "sorted set by oracle: deferred samples whose picture is still kept, by time of deferral",
    "stat": "hash by oracle: bytes in use, outcomes recorded, duplicates",
    "dead": "stream by oracle: failed samples, by the ids of dead letters; trimmed",
    "deadpics": "hash by oracle: pictures of failed samples, by dead letter",
}

#: Metrics: what they count, and their labels after the last "by"; every process that reports one uses this name.
METRICS: Final[dict[str, str]] = {
    "rewardmesh_stream_lag": "samples not yet delivered, by run, oracle and version",
    "rewardmesh_stream_pending": "samples delivered and unsettled, by run, oracle and version",
    "rewardmesh_stream_retrying": "samples that wait for another attempt, by run, oracle and version",
    "rewardmesh_stream_deferred": "samples whose answer comes later, by run, oracle and version",
    "rewardmesh_stream_bytes": "picture bytes in use, by run, oracle and version",
    "rewardmesh_stream_oldest_pending_s": "age of the oldest unsettled sample, by run, oracle and version",
    "rewardmesh_stream_dead_letters": "failed samples kept, by run, oracle and version",
    "rewardmesh_samples_settled": "outcomes that a worker recorded, by run, oracle, version, kind and code",
    "rewardmesh_samples_duplicate": "outcomes that were already there, by run, oracle and version",
    "rewardmesh_samples_retried": "attempts that will be repeated, by run, oracle, version and code",
    "rewardmesh_sample_staleness": "policy versions a sample was behind when claimed, by run, oracle and version",
    "rewardmesh_answers_reused": "samples looked up among kept answers, by run, oracle, version and kind",
    "rewardmesh_oracle_latency_s": "seconds of a sample (queue) or batch (call, settle), by oracle, version and phase",
    "rewardmesh_oracle_batch_samples": "samples in one batch, by oracle and version",
    "rewardmesh_oracle_calls_failed": "calls that failed as a whole, by oracle, version, code and breaker",
    "rewardmesh_oracle_breaker": "0 closed, 1 probing, 2 open, by oracle and version",
    "rewardmesh_reward": "mean reward of an iteration, by run and oracle",
    "rewardmesh_outcomes": "pictures of an iteration by what became of them, by run, oracle and kind",
    "rewardmesh_staleness": "policy versions that an iteration's rollout was behind, by run",
    "rewardmesh_late_answers": "late answers of an iteration by what became of them, by run and kind",
    "rewardmesh_late_staleness": "late answers of an iteration by policy versions behind, by run and from",
    "rewardmesh_late_age_s": "mean seconds from a picture to the use of its late reward, by run",
    "rewardmesh_reward_time_exposed_s": "seconds an iteration waited for rewards, by run",
    "rewardmesh_reward_time_hidden_s": "seconds of reward time that learning overlapped, by run",
    "rewardmesh_iteration_s": "seconds an iteration took, by run and part",
}

#: Spans of a sample's trace, with their kind; `rewardmesh.wire.tracing` draws how they hang together.
SPANS: Final[dict[str, str]] = {
    "rollout": "INTERNAL",
    "enqueue": "PRODUCER",
    "claim": "CONSUMER",
    "ask": "CLIENT",
    "settle": "INTERNAL",
    "retry": "INTERNAL",
    "collect": "INTERNAL",
}

#: Fields of structured logs that identify what a line is about.
LOG_FIELDS: Final = ("run_id", "group_id", "sample_id", "oracle", "policy_version", "iteration")


def labels_of(metric: str) -> set[str]:
    """The labels of a metric."""
    return set(re.split(", | and ", METRICS[metric].rpartition(", by ")[2]))


def breaker_key(oracle: str) -> str:
    """Hash of an oracle's circuit breaker; absent while it is closed and the last call succeeded."""
    return f"rm:registry:breaker:{oracle}"


def answer_keys(oracle: str) -> tuple[str, str]:
    """What is kept of an oracle's answers, for all runs: a hash by question, and a sorted set by time; both expire.

    The braces are a hash tag of the oracle's own.
    """
    return f"rm:answers:{{{oracle}}}:kept", f"rm:answers:{{{oracle}}}:order"


def prefix(run_id: str) -> str:
    """The beginning of all keys of a run."""
    return f"rm:{{{run_id}}}:"


def run_key(run_id: str, kind: str, name: str = "") -> str:
    """One key of a run: one of RUN_KEYS without a name, one of KEY_KINDS with one."""
    known = KEY_KINDS if name else RUN_KEYS
    if kind not in known:
        raise ValueError(f"no such key: {kind}")
    return f"{prefix(run_id)}{kind}:{name}" if name else f"{prefix(run_id)}{kind}"


def text(raw: bytes | str) -> str:
    """A server's answer as text, whether or not its client decodes answers."""
    return raw.decode() if isinstance(raw, bytes) else raw
