"""What every request passes, and what every answer carries: own site only, small bodies, a strict policy for browsers."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rewardmesh.wire.errors import AccessError

__all__ = ["HEADERS", "Guard", "own_site"]

MAX_BODY_BYTES: Final = 64 * 1024

#: Nothing inline, nothing from elsewhere. `same-origin` and not `no-referrer`: with that, forms send `Origin: null`.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Bounds bodies (what the oracle's own app takes has its own bounds) and adds the headers.

    A server or proxy that hands paths on with their prefix and does not say so is made up for here.
    """

    def __init__(self, app: ASGIApp, *, base_path: str) -> None:
        self._app = app
        self._base_path = base_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = scope.get("root_path") or self._base_path
        path = str(scope["path"]).removeprefix(scope["root_path"])
        keep = "no-cache" if path.startswith("/static/") else "no-store"  # asked about again; not kept

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", keep)
            await send(message)

        if not path.startswith("/oracle/") and scope["method"] not in {"GET", "HEAD"}:
            length = Headers(scope=scope).get("content-length", "")
            if not length.isdigit() or int(length) > MAX_BODY_BYTES:
                status = 413 if length.isdigit() else 411
                await PlainTextResponse(f"send at most {MAX_BODY_BYTES} bytes", status)(scope, receive, send_guarded)
                return
        await self._app(scope, receive, send_guarded)


async def own_site(request: Request) -> None:
    """Refuses what another site made a browser send. A program sends neither header, and has no cookie of a browser's.

    Raises: AccessError.
    """
    if request.method in {"GET", "HEAD"}:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in {"same-origin", "none"}:
        return
    if site is None and (origin is None or urlsplit(origin).netloc == request.headers.get("host")):
        return
    raise AccessError("this was sent by another site", (origin or "")[:100], "open the page itself, and send it there")
