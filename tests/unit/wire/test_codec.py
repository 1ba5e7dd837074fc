"""Pictures: lossless there and back, and nothing hostile is decoded."""

from __future__ import annotations

import contextlib
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rewardmesh.wire.codec import (
    PNG,
    RAW,
    WEBP,
    choose_media_type,
    decode_picture,
    encode_picture,
    raw_media_type,
)
from rewardmesh.wire.errors import PictureRejected


def picture(width: int = 20, height: int = 10, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["raw", WEBP, PNG]),
)
def test_lossless_there_and_back(width: int, height: int, seed: int, kind: str) -> None:
    media_type = raw_media_type(width, height) if kind == "raw" else kind
    before = picture(width, height, seed)
    after = decode_picture(encode_picture(before, media_type), media_type)
    assert after.dtype == np.uint8
    assert np.array_equal(before, after)


def test_small_pictures_travel_raw_and_large_ones_as_webp() -> None:
    assert choose_media_type(picture(512, 48)) == f"{RAW};width=512;height=48"
    assert choose_media_type(picture(513, 10)) == WEBP


def test_an_array_that_is_a_view_is_encoded_as_seen() -> None:
    view = picture(20, 10)[::2, ::-1]
    for media_type in (raw_media_type(20, 5), WEBP):
        assert np.array_equal(decode_picture(encode_picture(view, media_type), media_type), view)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures(array: Any) -> None:
    with pytest.raises(PictureRejected, match="no picture"):
        encode_picture(array, PNG)
    with pytest.raises(PictureRejected, match="no picture"):
        choose_media_type(array)


@pytest.mark.parametrize("media_type", ["image/jpeg", RAW, raw_media_type(3, 3), "", "image/webp;q=1"])
def test_media_types_that_nobody_reads(media_type: str) -> None:
    with pytest.raises(PictureRejected):
        encode_picture(picture(), media_type)
    with pytest.raises(PictureRejected):
        decode_picture(b"\0" * 600, media_type)


def png_that_claims(width: int, height: int) -> bytes:
    """A few hundred bytes whose header promises a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def webp_that_claims(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (png_that_claims(60_000, 60_000), PNG),
        (png_that_claims(0, 5), PNG),
        (webp_that_claims(16_000, 16_000), WEBP),
        (b"", raw_media_type(100_000, 100_000)),
        (b"", raw_media_type(0, 0)),
    ],
)
def test_bombs_are_refused_by_their_header(data: bytes, media_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in (PngImageFile, WebPImageFile):
        monkeypatch.setattr(reader, "__init__", lambda *_a, **_k: pytest.fail("a bomb was opened"))
    with pytest.raises(PictureRejected, match="pixels"):
        decode_picture(data, media_type)


def saved(format_: str, mode: str = "RGB", frames: int = 1) -> bytes:
    out = BytesIO()
    images = [Image.fromarray(picture(seed=index)).convert(mode) for index in range(frames)]
    images[0].save(out, format=format_, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"this is no picture at all, but it is long enough", PNG),
        (b"this is no picture at all, but it is long enough", WEBP),
        (b"", PNG),
        (b"RIFF", WEBP),
        (saved("PNG"), WEBP),
        (saved("WEBP"), PNG),
        (saved("JPEG"), PNG),
        (saved("PNG")[:-60], PNG),
        (saved("WEBP")[:-200], WEBP),
        (saved("PNG", "RGBA"), PNG),
        (saved("PNG", "I;16"), PNG),
        (saved("PNG", "L"), PNG),
        (saved("PNG", frames=3), PNG),
        (saved("WEBP", frames=3), WEBP),
        (b"\0" * 599, raw_media_type(20, 10)),
        (b"\0" * 601, raw_media_type(20, 10)),
        (png_that_claims(20, 10)[:45], PNG),
    ],
)
def test_what_is_no_picture_of_its_type(data: bytes, media_type: str) -> None:
    with pytest.raises(PictureRejected) as caught:
        decode_picture(data, media_type)
    assert "\n" not in str(caught.value)
    assert caught.value.what_to_do


def test_limits_are_the_callers() -> None:
    data = encode_picture(picture(), PNG)
    with pytest.raises(PictureRejected, match="at most 10 are accepted"):
        decode_picture(data, PNG, max_bytes=10)
    with pytest.raises(PictureRejected, match="20 x 10 pixels"):
        decode_picture(data, PNG, max_pixels=199)
    assert decode_picture(data, PNG, max_pixels=200).shape == (10, 20, 3)


@given(st.binary(max_size=200), st.sampled_from([PNG, WEBP, raw_media_type(4, 4)]), st.booleans())
def test_any_bytes_are_a_picture_or_refused(data: bytes, media_type: str, prefixed: bool) -> None:
    start = {PNG: saved("PNG")[:40], WEBP: saved("WEBP")[:40]}.get(media_type, b"")
    with contextlib.suppress(PictureRejected):
        assert decode_picture(start + data if prefixed else data, media_type).dtype == np.uint8
