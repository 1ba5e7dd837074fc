"""What can go wrong with a picture, as functions: to see that a reader still reads and that a measure notices.

Each keeps shape and type. Axis legend: N pictures, [N, H, W, 3] uint8.
"""

from __future__ import annotations

import cv2
import numpy as np

from trainer.evaluate import Pictures

__all__ = ["blurred", "drifted", "dulled", "noisy"]


def blurred(pictures: Pictures, sigma: float) -> Pictures:
    """Gaussian blur, `sigma` in pixels."""
    return np.stack([np.asarray(cv2.GaussianBlur(one, (0, 0), sigma), dtype=np.uint8) for one in pictures])


def noisy(pictures: Pictures, deviation: float, rng: np.random.Generator) -> Pictures:
    """Independent normal noise in every channel, `deviation` in grey levels of 255."""
    return _bytes(pictures + rng.normal(0.0, deviation, pictures.shape))


def drifted(pictures: Pictures, share: float) -> Pictures:
    """Colours on the way to the next channel's: red towards green, green towards blue, blue towards red; 0 none."""
    return _bytes((1 - share) * pictures.astype(np.float64) + share * np.roll(pictures, 1, axis=3))


def dulled(pictures: Pictures, share: float) -> Pictures:
    """Contrast and brightness taken away: every value times 1 - `share`."""
    return _bytes((1 - share) * pictures.astype(np.float64))


def _bytes(values: np.ndarray) -> Pictures:
    return values.round().clip(0, 255).astype(np.uint8)
