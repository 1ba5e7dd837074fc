"""The stream: what carries samples to oracles and their results back. One object for each run.

Life cycle of one (sample, oracle):

    enqueue ──► waiting ──claim──► leased ──settle──► settled: Scored | ScoreFailure
                   ▲                 │ │ ╲                     ▲  │ (a failure is kept as a dead letter)
                   │   retry(delay)  │ │  ╲─settle(Deferred)─► deferred ──settle_late──┘
                   ├── retrying ◄────┘ │                          └── deadline passed ─┘ failed: expired
                   ├── lease expired ◄─┘                          │
                   └── requeue, by an operator: a dead letter ◄───────┘
    on claim, without asking the oracle:  policy too old ──► failed: stale (no dead letter)
                                          delivered more than `max_deliveries` times ──► failed: poison

Promises: an acknowledged sample gets exactly one recorded outcome for each oracle; the first one is kept and every
later one is counted as a duplicate and dropped. An oracle may be asked more than once. Only an operator takes an
outcome back, a failure whose group is still known (`requeue`): the pair is incomplete again, and one other outcome is
recorded in its place. When the last outcome of a (group, oracle) is recorded, the pair is complete and appended to the
completions, once more after a requeue. Completions are a hint (they are trimmed); `outcomes` is the truth. A group is
kept until the trainer forgets it, or until `group_ttl_s` has passed.

    stream = MemoryStream("run-1", StreamSettings())
    await stream.enqueue(group, oracles=["object_count"])
    claims = await stream.claim("object_count", consumer="w1", max_samples=8, lease_s=30)
    await stream.settle("object_count", consumer="w1", version="1",
                        outcomes=[(c, Scored(sample_id=c.sample.sample_id, reward=1.0)) for c in claims])
    outcome = await stream.outcomes(group.group_id, "object_count")     # outcome.complete is True
    await stream.forget(group.group_id)

Times are the server's, in seconds; only a deferral's `until` comes from outside. All consumers of an oracle should use
one `lease_s`: who claims judges by its own whether another's lease has expired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rewardmesh.wire.errors import BufferFull, PictureGone, ProtocolError, UnknownGroup
from rewardmesh.wire.messages import Deferred, FailureCode, Sample, Scored, ScoreFailure

if TYPE_CHECKING:
    from rewardmesh.wire.amendments import Amendments

__all__ = [
    "Admission",
    "Claim",
    "DeadLetter",
    "Depth",
    "Group",
    "GroupOutcome",
    "PendingSample",
    "Provenance",
    "Result",
    "SettleReport",
    "Stream",
    "StreamSettings",
    "require_enqueueable",
    "require_requeued",
]

Result = Scored | ScoreFailure | Deferred

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Bounds of one run's stream. All participants of a run should use the same."""

    budget_bytes: int = 64 * MIB  # pictures that wait for one oracle
    dead_letter_bytes: int = 32 * MIB  # pictures of failed samples, for each oracle; the oldest go first
    deferred_bytes: int = 64 * MIB  # pictures that wait for a deferred oracle's answer; the oldest go first
    max_dead_letters: int = 1000  # entries kept for each oracle, with or without a picture
    group_ttl_s: float = 86400.0  # what nobody forgets expires by age
    max_staleness: int | None = None  # in policy versions; None: never stale
    max_deliveries: int = 5  # a sample handed out more often than this kills workers: settled as poison


@dataclass(frozen=True, kw_only=True)
class PendingSample:
    """A sample on its way in: its picture as bytes and their media type."""

    sample: Sample
    media_type: str
    picture: bytes
    hint: float | None = None
    traceparent: str | None = None  # the span that its claims are children of


