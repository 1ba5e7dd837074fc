"""Names the colour of a detected object from the crop of its box.

Two judges with one shape: `ColorNet`, a small classifier trained on the shapes world, and `ClipColorJudge`, zero-shot
CLIP as GenEval asks it. Neither masks the background of the crop (GenEval does, with its segmentation masks, which a
box detector does not have).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torchvision.ops import roi_align

from rewardmesh.wire.errors import WeightsMissing
from services.oracles.geneval import COLORS

__all__ = ["CROP_SIZE", "ClipColorJudge", "ColorJudge", "ColorNet", "Crop", "NetColorJudge", "cut"]

CROP_SIZE = 16
_WIDTH = 24
_MAX_CROPS = 64  # of CLIP at once


class Crop(NamedTuple):
    """One object to name the colour of: its picture [H, W, 3] uint8, its box in that picture's pixels, its class."""

    picture: np.ndarray
    box: tuple[float, float, float, float]
    class_name: str


class ColorJudge(Protocol):
    """Anything that names colours, in one batch."""

    def colors(self, crops: Sequence[Crop]) -> list[str]:
        """One name of `geneval.COLORS` a crop."""


def cut(pictures: torch.Tensor, index: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Crops resized to a square, bilinear.

    Shapes: pictures [B, 3, H, W] float32; index [N] int64 into B; boxes [N, 4] x1, y1, x2, y2 in pixels;
    returns [N, 3, CROP_SIZE, CROP_SIZE].
    """
    rows = torch.cat((index[:, None].to(boxes.dtype), boxes), 1)
    crops: torch.Tensor = roi_align(pictures, rows, CROP_SIZE, sampling_ratio=2, aligned=True)
    return crops


class ColorNet(nn.Module):
    """Three convolutions, a mean and a linear layer: crops [N, 3, CROP_SIZE, CROP_SIZE] in [0, 1] to logits [N, C]."""

    def __init__(self, num_colors: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classify = nn.Linear(2 * _WIDTH, num_colors)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classify(self.features(crops * 2 - 1))
        return logits


class NetColorJudge:
    """`ColorNet` with its colour names, from our `.safetensors`."""

    def __init__(self, network: ColorNet, names: Sequence[str], *, device: str = "cpu") -> None:
        self.names = tuple(names)
        self._device = torch.device(device)
        self._network = network.to(self._device).float().eval()

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu") -> NetColorJudge:
        """Raises: WeightsMissing if the file is not there or does not hold a colour classifier."""
        if not path.is_file():
            raise WeightsMissing("colour weights are missing", str(path), "name a file that exists")
        try:
            with safe_open(str(path), framework="pt") as file:
                names = json.loads(file.metadata()["names"])
                state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
            network = ColorNet(len(names))
            network.load_state_dict(state)
        except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise WeightsMissing("colour weights cannot be read", str(path), "make them anew") from error
        return cls(network, names, device=device)

    @torch.inference_mode()
    def colors(self, crops: Sequence[Crop]) -> list[str]:
        if not crops:
            return []
        best = self._network(torch.cat(self._cut(crops))).argmax(1)
        return [self.names[index] for index in best.tolist()]

    def _cut(self, crops: Sequence[Crop]) -> list[torch.Tensor]:
        """Crops in order; pictures of one size are cut in one call."""
        boxes = torch.tensor([crop.box for crop in crops], dtype=torch.float32, device=self._device)
        if len({crop.picture.shape for crop in crops}) > 1:
            first = torch.zeros(1, dtype=torch.int64, device=self._device)
            return [cut(self._floats([crop.picture]), first, boxes[i : i + 1]) for i, crop in enumerate(crops)]
        pictures = self._floats([crop.picture for crop in crops])
        return [cut(pictures, torch.arange(len(crops), device=self._device), boxes)]

    def _floats(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(pictures)).to(self._device)
        return stacked.permute(0, 3, 1, 2).float() / 255


class ClipColorJudge:
    """Zero-shot CLIP among GenEval's ten colours, with its three templates averaged as text embeddings."""

    TEMPLATES = ("a photo of a {color} {cls}", "a photo of a {color}-colored {cls}", "a photo of a {color} object")

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Loads a transformers CLIP from a local folder. Raises: WeightsMissing if it is not one."""
        from transformers import CLIPModel, CLIPProcessor  # noqa: PLC0415 - seconds of import

        if not (folder / "config.json").is_file():
            raise WeightsMissing("CLIP folder is missing or holds no config.json", str(folder), "name a local folder")
        try:
            self._model: Any = CLIPModel.from_pretrained(str(folder), local_files_only=True).to(device).eval()
            self._processor: Any = CLIPProcessor.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise WeightsMissing(
                "CLIP folder cannot be read", str(folder), "save a CLIPModel with its processor"
            ) from error
        self._device = torch.device(device)
        self._text = lru_cache(maxsize=256)(self._embed_text)

    @torch.inference_mode()
    def colors(self, crops: Sequence[Crop]) -> list[str]:
        named: list[str] = []
        for start in range(0, len(crops), _MAX_CROPS):
            part = crops[start : start + _MAX_CROPS]
            pixels = self._processor(images=[_cut_pixels(crop) for crop in part], return_tensors="pt")["pixel_values"]
            seen = _unit(_features(self._model.get_image_features(pixel_values=pixels.to(self._device))))
            for row, crop in zip(seen, part, strict=True):
                named.append(COLORS[int((self._text(crop.class_name) @ row).argmax())])
        return named

    def _embed_text(self, class_name: str) -> torch.Tensor:
        """Unit embeddings [10, D], one a colour: mean over the templates."""
        texts = [t.format(color=color, cls=class_name) for color in COLORS for t in self.TEMPLATES]
        tokens = self._processor(text=texts, return_tensors="pt", padding=True).to(self._device)
        embedded = _unit(_features(self._model.get_text_features(**tokens)))
        return _unit(embedded.view(len(COLORS), len(self.TEMPLATES), -1).mean(1))


def _cut_pixels(crop: Crop) -> np.ndarray:
    """The crop as it is, at least one pixel wide and high."""
    height, width = crop.picture.shape[:2]
    x1, y1 = min(int(crop.box[0]), width - 1), min(int(crop.box[1]), height - 1)
    x2, y2 = max(round(crop.box[2]), x1 + 1), max(round(crop.box[3]), y1 + 1)
    return crop.picture[y1:y2, x1:x2]


def _features(output: Any) -> torch.Tensor:
    """Embeddings; newer transformers return them as `pooler_output` of a structure."""
    embedded: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return embedded


def _unit(embedded: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = embedded / embedded.norm(dim=-1, keepdim=True)
    return unit
