"""The pictures that a service is probed with: one plain, one smooth, one that nothing compresses; always the same."""

from __future__ import annotations

import numpy as np

from rewardmesh.wire.codec import RAW, Picture, encode_picture, raw_media_type

__all__ = ["encoded", "gradient", "grey", "noise"]


def encoded(picture: Picture, kind: str) -> tuple[str, bytes]:
    """The picture's media type, with its size where the kind wants it, and its bytes."""
    height, width = picture.shape[:2]
    media_type = raw_media_type(width, height) if kind == RAW else kind
    return media_type, encode_picture(picture, media_type)


def grey(side: int) -> Picture:
    """Every pixel the same."""
    return np.full((side, side, 3), 128, np.uint8)


def gradient(side: int) -> Picture:
    """Smooth in both directions."""
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    return np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), 64, np.uint8)], -1
    )


def noise(side: int) -> Picture:
    """The same noise every time: the least that any codec can compress."""
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