@dataclass(frozen=True, kw_only=True)
class Group:
    """All samples of one prompt in one rollout.

    `reuse_answers_s`, by oracle: how old an answer to the same question may be that is taken instead of asking; an
    oracle that is not named is asked about every sample.
    """

    group_id: str
    requests: tuple[PendingSample, ...]
    reuse_answers_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether an oracle's stream took the group, and how full that stream is now."""

    accepted: bool
    bytes_in_use: int
    budget_bytes: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sample under lease.

    `attempts`: failed asks before this one, and `failures` the same by class; `deliveries`: times it was handed out,
    this one included. `reuse_answers_s`: see `Group`; 0: it is to be asked. `waited_s`: since it was enqueued, or came
    up for another attempt; `staleness`: policy versions that it is behind.
    """

    entry_id: str
    sample: Sample
    media_type: str
    picture: bytes
    hint: float | None
    attempts: int
    deliveries: int
    failures: Mapping[FailureCode, int] = field(default_factory=dict)
    traceparent: str | None = None
    reuse_answers_s: float = 0.0
    waited_s: float = 0.0
    staleness: int = 0


@dataclass(frozen=True, kw_only=True)
class SettleReport:
    """What one settle did: new outcomes, outcomes that were already there, samples now deferred."""

    settled: int = 0
    duplicates: int = 0
    deferred: int = 0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result is from: the version of the oracle ("" if it never answered) and the codec of the picture.

    `cached`: it is an earlier answer to the same question, taken again without asking.
    """

    version: str
    media_type: str
    cached: bool = False


@dataclass(frozen=True, kw_only=True)
class GroupOutcome:
    """What is known of a (group, oracle). `results` and their `provenance` by sample id.

    `version` is that of the last recorded result. `complete` may turn false again: see `Stream.requeue`.
    """

    group_id: str
    oracle: str
    complete: bool
    results: Mapping[str, Result] = field(default_factory=dict)
    version: str = ""
    provenance: Mapping[str, Provenance] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How much waits for one oracle. `lag`: undelivered; `pending`: delivered and unsettled.

    `settled` is how many outcomes were recorded so far: of two looks, the difference is the throughput.
    """

    lag: int
    pending: int
    retrying: int
    deferred: int
    bytes_in_use: int
    budget_bytes: int
    oldest_pending_s: float  # age of the oldest sample without an outcome, waiting or under lease
    dead_letters: int
    settled: int


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A sample that failed; its picture is None once the dead letters' own budget pushed it out."""

    letter_id: str
    sample: Sample
    oracle: str
    failure: ScoreFailure
    attempts: int
    picture: bytes | None
    media_type: str


