"""A YOLO detector as a plain function from pictures to detections.

Owns building the network, loading weights and decoding boxes in one batch. It knows no prompt and no rule. Two kinds
of weights: ours (`.safetensors`, the network's description and class names in the header, no pickle) and any
ultralytics checkpoint (`.pt`, a pickle that ultralytics opens: load only files that you trust).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional
from torchvision.ops import batched_nms

from rewardmesh.wire.errors import WeightsMissing
from services.oracles.geneval import Detection

__all__ = ["GENEVAL_NAMES", "Detector", "build_network", "prepare_ultralytics"]

#: COCO's class names as ultralytics writes them, where GenEval's differ.
GENEVAL_NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}

_PAD = 114 / 255  # the grey that ultralytics pads with
_MAX_BOXES = 300  # a picture, before classes are told apart
_END_TO_END_COLUMNS = 6
#: What opening a file that is no checkpoint raises, in torch and in ultralytics.
_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, ImportError)


def prepare_ultralytics() -> None:
    """Keeps ultralytics off the network and its settings out of the user's own; call it before its first import."""
    import platformdirs  # noqa: PLC0415 - only where ultralytics is about to be loaded, which takes seconds anyway

    os.environ.setdefault("YOLO_OFFLINE", "1")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(platformdirs.user_cache_path("rewardmesh") / "ultralytics"))
    os.environ.setdefault("YOLO_VERBOSE", "false")


def build_network(description: dict[str, Any]) -> nn.Module:
    """An ultralytics DetectionModel from its description (the content of a model YAML), with fresh weights."""
    prepare_ultralytics()
    from ultralytics.nn.tasks import DetectionModel  # noqa: PLC0415 - seconds of import, and see prepare_ultralytics

    network: nn.Module = DetectionModel(json.loads(json.dumps(description)), verbose=False)
    return network


class Detector:
    """Finds objects: a network, its class names, and the side of the square that pictures are resized to."""

    def __init__(self, network: nn.Module, names: Sequence[str], *, size: int, device: str = "cpu") -> None:
        self.names = tuple(names)
        self.size = size
        self._device = torch.device(device)
        self._network = network.to(self._device).float().eval()

    @classmethod
    def load(cls, path: Path, *, size: int | None = None, device: str = "cpu") -> Detector:
        """Loads `.safetensors` of ours or an ultralytics `.pt`; `size` overrides what the file says (640 for `.pt`).

        Raises: WeightsMissing if the file is not there or cannot be read as weights.
        """
        if not path.is_file():
            raise WeightsMissing("detector weights are missing", str(path), "name a file that exists")
        try:
            if path.suffix == ".safetensors":
                return cls._load_safetensors(path, size, device)
            return cls._load_ultralytics(path, size, device)
        except (*_UNREADABLE, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeightsMissing(
                f"detector weights cannot be read: {reason}",
                str(path),
                "use .safetensors of ours or an ultralytics .pt",
            ) from error

    @classmethod
    def _load_safetensors(cls, path: Path, size: int | None, device: str) -> Detector:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata()
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
        network = build_network(json.loads(header["network"]))
        missing, unexpected = network.load_state_dict(state, strict=False)
        # Integer counters of batch norm are not stored.
        if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
            raise ValueError(f"weights do not fit the network described beside them: {(missing or unexpected)[0]}")
        return cls(_fuse(network), json.loads(header["names"]), size=size or int(header["size"]), device=device)

    @classmethod
    def _load_ultralytics(cls, path: Path, size: int | None, device: str) -> Detector:
        prepare_ultralytics()
        from ultralytics import YOLO  # noqa: PLC0415 - see prepare_ultralytics

        network = YOLO(str(path), task="detect").model
        names = [GENEVAL_NAMES.get(name, name) for _, name in sorted(network.names.items())]
        return cls(_fuse(network), names, size=size or 640, device=device)

    @torch.inference_mode()
    def detect(
        self, pictures: Sequence[np.ndarray], *, min_confidence: float, max_overlap: float, across_classes: bool
    ) -> list[list[Detection]]:
        """Boxes of every picture, most confident first, in the picture's own pixels.

        Shapes: pictures [H, W, 3] uint8, of any sizes. A box that overlaps a more confident one by more than
        `max_overlap` (intersection over union) is dropped, for YOLO proposes each object many times: one of its own
        class, or `across_classes` any, for it may propose an object under two names.
        """
        if not pictures:
            return []
        batch, scales = self._prepare(pictures)
        output = self._network(batch)
        raw = output[0] if isinstance(output, tuple) else output
        decode = _decode_end_to_end if raw.shape[-1] == _END_TO_END_COLUMNS else _decode
        found = decode(raw, min_confidence)
        owners, scores, labels, boxes = found
        groups = owners if across_classes else owners * len(self.names) + labels
        kept = batched_nms(boxes, scores, groups, max_overlap)
        detections: list[list[Detection]] = [[] for _ in pictures]
        for index, confidence, label, corners in zip(*(column[kept].tolist() for column in found), strict=True):
            height, width = pictures[index].shape[:2]
            x1, y1, x2, y2 = (corner / scales[index] for corner in corners)
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            detections[index].append(Detection(self.names[label], confidence, box))
        return detections

    def _prepare(self, pictures: Sequence[np.ndarray]) -> tuple[torch.Tensor, list[float]]:
        """Pictures resized with their aspect kept and padded to the square; the factor each was resized by."""
        if len({picture.shape for picture in pictures}) == 1:
            whole, scale = _fit(torch.from_numpy(np.stack(pictures)), self.size, self._device)
            return whole, [scale] * len(pictures)
        parts = [_fit(torch.tensor(picture)[None], self.size, self._device) for picture in pictures]
        return torch.cat([part for part, _ in parts]), [scale for _, scale in parts]


def _fuse(network: nn.Module) -> nn.Module:
    """Folds batch norms into convolutions, as ultralytics does for inference."""
    fused: nn.Module = network.eval().fuse(verbose=False)  # type: ignore[operator]
    return fused


def _fit(pictures: torch.Tensor, size: int, device: torch.device) -> tuple[torch.Tensor, float]:
    """[B, H, W, 3] uint8 to [B, 3, size, size] float32 in [0, 1], top left, padded with grey."""
    height, width = int(pictures.shape[1]), int(pictures.shape[2])
    scale = size / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    scaled = pictures.to(device).permute(0, 3, 1, 2).float() / 255
    if shape != (height, width):
        scaled = functional.interpolate(scaled, size=shape, mode="bilinear", align_corners=False, antialias=scale < 1)
    return functional.pad(scaled, (0, size - shape[1], 0, size - shape[0]), value=_PAD), scale


Columns = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # picture, confidence, class, corners [N, 4]


def _decode(raw: torch.Tensor, min_confidence: float) -> Columns:
    """Boxes of a one-to-many head, [B, 4 + classes, anchors] with centre and extent."""
    scores, labels = raw[:, 4:].max(1)
    index, anchor = (scores > min_confidence).nonzero(as_tuple=True)
    center, extent = raw[index, 0:2, anchor], raw[index, 2:4, anchor]
    corners = torch.cat((center - extent / 2, center + extent / 2), 1)
    return index, scores[index, anchor], labels[index, anchor], corners


def _decode_end_to_end(raw: torch.Tensor, min_confidence: float) -> Columns:
    """Boxes of a one-to-one head, [B, boxes, 6] with corners, confidence and class."""
    index, rank = (raw[:, :_MAX_BOXES, 4] > min_confidence).nonzero(as_tuple=True)
    rows = raw[index, rank]
    return index, rows[:, 4], rows[:, 5].long(), rows[:, :4]
