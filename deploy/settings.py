"""Where the stack runs: read from the environment and from nowhere else.

What an experiment *is* belongs to its recipe. `REDIS_URL` and `RAY_ADDRESS` join what exists; without them the
embedded server and a local Ray are started. Every other name starts with `REWARDMESH_`.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.networks import AllowedNetworks
from rewardmesh.wire.strict_json import load_json
from services.catalogue import ORACLES
from services.oracle_scale import OracleScale
from services.preference.model import QueueSettings

__all__ = ["Fsync", "Settings", "SettingsError", "load_settings"]

Fsync = Literal["always", "everysec", "no"]
BearerToken = Annotated[SecretStr, Field(min_length=16, max_length=4096)]
PREFIX = "REWARDMESH_"
LOOPBACK = "127.0.0.0/8, ::1/128"


_AS_JSON = BeforeValidator(lambda given: load_json(given) if isinstance(given, str) else given)

#: JSON in the environment: {"object_count": {"num_gpus": 0.25}, …}
OracleScales = Annotated[dict[str, OracleScale], NoDecode, _AS_JSON]
#: JSON in the environment: {"mode": "singles", "raters_per_comparison": 3, …}
PreferenceQueueSettings = Annotated[QueueSettings, NoDecode, _AS_JSON]


class SettingsError(RewardmeshError):
    """An environment variable with a value that cannot be meant."""


class Settings(BaseSettings):
    """Settings of every command. A port of 0 means: any free one."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    redis_url: str | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    """A server to join; unset starts the embedded one."""
    ray_address: str | None = Field(default=None, validation_alias=AliasChoices("RAY_ADDRESS", "ray_address"))
    """A Ray cluster to join; unset starts a local one."""

    run_root: Path = Path("runs")
    """Run folders, one a run; the stack keeps its state in `.stack` below it."""
    host: str = "127.0.0.1"
    """Where oracles and a local Ray listen: loopback, unless other machines or containers must reach them."""
    advertised_host: str | None = None
    """Name under which others reach this host; unset: where the oracles listen."""
    tls_cert_file: Path | None = None
    """A certificate (chain) on the head's machine, with which oracles and gateway speak TLS; unset: HTTP."""
    tls_key_file: Path | None = None
    """The certificate's private key."""
    dashboard_port: int = Field(default=8265, ge=0, le=65535)
    serve_port: int = Field(default=8000, ge=0, le=65535)
    ray_port: int = Field(default=0, ge=0, le=65535)
    allowed_networks: AllowedNetworks | None = None
    """Networks, beside public addresses, in which oracles are called; unset: where the stack's own listen."""

    oracle_token: BearerToken | None = None
    """What the stack's own oracles ask for; unset: made at the first start, and kept beside the stack's state."""
    log_format: Literal["json", "text"] | None = None
    """Of the logs on standard error; unset: text on a terminal, JSON lines elsewhere."""

    server_binary: Path | None = None
    """A valkey-server or redis-server to use instead of searching for one."""
    appendfsync: Fsync = "everysec"
    """How durable an acknowledgement is: `always` survives power loss, `everysec` may lose its last second."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of a local Ray; None gives two more than the machine has, which wait more than they compute."""
    trainer_cpus: float | None = Field(default=None, gt=0)
    """CPUs of a training worker, and torch's threads in it; None shares this machine's among the workers of a local
    Ray, and asks a joined one for one each."""
    object_store_bytes: int = Field(default=256 * 2**20, ge=80 * 2**20)
    """Shared memory of a local Ray. Pictures travel through the buffer, not through it."""
    num_reward_workers: int = Field(default=2, ge=1, le=64)
    """Replicas that move samples from the buffer to the oracles."""
    max_oracle_replicas: int = Field(default=2, ge=1)
    """Replicas that each oracle may grow to while its stream's backlog lasts; 1 keeps them as they are."""
    oracles: OracleScales = Field(default_factory=dict)
    """What each of the stack's oracles may use, where that is not the default; the fields of OracleScale, as JSON."""
    preference: bool = False
    """Whether people are an oracle of the stack: `preference`, with its pages under /preference."""
    preference_queue: PreferenceQueueSettings = QueueSettings()
    """How groups become questions to people; the fields of QueueSettings, as JSON."""
    preference_secret: BearerToken | None = None
    """What signs invite links and sessions; unset: made at the first start, and kept beside the stack's state."""
    start_timeout_s: float = Field(default=300.0, gt=0)
    """How long one part may take to start; on a busy machine Ray takes minutes."""

    @field_validator("run_root")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("ray_address")
    @classmethod
    def _of_a_cluster(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError(
                "a cluster is joined from one of its nodes, by host:port; from elsewhere use `ray job submit`"
            )
        return value

    @field_validator("oracles")
    @classmethod
    def _known(cls, value: dict[str, OracleScale]) -> dict[str, OracleScale]:
        unknown = sorted(set(value) - set(ORACLES))
        if unknown:
            raise ValueError(f"no such oracle of the stack: {', '.join(unknown)}; there are {', '.join(ORACLES)}")
        return value

    @property
    def state_dir(self) -> Path:
        return self.run_root / ".stack"

    @property
    def data_dir(self) -> Path:
        """The embedded server's data: kept between starts, so that a run can be resumed."""
        return self.state_dir / "buffer"

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or self.host.startswith("127.")

    @property
    def reachable_host(self) -> str:
        """Where the oracles are reached; an address that means "all interfaces" is none to call."""
        everywhere = self.host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        return self.advertised_host or ("127.0.0.1" if everywhere else self.host)

    @property
    def tls_files(self) -> tuple[str, str] | None:
        """Certificate and key; None for HTTP.

        Raises: SettingsError if one of the two is not set, or is no file of this machine and no Ray is joined.
        """
        names = f"{PREFIX}TLS_CERT_FILE and {PREFIX}TLS_KEY_FILE"
        if self.tls_cert_file is None and self.tls_key_file is None:
            return None
        if self.tls_cert_file is None or self.tls_key_file is None:
            raise SettingsError("only one of the files for TLS is set", names, "set both, or none")
        for file in (self.tls_cert_file, self.tls_key_file):
            if self.ray_address is None and not file.is_file():
                raise SettingsError("a file for TLS is not there", str(file), f"check {names}")
        return str(self.tls_cert_file), str(self.tls_key_file)

    def serve_url(self, port: int) -> str:
        """Where oracles and gateway are reached. Raises: SettingsError, as `tls_files`."""
        return f"{'https' if self.tls_files else 'http'}://{self.reachable_host}:{port}"

    @property
    def outgoing_networks(self) -> str:
        """What reward workers are told: `allowed_networks`, or the address that the stack's own oracles are called at.

        A name is not resolved here: a stack that is reached by a name is told its network.
        """
        if self.allowed_networks is not None:
            return self.allowed_networks
        try:
            own = ip_address(self.reachable_host)
        except ValueError:
            return LOOPBACK if self.is_loopback else ""
        return LOOPBACK if own.is_loopback else str(own)

    @property
    def logical_cpus(self) -> int:
        return self.num_cpus or (os.cpu_count() or 1) + 2

    def scale_of(self, oracle: str) -> OracleScale:
        """What an oracle of the stack may use; it grows to `max_oracle_replicas` unless its own bound is given."""
        scale = self.oracles.get(oracle, OracleScale())
        if "max_replicas" in scale.model_fields_set:
            return scale
        return scale.model_copy(update={"max_replicas": max(scale.min_replicas, self.max_oracle_replicas)})

    def cpus_per_trainer(self, num_workers: int) -> float:
        """CPUs to ask Ray for, for each training worker."""
        if self.trainer_cpus is not None:
            return self.trainer_cpus
        if self.ray_address is not None:
            return 1.0
        return float(max(1, (os.cpu_count() or 1) // max(1, num_workers)))


def load_settings() -> Settings:
    """Reads the environment. Raises SettingsError that names the variable."""
    try:
        return Settings()
    except ValidationError as invalid:
        first = invalid.errors()[0]
        field, *within = map(str, first["loc"])
        name = field if field.isupper() else PREFIX + field.upper()
        given = "" if field in {"oracle_token", "preference_secret"} else f"={first['input']!r}"
        said = ": ".join(part for part in (".".join(within), first["msg"]) if part)
        raise SettingsError(
            f"environment variable {name}{given} is not valid", name, f"{said}; change or unset it"
        ) from None
