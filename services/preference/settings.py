"""Where the preference service stands: its buffer, its gateway, its secrets, and how its queue works."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.preference.model import QueueSettings

__all__ = ["PreferenceSettings"]

Secret = Annotated[SecretStr, Field(min_length=16, max_length=4096)]


class PreferenceSettings(BaseModel):
    """One deployment of people as an oracle. Secrets are shown nowhere, not in a repr either."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis_url: str = Field(repr=False)
    """Its password is a secret too: Ray shows how what it serves was bound."""
    queue: QueueSettings = QueueSettings()
    secret: Secret
    """Signs invite links and sessions. Another one ends all of both."""
    base_path: str = Field(default="/preference", pattern=r"^(/[A-Za-z0-9._~-]+)*$")
    """Under which path browsers find the service: links, cookies and forms begin with it."""
    gateway_url: str = Field(pattern=r"^https?://\S+$")
    gateway_token: Secret
    """A token with the scope `rate` for the oracle `preference`: rewards are posted with it."""
    oracle_token: Secret | None = None
    """What the oracle's protocol asks for; None asks for none."""
    settle_every_s: float = Field(default=2.0, gt=0)
    """How often it is looked for groups that are answered or due."""
