"""One bearer token that an app asks for: compared in constant time, kept as a hash, never shown and never logged."""

from __future__ import annotations

import hashlib
import secrets

from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from rewardmesh.kit.refused import Refused

__all__ = ["BearerToken"]


class BearerToken(HTTPBearer):
    """A dependency of routes. Raises: Refused with 401 unless `Authorization: Bearer` brings the token."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False, scheme_name="bearer")
        if not token:
            raise ValueError("an empty token would let nobody in: leave it out, or give one")
        self._digest = _digest(token)

    async def __call__(self, request: HTTPConnection) -> None:
        given = await super().__call__(request)
        if given is None or not secrets.compare_digest(_digest(given.credentials), self._digest):
            raise Refused(401, "no valid token", "Authorization", "send the bearer token that this oracle was given")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
