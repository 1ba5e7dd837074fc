"""Reads a picture's word with PP-OCRv6, a text recogniser that is not the oracle's in network, training or runtime.

The weights come inside the package `rapidocr` (Apache-2.0, as its list of models says) and run on ONNX Runtime. Of the
package only that file is used: none of its code is run, which would fetch what it does not find. Owns how a picture is
made into a line of text, and the decoding: letters only, the likeliest at each place.

Axis legend: N lines; T places along a line, A letters.
"""

from __future__ import annotations

import importlib.util
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.independent.ground import SCALE, Floats, Picture, find_ink
from rewardmesh.wire.errors import WeightsMissing

__all__ = ["WordReader", "line_of"]

_MODEL: Final = "models/PP-OCRv6_rec_small.onnx"
_HEIGHT: Final = 48  # what the recogniser was trained at
_WIDTH: Final = 160
_MARGIN = 0.25  # of the ink's height, left free around it
_MIN_INK = 20  # square pixels of the picture


class WordReader:
    """The recogniser, loaded once."""

    def __init__(self) -> None:
        """Raises: WeightsMissing."""
        path = _model_file()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self._input,) = (one.name for one in self._session.get_inputs())
        characters = ["", *self._session.get_modelmeta().custom_metadata_map["character"].splitlines()]
        self._columns = [0] + [characters.index(letter) for letter in string.ascii_letters]
        self._letters = ["", *string.ascii_letters.upper()]

    def read(self, pictures: Sequence[Picture]) -> list[str]:
        """The word in each picture, in capitals; nothing where there is no ink."""
        lines = [line_of(picture) for picture in pictures]
        inked = [index for index, line in enumerate(lines) if line is not None]
        words = [""] * len(lines)
        if inked:
            batch = np.stack([line for line in lines if line is not None])
            for index, odds in zip(inked, self._session.run(None, {self._input: batch})[0], strict=True):
                words[index] = self._decoded(odds)
        return words

    def _decoded(self, odds: NDArray[np.float32]) -> str:
        """Greedy connectionist decoding of [T, all characters] among letters: repeats are one, blanks part them."""
        best = odds[:, self._columns].argmax(1)
        kept = [index for place, index in enumerate(best) if place == 0 or index != best[place - 1]]
        return "".join(self._letters[index] for index in kept)


def line_of(picture: Picture) -> Floats | None:
    """A picture's ink as dark text on white, [3, _HEIGHT, _WIDTH] in [-1, 1]; None where there is none."""
    coverage = find_ink(picture).coverage
    mask = (coverage > 0.5).astype(np.uint8)
    if mask.sum() < _MIN_INK * SCALE**2:
        return None
    x, y, width, height = cv2.boundingRect(mask)
    margin = round(_MARGIN * height)
    padded = cv2.copyMakeBorder(coverage, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0.0)
    crop = padded[y : y + height + 2 * margin, x : x + width + 2 * margin]
    factor = min(_HEIGHT / crop.shape[0], _WIDTH / crop.shape[1])
    size = (max(1, round(crop.shape[1] * factor)), max(1, round(crop.shape[0] * factor)))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    line = np.ones((_HEIGHT, _WIDTH), np.float32)
    top = (_HEIGHT - size[1]) // 2
    line[top : top + size[1], : size[0]] = 1 - 2 * small
    return np.repeat(line[None], 3, axis=0)


def _model_file() -> Path:
    found = importlib.util.find_spec("rapidocr")
    folders = list(found.submodule_search_locations or ()) if found else []
    path = Path(folders[0]) / _MODEL if folders else Path(_MODEL)
    if not path.is_file():
        raise WeightsMissing("the second reader's weights are missing", str(path), "install rapidocr")
    return path