class Stream(Protocol):
    """One run's stream. Every call may be repeated; failures of the server are raised as `BufferUnavailable`."""

    @property
    def run_id(self) -> str:
        """The run whose samples this stream carries."""

    @property
    def amendments(self) -> Amendments:
        """Oracles that the run was asked to learn from besides those of its recipe."""

    async def enqueue(self, group: Group, *, oracles: Sequence[str]) -> dict[str, Admission]:
        """Offers the group to each oracle. Idempotent by (group_id, oracle).

        A full oracle refuses the whole group, for itself only; the others still take it. Once this returns, the
        samples of every accepting oracle are acknowledged. Raises ProtocolError for an empty group or repeated ids, and
        BufferFull for a group that is larger than the whole budget.
        """

    async def claim(
        self,
        oracle: str,
        *,
        consumer: str,
        max_samples: int,
        lease_s: float,
        wait_s: float = 0.0,
        begun_only: bool = False,
        whole_groups: bool = False,
    ) -> list[Claim]:
        """Leases up to `max_samples`: retries that are due, expired leases of others, then new ones.

        `begun_only`: no new ones, so that what was claimed before comes to its end and nothing else begins. Stale and
        poisonous samples, and deferred ones past their deadline, are settled here as failures. Waits up to `wait_s` if
        there is nothing.

        `whole_groups`: all samples of one group or none, as an oracle that judges groups must be asked; no other
        consumer has one of them meanwhile. A group larger than `max_samples`, and the rest of one that has outcomes
        already (a requeued sample), can never be asked so, and are settled here as failures too.
        """

    async def heartbeat(self, oracle: str, *, consumer: str, claims: Sequence[Claim], lease_s: float) -> list[Claim]:
        """Renews the leases (call it every lease_s / 3); returns those still held, the others are somebody else's."""

    async def settle(
        self,
        oracle: str,
        *,
        consumer: str,
        outcomes: Sequence[tuple[Claim, Result]],
        version: str,
        cached: bool = False,
    ) -> SettleReport:
        """Records outcomes, each at most once, all in one call to the server.

        Idempotency key: (group_id, oracle, sample_id). An outcome whose lease was lost still counts if it is the first.
        `cached`: see `Provenance`.
        """

    async def retry(
        self, oracle: str, *, consumer: str, claim: Claim, failure: ScoreFailure | None, delay_s: float
    ) -> bool:
        """Hands the sample back, to be claimed again after `delay_s` (jitter is the caller's).

        The failure is counted by its class; None: the oracle was not asked, and nothing is counted. False if the lease
        was lost: then it is somebody else's to retry or settle.
        """

    async def settle_late(self, oracle: str, *, group_id: str, result: Scored | ScoreFailure, version: str) -> bool:
        """Records the answer to a deferred sample. False if it has an outcome already, or is unknown or forgotten."""

    async def completions(
        self, *, after: str = "0", wait_s: float = 0.0, max_count: int = 1000
    ) -> tuple[list[tuple[str, str]], str]:
        """Pairs (group_id, oracle) completed after the cursor, and the next cursor. A hint: see `outcomes`."""

    async def outcomes(self, group_id: str, oracle: str) -> GroupOutcome:
        """What is recorded for the pair. Raises UnknownGroup if it was never accepted, or was forgotten."""

    async def groups(self) -> list[str]:
        """Groups that are known and not forgotten, oldest first; what a trainer that restarts has to look at."""

    async def forget(self, group_id: str) -> None:
        """Removes the group and all that waits for it. Forgetting an unknown group is no error."""

    async def set_policy_version(self, version: int) -> None:
        """Says which policy version is current: samples older by more than `max_staleness` are stale.

        It never goes back: a smaller version than the one known is ignored.
        """

    async def set_iteration(self, iteration: int) -> None:
        """Says how many iterations the training has done, for whoever looks at the run."""

    async def iteration(self) -> int | None:
        """What was said last; None for a run that nobody trains in."""

    async def depth(self, oracle: str) -> Depth:
        """How much waits for the oracle."""

    async def dead_letters(self, oracle: str, max_count: int) -> list[DeadLetter]:
        """The latest failures, newest first."""

    async def dead_letter(self, oracle: str, letter_id: str) -> DeadLetter:
        """One failure. Raises UnknownLetter."""

    async def requeue(self, oracle: str, letter_id: str) -> bool:
        """Takes the failure back: the sample waits again, with its attempts uncounted, and its letter is gone.

        A trainer sees `outcomes(...).complete` turn false and the pair come again in `completions`. False if there is
        no such letter (any more): repeating a requeue is no error. Raises UnknownGroup if the group was forgotten
        meanwhile, PictureGone if the picture was pushed out, BufferFull if the oracle's budget has no room; then
        nothing has changed.
        """

    async def discard(self, oracle: str, letter_id: str) -> bool:
        """Drops the letter and its picture; the outcome stays what it is. False if there is no such letter."""

    async def close(self) -> None:
        """Lets go of the connection; what is in the stream stays."""


def require_enqueueable(group: Group, oracles: Sequence[str], settings: StreamSettings) -> int:
    """The picture bytes of a group that may be enqueued, the same for every implementation.

    Raises: ProtocolError for an empty group, repeated ids, or a sample of another group; BufferFull for a group larger
    than the whole budget, which would be refused for ever.
    """
    ids = [request.sample.sample_id for request in group.requests]
    if not ids or not oracles:
        raise ProtocolError("a group needs samples and oracles", group.group_id, "enqueue at least one of each")
    if len(set(ids)) != len(ids) or len(set(oracles)) != len(oracles):
        raise ProtocolError("a group names a sample or an oracle twice", group.group_id, "give each an id of its own")
    if any(request.sample.group_id != group.group_id for request in group.requests):
        raise ProtocolError("a group holds a sample of another group", group.group_id, "set group_id on each sample")
    need = sum(len(request.picture) for request in group.requests)
    if need > settings.budget_bytes:
        what = f"a group of {need} bytes can never fit into a budget of {settings.budget_bytes}"
        raise BufferFull(what, group.group_id, "raise budget_bytes, or send smaller groups or pictures")
    return need


def require_requeued(said: str, which: str) -> None:
    """Raises what `Stream.requeue` promises for why a letter could not be requeued; the words are the scripts'."""
    if said == "no group":
        raise UnknownGroup("its group was forgotten, nobody waits for it", which, "discard the dead letter")
    if said == "no picture":
        raise PictureGone("its picture was pushed out by younger ones", which, "discard it, or raise dead_letter_bytes")
    if said == "no room":
        raise BufferFull("the oracle's budget has no room for its picture", which, "requeue it when less waits")
