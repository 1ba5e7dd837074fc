"""Registering oracles, changing, checking again, removing. Durable in the registry; workers see a change in 2 s.

An oracle is probed before it gets work: what does not pass the conformance check of its dialect is refused with the
report. Identity: a name belongs to the service that was registered under it; another one is refused, another version of
the same one is taken over by checking again. A service of another dialect cannot say who it is; its options do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from redis.asyncio import Redis

from rewardmesh.kit.checking import OUR_PROTOCOL, ConformanceReport
from rewardmesh.kit.dialect_conformance import check_endpoint
from rewardmesh.wire import names
from rewardmesh.wire.breaker import BreakerState
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.errors import RegistrationRefused, UnknownOracle
from rewardmesh.wire.messages import BreakerBounds, Count, Detail, Message, Name, Number, OracleEndpoint, OracleInfo
from services.gateway.audit import Actor
from services.gateway.context import Gateway

__all__ = [
    "OracleChange",
    "OracleView",
    "Registration",
    "change",
    "check",
    "info_of",
    "keep_info",
    "recheck",
    "register",
    "remove",
    "view",
]

Url = Annotated[str, Field(max_length=2000, pattern=r"^https?://\S+$")]
Secret = Annotated[str, Field(min_length=8, max_length=4096, pattern=r"^[\x21-\x7e]+$")]


class OracleLimits(Message):
    """What an oracle bears. What is not given is as it was, or the registry's default."""

    max_batch: Count | None = Field(default=None, ge=1)
    concurrency: Count | None = Field(default=None, ge=1, le=1024)
    deadline_s: Number | None = Field(default=None, gt=0, le=3600)
    max_attempts: Count | None = Field(default=None, ge=1, le=100)
    retry_base_s: Number | None = Field(default=None, gt=0, le=3600)
    retry_budget_s: Number | None = Field(default=None, ge=0, le=86400)
    breaker: BreakerBounds | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The limits that were given, by the names that they have in an OracleEndpoint."""
        limits = {name: getattr(self, name) for name in OracleLimits.model_fields}
        return {name: value for name, value in limits.items() if value is not None}


class Registration(OracleLimits):
    """A service to be registered, or only tested. Without a name it is called what it calls itself.

    One that speaks another dialect can say neither its name nor its `max_batch`, and is described by the `options` of
    that dialect: `version`, `reward_min`, `reward_max`, and what docs/gateway.md says.
    """

    url: Url
    name: Name | None = None
    dialect: Literal["rewardmesh", "flow_factory", "openrlhf", "openai_judge", "kserve"] = "rewardmesh"
    options: Detail = Field(default_factory=dict)
    secret: Secret | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _options_are_a_dialect_s(self) -> Registration:
        if self.options and self.dialect == "rewardmesh":
            raise ValueError("the dialect rewardmesh takes no options: leave them out, or name the dialect")
        return self

    def endpoint(self, **known: Any) -> OracleEndpoint:
        """The oracle as it would be in the registry; what is `known` of it counts more than what was given."""
        said = {"url": self.url, "dialect": self.dialect, "options": self.options}
        given = {"name": self.name or "unnamed", "max_batch": 1, **self.given, **said}
        return OracleEndpoint.model_validate({**given, **known})


class OracleChange(OracleLimits):
    """What is to be different. A new `url` is probed like a new oracle; `secret: null` forgets the one there is."""

    url: Url | None = None
    state: Literal["active", "paused", "draining"] | None = None
    secret: Secret | None = Field(default=None, repr=False)


class BreakerView(Message):
    """How an oracle's circuit breaker stands; `wait_s` until it may be probed."""

    kind: str
    failures: int
    wait_s: float

    @classmethod
    def of(cls, state: BreakerState) -> BreakerView:
        """The part of a state that concerns an operator."""
        return cls(kind=state.kind, failures=state.failures, wait_s=state.wait_s)


class OracleView(Message):
    """An oracle as the registry has it. Its secret is never shown, only whether there is one."""

    endpoint: OracleEndpoint
    breaker: BreakerView
    has_secret: bool


async def check(gateway: Gateway, endpoint: OracleEndpoint, *, secret: str | None = None) -> ConformanceReport:
    """Probes the service of an endpoint and changes nothing. Repeatable. Deadline: the endpoint's, a call."""
    async with gateway.http(endpoint.deadline_s, secret=secret) as http:
        return await check_endpoint(endpoint, http=http)


async def register(gateway: Gateway, wanted: Registration, *, actor: Actor) -> OracleEndpoint:
    """Probes a service and gives it work from now on. Asked again, it is refused: the name is taken.

    Raises: RegistrationRefused (the name is taken, no service there, not conforming, a limit above its own),
    BufferUnavailable. Deadline: that of the conformance check.
    """
    if wanted.name is not None:
        await _require_free(gateway, wanted.name)
    if wanted.dialect != "rewardmesh" and (wanted.name is None or wanted.max_batch is None):
        what = f"a service of the dialect {wanted.dialect} cannot say its name and its max_batch"
        raise RegistrationRefused(what, wanted.url, "give both")
    info = _conforming(await check(gateway, wanted.endpoint(), secret=wanted.secret), name=wanted.name)
    max_batch = wanted.max_batch or info.max_batch
    if max_batch > info.max_batch:
        what = f"max_batch {max_batch} is more than the {info.max_batch} that the service takes"
        raise RegistrationRefused(what, info.name, "lower max_batch")
    endpoint = wanted.endpoint(name=info.name, version=info.version, max_batch=max_batch, granularity=info.granularity)
    while not await gateway.registry.add_oracle(endpoint, secret=wanted.secret):  # probing took its time
        await _require_free(gateway, info.name)
    await keep_info(gateway.redis, endpoint.name, info)
    await gateway.audit.record(actor, "oracle.register", endpoint.name, url=wanted.url, version=endpoint.version)
    return endpoint


