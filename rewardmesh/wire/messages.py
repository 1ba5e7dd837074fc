"""The messages: what a sample is, what is asked about it, and what may be answered.

All are frozen, forbid unknown keys, and are strict JSON: NaN and Infinity are neither read nor written. Pictures
travel beside a sample as bytes with a media type; only the JSON form of the HTTP protocol carries them as base64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from rewardmesh.wire.strict_json import dump_json, require_finite

__all__ = [
    "PROTOCOL",
    "BreakerBounds",
    "Checks",
    "Clause",
    "Count",
    "Deferred",
    "Detail",
    "FailureCode",
    "Identifier",
    "Message",
    "Name",
    "Number",
    "OracleEndpoint",
    "OracleInfo",
    "RetryBound",
    "Sample",
    "ScoreBatch",
    "ScoreBatchReply",
    "ScoreFailure",
    "ScoreItem",
    "ScoreRequest",
    "ScoreResult",
    "Scored",
    "parse_result",
]

PROTOCOL = 1

#: Names of runs and oracles: parts of keys, folders and URLs.
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

#: Ids of groups and samples: no spaces, braces or control characters.
Identifier = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+=:/#-]*$")]


def _a_number(value: object) -> object:
    if isinstance(value, bool | str | bytes):
        raise ValueError("not a number")  # pydantic reports ValueErrors
    return value


#: A finite number; the string "1" and the boolean true are not numbers.
Number = Annotated[float, BeforeValidator(_a_number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_a_number)]

#: What explains a reward: any strict JSON object.
Detail = Annotated[dict[str, Any], AfterValidator(require_finite)]

FailureCode = Literal[
    "unreachable",
    "dropped",
    "timeout",
    "overloaded",
    "server_error",
    "invalid_answer",
    "invalid_picture",
    "missing_checks",
    "oracle_error",
    "stale",
    "expired",
    "poison",
]


class Message(BaseModel):
    """Base of all messages: frozen, no unknown keys, strict JSON."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, serialize_by_alias=True
    )

    def to_json(self) -> str:
        """Compact JSON; raises ValueError for anything that strict JSON cannot say."""
        return dump_json(self.model_dump(mode="python", by_alias=True))


class Clause(Message):
    """One demand on a picture, as GenEval writes it: so many of a class, perhaps of a colour, perhaps somewhere."""

    cls: str = Field(alias="class", min_length=1)
    count: Count = Field(default=1, ge=1)
    color: str | None = None
    position: tuple[str, Count] | None = None  # relation, index of the clause that it relates to


class Checks(Message):
    """What an oracle must verify: GenEval's metadata shape, plus the text that should be legible."""

    tag: str
    include: tuple[Clause, ...] = ()
    exclude: tuple[Clause, ...] = ()
    text: str | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Reads one line of GenEval's metadata; its `prompt`, if there, is not part of the checks."""
        return cls.model_validate({key: value for key, value in metadata.items() if key != "prompt"})

    def to_metadata(self) -> dict[str, Any]:
        """GenEval's shape again: keys that say nothing are left out, positions are lists."""
        metadata = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in metadata.items() if value != []}


class Sample(Message):
    """One picture of one prompt.

    `boundary_index` is K for the finished picture and less for the decoded clean prediction of an earlier boundary.
    """

    run_id: Name
    group_id: Identifier
    sample_id: Identifier
    policy_version: Count = Field(ge=0)
    boundary_index: Count = Field(ge=0)
    prompt: str
    checks: Checks


class ScoreRequest(Message):
    """A sample for one oracle; `hint` is the surrogate's present opinion, for oracles that choose what to ask."""

    sample: Sample
    oracle: Name
    media_type: str
    hint: Number | None = None


class Scored(Message):
    """The oracle's reward, in its declared range, and what explains it."""

    kind: Literal["scored"] = "scored"
    sample_id: Identifier
    reward: Number
    detail: Detail = Field(default_factory=dict)


class ScoreFailure(Message):
    """No reward, and why. Failure is this type: never NaN, never 0."""

    kind: Literal["failed"] = "failed"
    sample_id: Identifier
    code: FailureCode
    detail: str
    retryable: bool


