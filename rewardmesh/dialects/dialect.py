"""What a dialect is, and what the foreign ones share: options that describe the service, rewards given in order."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rewardmesh.dialects.failures import CallerRefused, InvalidAnswer
from rewardmesh.dialects.reply import RawReply
from rewardmesh.wire.codec import PNG
from rewardmesh.wire.messages import Number, OracleEndpoint, OracleInfo
from rewardmesh.wire.stream import Claim

__all__ = ["Asked", "Dialect", "DialectOptions", "Request", "in_order"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One sample of a request, its picture in a media type that the service opens."""

    claim: Claim
    media_type: str
    picture: bytes

    @property
    def sample_id(self) -> str:
        return self.claim.sample.sample_id

    @property
    def prompt(self) -> str:
        return self.claim.sample.prompt

    @property
    def picture_base64(self) -> str:
        return base64.b64encode(self.picture).decode()


Part = tuple[str, tuple[str | None, str | bytes, str]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A POST below the registered URL: a JSON body, or multipart parts."""

    path: str
    json: dict[str, Any] | None = None
    parts: list[Part] | None = None


class Dialect(Protocol):
    """Builds requests and reads answers; holds no connection."""

    @property
    def info(self) -> OracleInfo | None:
        """What the service is; None if it says so itself at `GET /v1/oracle`."""

    def request(self, asked: Sequence[Asked]) -> Request:
        """The request for these samples, at most `max_batch` of them."""

    def read(self, body: bytes, asked: Sequence[Asked], /) -> RawReply:
        """The results in a 200, not looked at yet. Raises InvalidAnswer, or another of `failures`."""


class DialectOptions(BaseModel):
    """What a service that does not describe itself is registered with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1, max_length=200)
    """Recorded with every reward: change it whenever the same picture could get another reward."""
    reward_min: Number
    reward_max: Number
    """A reward outside the range is refused."""

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if self.reward_min >= self.reward_max:
            raise ValueError(f"reward_min {self.reward_min} is not below reward_max {self.reward_max}")
        return self

    @classmethod
    def of(cls, endpoint: OracleEndpoint) -> Self:
        """The options of a registration. Raises CallerRefused that names the option and those that there are."""
        try:
            return cls.model_validate(endpoint.options)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the range"
            what = f"options of the dialect {endpoint.dialect}: {place}: {first['msg']}"
            raise CallerRefused(what, endpoint.name, f"register it with {', '.join(cls.model_fields)}") from error

    def info(self, endpoint: OracleEndpoint, *, max_batch: int | None = None) -> OracleInfo:
        """The description that the service does not give; pictures go as PNG, which they all open."""
        return OracleInfo(
            name=endpoint.name,
            version=self.version,
            reward_min=self.reward_min,
            reward_max=self.reward_max,
            media_types=(PNG,),
            max_batch=max_batch or endpoint.max_batch,
        )


def in_order(rewards: object, asked: Sequence[Asked], *, info: OracleInfo) -> RawReply:
    """Rewards that belong to the samples by their place alone: any other number of them belongs to none."""
    if not isinstance(rewards, list) or len(rewards) != len(asked):
        found = f"{len(rewards)} rewards" if isinstance(rewards, list) else "no list of rewards"
        raise InvalidAnswer(f"{found} for {len(asked)} samples", info.name)
    results = [
        {"kind": "scored", "sample_id": one.sample_id, "reward": reward}
        for one, reward in zip(asked, rewards, strict=True)
    ]
    return RawReply(oracle=info.name, version=info.version, results=results)