async def change(gateway: Gateway, name: str, wanted: OracleChange, *, actor: Actor) -> OracleEndpoint:
    """Changes what was given and nothing else. Idempotent; of two at once the later one counts.

    Raises: UnknownOracle, RegistrationRefused (another service at the new URL), BufferUnavailable.
    """
    endpoint = await gateway.registry.oracle(name)
    new: dict[str, Any] = wanted.given
    if wanted.state is not None:
        new["state"] = wanted.state
    if wanted.url is not None and wanted.url != endpoint.url:
        new["url"] = wanted.url
        secret = wanted.secret or await gateway.registry.secret(name)
        info = _conforming(await check(gateway, endpoint.model_copy(update=new), secret=secret), name=name)
        new |= {"version": info.version, "granularity": info.granularity}
        await keep_info(gateway.redis, name, info)
    changed = endpoint.model_copy(update=new)
    if new:
        await gateway.registry.put_oracle(changed, secret=wanted.secret)
    if "secret" in wanted.model_fields_set:
        await gateway.registry.put_secret(name, wanted.secret)
        new["secret"] = "forgotten" if wanted.secret is None else "replaced"
    told = {key: value.model_dump() if isinstance(value, Message) else value for key, value in new.items()}
    await gateway.audit.record(actor, "oracle.change", name, **told)
    return changed


async def recheck(gateway: Gateway, name: str, *, actor: Actor) -> OracleEndpoint:
    """Probes a registered oracle once more and takes over its version and granularity. Idempotent.

    Raises: UnknownOracle, RegistrationRefused (it does not conform any more, or is another service).
    """
    endpoint = await gateway.registry.oracle(name)
    report = await check(gateway, endpoint, secret=await gateway.registry.secret(name))
    info = _conforming(report, name=name)
    await keep_info(gateway.redis, name, info)
    changed = endpoint.model_copy(update={"version": info.version, "granularity": info.granularity})
    if changed == endpoint:
        return endpoint
    await gateway.registry.put_oracle(changed)
    await gateway.audit.record(actor, "oracle.version", name, before=endpoint.version, after=info.version)
    return changed


async def remove(gateway: Gateway, name: str, *, actor: Actor) -> None:
    """The oracle gets no more work; what waits for it stays until its group is forgotten. Raises UnknownOracle."""
    await gateway.registry.oracle(name)
    await gateway.registry.remove_oracle(name)
    await keep_info(gateway.redis, name, None)
    await gateway.audit.record(actor, "oracle.remove", name)


async def view(gateway: Gateway, endpoint: OracleEndpoint) -> OracleView:
    """The oracle as it may be shown."""
    breaker = BreakerView.of(await gateway.registry.breaker(endpoint.name))
    has_secret = await gateway.registry.secret(endpoint.name) is not None
    return OracleView(endpoint=endpoint, breaker=breaker, has_secret=has_secret)


async def info_of(gateway: Gateway, name: str) -> OracleInfo | None:
    """What the oracle said about itself when it was last probed; None for one that was never."""
    with server_errors("registry"):
        kept = await gateway.redis.hget(names.GATEWAY_INFOS, name)
    return None if kept is None else OracleInfo.model_validate_json(kept)


async def keep_info(redis: Redis, name: str, info: OracleInfo | None) -> None:
    """What an oracle that was asked said about itself; None forgets it. Late answers are checked against it."""
    with server_errors("registry"):
        if info is None:
            await redis.hdel(names.GATEWAY_INFOS, name)
        else:
            await redis.hset(names.GATEWAY_INFOS, name, info.to_json())


async def _require_free(gateway: Gateway, name: str) -> None:
    try:
        known = await gateway.registry.oracle(name)
    except UnknownOracle:
        return
    advice = f"it is at {known.url}: change or remove that one, or register this one under another name"
    raise RegistrationRefused("an oracle of that name is registered", name, advice)


def _conforming(report: ConformanceReport, *, name: str | None) -> OracleInfo:
    """What a conforming service says about itself. Raises RegistrationRefused, with the report where there is one."""
    info, url = report.info, report.url
    if info is None and report.speaks == OUR_PROTOCOL:
        raise RegistrationRefused("no oracle answers there", url, f"check the URL\n{report}")
    if info is None:
        raise RegistrationRefused("the options do not describe the service", url, f"mend this\n{report}")
    if name is not None and info.name != name:
        what = f"the service there calls itself {info.name}, not {name}"
        raise RegistrationRefused(what, url, f"register it as {info.name}, or check the URL")
    if not report.passed:
        raise RegistrationRefused("the service does not pass the conformance check", url, f"mend this\n{report}")
    return info
