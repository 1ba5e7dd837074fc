"""Reads one `POST /v1/score`: multipart or base64 JSON, within limits, into a batch and the bytes of its pictures.

What is wrong with the request as a whole is raised as `Refused`, with the status that the protocol gives it. What is
wrong with one picture is that sample's business and is left to the app.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from fastapi import Request
from pydantic import ValidationError

from rewardmesh.kit.multipart import split_parts
from rewardmesh.kit.refused import Refused
from rewardmesh.wire.messages import ScoreBatch
from rewardmesh.wire.strict_json import load_json

__all__ = ["ScoreCall", "read_call"]

_REQUEST_PART = "request"


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """A batch and, item by item, the bytes of its pictures; None where base64 could not be read."""

    batch: ScoreBatch
    pictures: tuple[bytes | None, ...]


async def read_call(request: Request, *, max_body_bytes: int) -> ScoreCall:
    """Reads and checks the body. Raises: Refused with 400, 413, 415 or 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"multipart/form-data", "application/json"}:
        raise Refused(415, "content type is not readable", kind[:100], "send multipart/form-data or application/json")
    body = await _read_body(request, max_body_bytes)
    if kind == "application/json":
        batch = _read_batch(body)
        return ScoreCall(batch, tuple(_decode(item.picture_base64) for item in batch.items))
    parts = _read_parts(request.headers["content-type"], body)
    if _REQUEST_PART not in parts:
        raise Refused(400, "part is missing", _REQUEST_PART, "send the ScoreBatch as the part `request`")
    batch = _read_batch(parts[_REQUEST_PART])
    pictures: list[bytes | None] = []
    for item in batch.items:
        if item.picture is None:
            pictures.append(_decode(item.picture_base64))
        elif item.picture in parts:
            pictures.append(parts[item.picture])
        else:
            raise Refused(400, "part is missing", item.picture[:100], "send each picture that an item names")
    return ScoreCall(batch, tuple(pictures))


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; more than `max_bytes` is refused as soon as it is known, by its length or as it arrives."""
    too_large = Refused(413, "body is too large", f"more than {max_bytes} bytes", "send fewer or smaller pictures")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def _read_batch(text: bytes) -> ScoreBatch:
    try:
        load_json(text)  # strict JSON or not at all: 400 where it is none, 422 where it is another message
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"request is not JSON: {error}"[:300], _REQUEST_PART, "send strict JSON") from error
    try:
        return ScoreBatch.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or _REQUEST_PART
        raise Refused(422, f"request is not a ScoreBatch: {first['msg']}", place, "see docs/protocol.md") from error


def _read_parts(content_type: str, body: bytes) -> dict[str, bytes]:
    try:
        return split_parts(content_type, body)
    except ValueError as error:
        raise Refused(400, "multipart body cannot be read", str(error)[:200], "send well-formed parts") from error


def _decode(text: str | None) -> bytes | None:
    try:
        return base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return None