class Deferred(Message):
    """The oracle took the picture over and answers later, by `until` (unix seconds) at the latest."""

    kind: Literal["deferred"] = "deferred"
    sample_id: Identifier
    until: Number = Field(ge=0)


ScoreResult = Annotated[Scored | ScoreFailure | Deferred, Field(discriminator="kind")]
_RESULT: TypeAdapter[Scored | ScoreFailure | Deferred] = TypeAdapter(ScoreResult)


def parse_result(text: str | bytes) -> Scored | ScoreFailure | Deferred:
    """Reads one result from JSON; raises pydantic.ValidationError (a ValueError)."""
    return _RESULT.validate_json(text)


class OracleInfo(Message):
    """What an oracle says about itself at `GET /v1/oracle`."""

    name: Name
    version: str = Field(min_length=1)
    reward_min: Number
    reward_max: Number
    media_types: tuple[str, ...] = Field(min_length=1)
    max_batch: Count = Field(ge=1)
    granularity: Literal["sample", "group"] = "sample"
    deferred: bool = False

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if self.reward_min >= self.reward_max:
            raise ValueError(f"reward_min {self.reward_min} is not below reward_max {self.reward_max}")
        return self

    @model_validator(mode="after")
    def _takes_a_group(self) -> Self:
        if self.granularity == "group" and self.max_batch < 2:
            raise ValueError("granularity is group and max_batch is 1: a group has two samples or more")
        return self


class ScoreItem(Message):
    """One sample of a batch: its picture is the multipart part named `picture`, or is inside as base64."""

    sample: Sample
    media_type: str
    picture: str | None = None
    picture_base64: str | None = None
    hint: Number | None = None

    @model_validator(mode="after")
    def _one_picture(self) -> Self:
        if (self.picture is None) == (self.picture_base64 is None):
            raise ValueError("exactly one of picture and picture_base64 must be given")
        return self


class ScoreBatch(Message):
    """The part `request` of `POST /v1/score`."""

    protocol: Count = Field(default=PROTOCOL, ge=1, le=PROTOCOL)
    oracle: Name
    items: list[ScoreItem] = Field(min_length=1)
    deadline_s: Number | None = Field(default=None, gt=0)


class ScoreBatchReply(Message):
    """The answer to a batch; it may lack samples, and a sample that it lacks counts as not answered."""

    oracle: Name
    version: str = Field(min_length=1)
    results: list[ScoreResult]


class RetryBound(Message):
    """How often one sample is asked in spite of one class of failure, and for how long after its first ask."""

    max_attempts: Count = Field(ge=1)
    budget_s: Number = Field(ge=0)


class BreakerBounds(Message):
    """When an oracle is left alone: after so many calls in a row that failed as a whole, for `open_s`, doubling."""

    failures_to_open: Count = Field(default=3, ge=1)
    open_s: Number = Field(default=1.0, gt=0)
    max_open_s: Number = Field(default=30.0, gt=0)


class OracleEndpoint(Message):
    """What the registry keeps: where an oracle is and what it bears.

    `max_attempts` and `retry_budget_s` bound every class of failure that `retries` does not name. `state`: a paused
    oracle gets nothing, a draining one only what was claimed before.
    """

    name: Name
    url: str = Field(pattern=r"^https?://\S+$")
    version: str = ""  # what the service said when it was registered; "" if it was never asked
    dialect: Literal["rewardmesh", "flow_factory", "openrlhf", "openai_judge", "kserve"] = "rewardmesh"
    options: Detail = Field(default_factory=dict)  # of the dialect
    max_batch: Count = Field(ge=1)
    granularity: Literal["sample", "group"] = "sample"  # as the service declares it
    concurrency: Count = Field(default=1, ge=1)
    deadline_s: Number = Field(default=30.0, gt=0)
    max_attempts: Count = Field(default=4, ge=1)
    retry_base_s: Number = Field(default=0.5, gt=0)
    retry_budget_s: Number = Field(default=300.0, ge=0)
    retries: dict[FailureCode, RetryBound] = Field(default_factory=dict)
    breaker: BreakerBounds = BreakerBounds()
    state: Literal["active", "paused", "draining"] = "active"
