"""Pictures to bytes and back. Lossless only; what claims to be a picture is checked before it is opened.

    application/x-raw-rgb;width=W;height=H      up to 512 pixels a side: no codec pays for the bytes that it saves
    image/webp                                  above: lossless, quality 0, method 0, the best of size and time
    image/png                                   for services that read nothing else

A picture is [H, W, 3] uint8, RGB. Bombs, animations and bytes of another format than they claim to be are refused by
reading the header, before any pixel is decoded.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, WebPImagePlugin

from rewardmesh.wire.errors import PictureRejected

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "PNG",
    "RAW",
    "WEBP",
    "Picture",
    "choose_media_type",
    "decode_picture",
    "encode_picture",
    "raw_media_type",
]

Picture = NDArray[np.uint8]

WEBP: Final = "image/webp"
PNG: Final = "image/png"
RAW: Final = "application/x-raw-rgb"  # always with ;width=W;height=H
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_PIXELS: Final = 4096 * 4096
RAW_UP_TO: Final = 512  # pixels a side

_RAW_PATTERN = re.compile(rf"{re.escape(RAW)};width=(\d{{1,6}});height=(\d{{1,6}})")
#: Opened by class, not by `Image.open`: that guesses the format, and other packages replace it.
_READERS: Final = {WEBP: WebPImagePlugin.WebPImageFile, PNG: PngImagePlugin.PngImageFile}


def raw_media_type(width: int, height: int) -> str:
    """The media type of raw pixels, row by row, RGB."""
    return f"{RAW};width={width};height={height}"


def choose_media_type(picture: Picture) -> str:
    """The media type that our own processes use for a picture of this size."""
    height, width = _require_picture(picture)
    return raw_media_type(width, height) if max(width, height) <= RAW_UP_TO else WEBP


def encode_picture(picture: Picture, media_type: str) -> bytes:
    """Lossless bytes of a picture [H, W, 3] uint8.

    Raises: PictureRejected if the array is no such picture, or the media type is unknown or names another size.
    """
    height, width = _require_picture(picture)
    if media_type == raw_media_type(width, height):
        return np.ascontiguousarray(picture).tobytes()
    if media_type not in _READERS:
        raise _unknown(media_type)
    out = BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    if media_type == WEBP:
        image.save(out, format="WEBP", lossless=True, quality=0, method=0)
    else:
        image.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def decode_picture(
    data: bytes, media_type: str, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Picture:
    """The picture [H, W, 3] uint8 that the bytes hold.

    Raises: PictureRejected for bytes that are no picture, another format than claimed, animated, not 8-bit RGB, or
    larger than the limits; sizes are judged by the header, before anything is decoded.
    """
    if len(data) > max_bytes:
        raise PictureRejected(
            f"{len(data)} bytes; at most {max_bytes} are accepted", media_type, "send a smaller picture"
        )
    width, height = _claimed_size(data, media_type)
    if not 0 < width * height <= max_pixels:
        what = f"{width} x {height} pixels; between 1 and {max_pixels} are accepted"
        raise PictureRejected(what, media_type, "send a smaller picture")
    if media_type not in _READERS:
        if len(data) != width * height * 3:
            what = f"{len(data)} bytes do not hold {width} x {height} RGB pixels"
            raise PictureRejected(what, media_type, "send width * height * 3 bytes")
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)
    return _decode_image(data, media_type, (width, height))


def _decode_image(data: bytes, media_type: str, size: tuple[int, int]) -> Picture:
    try:
        with _READERS[media_type](BytesIO(data)) as image:
            if image.size != size or getattr(image, "n_frames", 1) != 1:
                raise PictureRejected("animated, or its headers disagree", media_type, "send a single picture")
            if image.mode != "RGB":
                raise PictureRejected(f"its pixels are {image.mode}", media_type, "convert it to 8-bit RGB")
            return np.asarray(image)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise PictureRejected(f"cannot be decoded: {error}", media_type, "send an intact picture") from error


def _claimed_size(data: bytes, media_type: str) -> tuple[int, int]:
    """Width and height that the media type (raw) or the header names; (0, 0) is not a size."""
    if raw := _RAW_PATTERN.fullmatch(media_type):
        return int(raw[1]), int(raw[2])
    if media_type not in _READERS:
        raise _unknown(media_type)
    try:
        return _png_size(data) if media_type == PNG else _webp_size(data)
    except (struct.error, IndexError, KeyError) as error:
        raise PictureRejected("not a picture of that type", media_type, "name the type that the bytes have") from error


def _png_size(data: bytes) -> tuple[int, int]:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise KeyError("signature")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise KeyError("signature")
    chunk = data[12:16]
    if chunk == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        width, height = data[24:27], data[27:30]
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if chunk == b"VP8 ":
        width_bits, height_bits = struct.unpack("<HH", data[26:30])
        return width_bits & 0x3FFF, height_bits & 0x3FFF
    raise KeyError(chunk)


def _require_picture(picture: Picture) -> tuple[int, int]:
    """Height and width of an array that is a picture."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        what = f"an array {picture.shape} {picture.dtype} is no picture"
        raise PictureRejected(what, "encode", "give [H, W, 3] uint8")
    return picture.shape[0], picture.shape[1]


def _unknown(media_type: str) -> PictureRejected:
    known = f"use {WEBP}, {PNG} or {RAW};width=W;height=H"
    return PictureRejected("unknown media type", media_type[:100], known)
