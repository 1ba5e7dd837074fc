"""What every request passes before any route sees it: a token, its rate, a body of bounded size that comes in time.

An ASGI middleware, so that nobody without a token makes the gateway read or parse anything. Which scope a route wants
is the route's to say: `Score`, `Admin`, `Rate`, `Look` are the types of a route's parameter `token`.

A token comes as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic: that is what a browser can send, and a
trainer whose only setting is a URL (`http://any:TOKEN@host/…`). No other site can use what a browser remembers: no
answer allows another origin, and a body must be JSON or multipart of the gateway's own form.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rewardmesh.wire.errors import ProtocolError, RewardmeshError, ScopeMissing, TokenRefused
from services.gateway.answers import fault, status_of
from services.gateway.context import Gateway
from services.gateway.tokens import Token

__all__ = ["MAX_BODY_BYTES", "OPEN_PATHS", "Admin", "Gate", "Look", "Rate", "Score"]

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
BODY_S: Final = 60.0
OPEN_PATHS: Final = frozenset({"/v1/health"})


class Gate:
    """Refuses with 401, 408, 413 or 429; puts the token where `caller` finds it."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _path(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        gateway: Gateway = scope["app"].state.gateway
        headers = dict(scope["headers"])
        try:
            token = await gateway.tokens.check(_token_text(headers.get(b"authorization", b"")))
            await gateway.tokens.count(token)
        except RewardmeshError as error:
            await fault(status_of(error), error)(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_S):
                body = await self._read(headers, receive)
        except TimeoutError:
            late = ProtocolError("the body did not come in time", f"{BODY_S:.0f} s", "send it again")
            await fault(408, late)(scope, receive, send)
            return
        if body is None:
            large = ProtocolError("the body is too large", f"over {self._max_body_bytes} bytes", "send fewer pictures")
            await fault(413, large)(scope, receive, send)
            return
        scope.setdefault("state", {})["token"] = token
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body, or None as soon as it is known to be too large."""
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            return None
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body_bytes:
                return None
        return bytes(body)


_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="a token of `rewardmesh token create`")


def caller(request: Request, wanted: SecurityScopes, _: Annotated[object, Security(_bearer)]) -> Token:
    """The token of the request, which has one of the scopes wanted. Raises ScopeMissing."""
    token: Token = request.state.token
    if not set(wanted.scopes) & set(token.scopes):
        needed = " or ".join(f"`{scope}`" for scope in wanted.scopes)
        raise ScopeMissing(f"this needs the scope {needed}", token.token_id, "use a token that has it")
    return token


Score = Annotated[Token, Security(caller, scopes=["score"])]
Admin = Annotated[Token, Security(caller, scopes=["admin"])]
Rate = Annotated[Token, Security(caller, scopes=["rate"])]
Look = Annotated[Token, Security(caller, scopes=["score", "admin"])]


def _path(scope: Scope) -> str:
    """The path below where the app is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _token_text(authorization: bytes) -> str:
    """The token in the header. Raises TokenRefused if there is none."""
    scheme, _, value = authorization.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    raise TokenRefused("no token was sent", "Authorization", "send `Authorization: Bearer TOKEN`")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the app the body that was read, then whatever else comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
