"""What each oracle of the deployment may use: replicas, and the resources that one replica needs of a node.

Declarations only. Ray places a replica on a node that has all of what is declared here, and nowhere else; it counts
and does not measure: a fraction of a GPU is a share of its replicas, not of its memory.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["OracleScale"]

_HAVE_FIELDS_OF_THEIR_OWN = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory_bytes"}


class OracleScale(BaseModel):
    """One oracle's share, and the settings of its class (fields of ObjectCountSettings or OcrSettings)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cpus: float = Field(default=0.5, ge=0)
    """Logical CPUs a replica, for Ray's bookkeeping; torch gets as many threads, one at least."""
    num_gpus: float = Field(default=0.0, ge=0)
    """A fraction of one, or whole ones. With any, the oracle computes on `cuda`, unless its options say otherwise."""
    memory_bytes: int = Field(default=0, ge=0)
    """Ray's `memory` of a node, which its replicas share; 0 asks for none."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Custom resources of a node, by the names that it was started with (`ray start --resources`)."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    samples_per_replica: int = Field(default=128, ge=1)
    """Backlog that one replica is expected to work off by itself."""
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=60.0, ge=0)
    max_ongoing_requests: int = Field(default=4, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> OracleScale:
        for name, field in _HAVE_FIELDS_OF_THEIR_OWN.items():
            if name in self.resources:
                raise ValueError(f"{name} is no custom resource; its amount is {field}")
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus is {self.num_gpus}: a fraction of one GPU, or whole ones")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}")
        return self

    @property
    def actor_options(self) -> dict[str, Any]:
        """What Ray is asked for, for each replica."""
        asked: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, "resources": self.resources}
        return asked | ({"memory": self.memory_bytes} if self.memory_bytes else {})

    @property
    def oracle_options(self) -> dict[str, Any]:
        """Settings of the oracle's class."""
        return {"device": "cuda", **self.options} if self.num_gpus else self.options
