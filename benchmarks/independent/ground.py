"""Tells ink from ground: pictures of the world are light shapes on a dark ground without texture.

Owns the colour of the ground and, for each pixel, how much of it is ink and of which named colour. Knows no shape and
no letter.

Axis legend: H, W pixels, C named colours; pictures [H, W, 3] uint8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.worlds.shapes.vocabulary import COLORS

__all__ = ["COLOR_NAMES", "PALETTE", "SCALE", "Floats", "Inked", "Mask", "Picture", "find_ink", "ground_color"]

Picture = NDArray[np.uint8]
Mask = NDArray[np.uint8]
Floats = NDArray[np.float32]

COLOR_NAMES: Final = tuple(COLORS)
PALETTE: Final = np.array(list(COLORS.values()), dtype=np.float32)
"""[C, 3], 0 to 255."""
SCALE: Final = 4
"""Pictures are taken apart this many times larger than they are, so that outlines lie between pixels."""
_MAX_SHARE = 1.2  # an overshoot of a named colour is still that colour
_MIN_CONTRAST = 40.0
"""Brightness between the two parts of a picture, of 255, below which it is all ground."""


@dataclass(frozen=True)
class Inked:
    """A picture taken apart, SCALE times larger."""

    pixels: Floats
    """[H, W, 3], 0 to 255."""
    coverage: Floats
    """[H, W]: how far a pixel is on the way from the ground to the named colour that fits it best; 0 none, 1 there."""
    color: NDArray[np.intp]
    """[H, W], index of that colour in COLOR_NAMES."""
    ground: Floats
    """[3]."""

    @property
    def mask(self) -> Mask:
        """[H, W], 1 where more than half of a pixel is ink."""
        return (self.coverage > 0.5).astype(np.uint8)


def ground_color(picture: Picture) -> Floats:
    """[3]: the median of the darker part of a picture, the parts being those that Otsu's threshold makes."""
    brightest = np.ascontiguousarray(picture.max(2))
    threshold, _ = cv2.threshold(brightest, 0, 255, cv2.THRESH_OTSU)
    dark = brightest <= threshold
    if dark.all() or not dark.any() or brightest[~dark].mean() - brightest[dark].mean() < _MIN_CONTRAST:
        dark = np.ones_like(dark)
    return np.asarray(np.median(picture[dark], axis=0), dtype=np.float32)


def find_ink(picture: Picture) -> Inked:
    """Unmixes every pixel into ground and one named colour.

    Pixel = ground + coverage x (colour - ground) + rest; of the colours, the one that leaves the least rest. An edge
    of blue that covers a pixel by half is so told from a whole pixel of something fainter.
    """
    ground = ground_color(picture)
    height, width = picture.shape[:2]
    size = (width * SCALE, height * SCALE)
    large = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_CUBIC).clip(0, 255)
    towards = PALETTE - ground
    lengths = np.square(towards).sum(1)
    along = (large - ground) @ towards.T
    share = (along / lengths).clip(0, _MAX_SHARE)
    color = (share * (2 * along - share * lengths)).argmax(2)  # |offset - share x towards|² is least there
    coverage = np.take_along_axis(share, color[..., None], 2)[..., 0].clip(0, 1)
    return Inked(large.astype(np.float32), coverage.astype(np.float32), color, ground)
