"""Bombs, liars and oversize requests against the real app in a real process: the answer to each, and its cost.

Each is refused: as a picture that fails alone (`invalid_picture`), or as a request (400, 413). One is scored: a picture
with surplus data behind its pixels, of which nothing is opened. The figure is by how much the process's peak of
resident memory exceeds what it held before the request, on Linux. A body is read whole before it is judged, so the
largest of these cost a few times the body; opening what they claim to hold would cost far more.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.record import Figure, parser, report
from rewardmesh import oracle
from rewardmesh.kit.app import AppLimits
from rewardmesh.wire.codec import MAX_BYTES, MAX_PIXELS, PNG, WEBP, raw_media_type

__all__ = ["CASES", "Case", "Served", "brightness", "outcome_of", "serving"]

_MAX_BATCH = 64
_MIB = 1024 * 1024
_GREY = np.full((8, 8, 3), 128, np.uint8)


@oracle(name="brightness", version="1", max_batch=_MAX_BATCH)
def brightness(pictures: Any, prompts: Any, checks: Any) -> list[float]:  # noqa: ARG001 - looks at pictures only
    """What the process serves."""
    return [float(picture.mean() / 255) for picture in pictures]


@dataclass(frozen=True)
class Case:
    """A request, made when it is needed, and how it must be refused."""

    name: str
    refused: str  # "invalid_picture", or the status
    request: Callable[[], dict[str, Any]]  # arguments of httpx's post


@dataclass(frozen=True)
class Served:
    """The process that serves."""

    url: str
    process: psutil.Process

    def ask(self, request: dict[str, Any]) -> tuple[str, float]:
        """How the request was refused, and by how many MiB the peak of resident memory grew meanwhile."""
        before = self.process.memory_info().rss
        proc = Path(f"/proc/{self.process.pid}")
        (proc / "clear_refs").write_text("5")  # the peak starts again from here
        response = httpx.post(f"{self.url}/v1/score", trust_env=False, timeout=120, **request)
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", (proc / "status").read_text())
        return outcome_of(response), max(0, int(peak) * 1024 - before) / _MIB


def outcome_of(response: httpx.Response) -> str:
    """How a request was refused: its status, or the code that all of its samples got."""
    if response.status_code != httpx.codes.OK:
        return str(response.status_code)
    return ", ".join(sorted({result.get("code", result["kind"]) for result in response.json()["results"]}))


@contextmanager
def serving() -> Iterator[Served]:
    """`python -m rewardmesh.kit benchmarks.bombs:brightness`, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "rewardmesh.kit", "benchmarks.bombs:brightness", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                if httpx.get(f"{url}/v1/health", trust_env=False).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield Served(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def _items(media_type: str, number: int, **picture: Any) -> dict[str, Any]:
    sample = {
        "run_id": "r",
        "group_id": "g",
        "policy_version": 0,
        "boundary_index": 0,
        "prompt": "",
        "checks": {"tag": "t"},
    }
    items = [
        {"sample": sample | {"sample_id": f"s{index}"}, "media_type": media_type, **(picture or {"picture": "p"})}
        for index in range(number)
    ]
    return {"oracle": "brightness", "items": items}


def _parts(media_type: str, data: bytes, number: int = 1) -> dict[str, Any]:
    """A batch whose items all name one part."""
    return {"files": {"request": (None, json.dumps(_items(media_type, number)), "application/json"), "p": ("p", data)}}


def _json(body: str | bytes | Iterator[bytes], coding: str = "identity") -> dict[str, Any]:
    return {"content": body, "headers": {"Content-Type": "application/json", "Content-Encoding": coding}}


def _inline(text: str) -> dict[str, Any]:
    return _json(json.dumps(_items(PNG, 1, picture_base64=text)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, *, kind: tuple[int, int] = (8, 2), extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0)
    data = _chunk(b"IDAT", zlib.compress(pixels, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + data


def _zeros(width: int, height: int, channels: int = 3) -> bytes:
    return bytes((width * channels + 1) * height)


def _saved(kind: str, *, mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
    out = BytesIO()
    images = [Image.fromarray(_GREY + 40 * index).convert(mode) for index in range(frames)]
    images[0].save(out, format=kind, append_images=images[1:], save_all=frames > 1, **options)
    return out.getvalue()


def _webp_that_claims(width: int, height: int) -> bytes:
    """A still lossless WebP in an extended container whose canvas is said to be of another size."""
    still = _saved("WEBP", lossless=True)[12:]
    canvas = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas + still
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunked(size: int) -> Iterator[bytes]:
    for _ in range(size // _MIB):
        yield b"x" * _MIB


def _bomb_in(kind: bytes) -> bytes:
    """A PNG of 8 × 8 with a chunk beside the pixels that inflates to 256 MiB."""
    inflated = zlib.compress(bytes(256 * _MIB), 9)
    return _png(8, 8, _zeros(8, 8), extra=_chunk(kind, b"name\0\0" + inflated))


_BODY = AppLimits().max_body_bytes
_PICTURE = "invalid_picture"
CASES = (
    Case("PNG that claims 60000 × 60000", _PICTURE, lambda: _parts(PNG, _png(60_000, 60_000, b""))),
    Case("PNG that claims 20000 × 20000, 1.2 GB opened", _PICTURE, lambda: _parts(PNG, _png(20_000, 20_000, b""))),
    Case("PNG one row above the limit", _PICTURE, lambda: _parts(PNG, _png(4096, 4097, _zeros(4096, 4097)))),
    Case("PNG whose pixels inflate to 256 MiB", "scored", lambda: _parts(PNG, _png(8, 8, bytes(256 * _MIB)))),
    Case("PNG whose text inflates to 256 MiB", _PICTURE, lambda: _parts(PNG, _bomb_in(b"zTXt"))),
    Case("PNG of 0 × 0", _PICTURE, lambda: _parts(PNG, _png(0, 0, b""))),
    Case("PNG cut off in its pixels", _PICTURE, lambda: _parts(PNG, _png(64, 64, _zeros(64, 64))[:45])),
    Case("PNG, only the header", _PICTURE, lambda: _parts(PNG, _png(8, 8, b"")[:33])),
    Case("PNG of 16 bits", _PICTURE, lambda: _parts(PNG, _png(8, 8, _zeros(8, 8, 2), kind=(16, 0)))),
    Case("PNG with transparency", _PICTURE, lambda: _parts(PNG, _saved("PNG", mode="RGBA"))),
    Case("PNG with a palette", _PICTURE, lambda: _parts(PNG, _saved("PNG", mode="P"))),
    Case("animated PNG", _PICTURE, lambda: _parts(PNG, _saved("PNG", frames=3))),
    Case("animated WebP", _PICTURE, lambda: _parts(WEBP, _saved("WEBP", frames=3))),
    Case("WebP that claims 16384 × 16384", _PICTURE, lambda: _parts(WEBP, _webp_that_claims(16_384, 16_384))),
    Case("WebP whose two headers disagree", _PICTURE, lambda: _parts(WEBP, _webp_that_claims(64, 64))),
    Case("JPEG said to be PNG", _PICTURE, lambda: _parts(PNG, _saved("JPEG"))),
    Case("PNG said to be WebP", _PICTURE, lambda: _parts(WEBP, _saved("PNG"))),
    Case("GIF", _PICTURE, lambda: _parts("image/gif", _saved("GIF"))),
    Case("TIFF said to be PNG", _PICTURE, lambda: _parts(PNG, _saved("TIFF"))),
    Case("SVG", _PICTURE, lambda: _parts("image/svg+xml", b"<svg/>")),
    Case("raw that claims 60000 × 60000", _PICTURE, lambda: _parts(raw_media_type(60_000, 60_000), b"\0" * 192)),
    Case("raw, one byte short", _PICTURE, lambda: _parts(raw_media_type(8, 8), b"\0" * 191)),
    Case("raw without a size", _PICTURE, lambda: _parts("application/x-raw-rgb", b"\0" * 192)),
    Case("picture above 32 MiB", _PICTURE, lambda: _parts(PNG, bytes(MAX_BYTES + 1))),
    Case(
        f"{_MAX_BATCH} small PNGs of 4096 × 4096", "413",
        lambda: _parts(PNG, _png(4096, MAX_PIXELS // 4096, _zeros(4096, 4096)), _MAX_BATCH),
    ),
    Case("body above 64 MiB, length declared", "413", lambda: _json(bytes(_BODY + 1))),
    Case("body above 64 MiB, in chunks", "413", lambda: _json(_chunked(_BODY + _MIB))),
    Case("body of 64 MiB that is no JSON", "400", lambda: _json(bytes(_BODY))),
    Case("JSON nested 1,000,000 deep", "400", lambda: _json("[" * 1_000_000)),
    Case("base64 of 48 MiB", _PICTURE, lambda: _inline(base64.b64encode(bytes(36 * _MIB)).decode())),
    Case("base64 that is none", _PICTURE, lambda: _inline("*" * 1000)),
    Case("multipart of 10,000 parts", "400", lambda: {"files": [(f"p{i}", (None, b"")) for i in range(10_000)]}),
    Case("gzip that inflates to 256 MiB", "400", lambda: _json(zlib.compress(bytes(256 * _MIB)), coding="gzip")),
)  # fmt: skip


def main() -> int:
    """Prints the table; 1 if anything was not refused as it must be."""
    given = parser(__doc__)
    given.set_defaults(repetitions=1)
    arguments = given.parse_args()
    figures, wrong = [], 0
    with serving() as served:
        for case in CASES:
            asked = [served.ask(case.request()) for _ in range(arguments.repetitions)]
            refused = ", ".join(sorted({outcome for outcome, _ in asked}))
            wrong += refused != case.refused
            figures.append(
                Figure(
                    case.name, "MiB", [grown for _, grown in asked], refused, extra={"right": refused == case.refused}
                )
            )
    report("bombs", figures, json_file=arguments.json, title="benchmarks.bombs: growth of the app's peak memory")
    print(f"{len(CASES)} cases, {wrong} answered otherwise than they must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
