"""Trains the shapes world's detector and colour classifier on pictures rendered and augmented on the fly.

Owns the training pictures, their augmentation and the two loops; `deploy.train_oracles` is the command, and
`services.oracles` holds the networks. The pictures that will be judged come out of an autoencoder and a half-trained
generator, so renders are blurred, smoothed as by an autoencoder, made noisy and overlaid with faint ghosts of other
scenes that do not count as objects. Words and empty pictures are among them: there is nothing to detect in those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from services.oracles.color import ColorNet, cut
from services.oracles.detector import build_network
from trainer.worlds.shapes.prompts import train_prompts
from trainer.worlds.shapes.render import Rendered, random_scene, render, scene_for
from trainer.worlds.shapes.vocabulary import COLORS, SHAPES

__all__ = ["DETECTOR_SIZE", "NETWORK", "Bank", "augment", "draw_bank", "train_color", "train_detector"]

DETECTOR_SIZE = 96

#: YOLOv8's blocks (C2f, SPPF, decoupled head), narrower than the nano, with heads at strides 8 and 16 only:
#: objects of 11 to 21 pixels become 22 to 42 at 96, and `reg_max` 6 reaches 40 of them from a cell.
NETWORK: dict[str, Any] = {
    "nc": len(SHAPES),
    "reg_max": 6,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [32, True]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 2, "C2f", [64, True]],
        [-1, 1, "Conv", [96, 3, 2]],
        [-1, 1, "C2f", [96, True]],
        [-1, 1, "SPPF", [96, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 1, "C2f", [64]],
        [-1, 1, "Conv", [64, 3, 2]],
        [[-1, 7], 1, "Concat", [1]],
        [-1, 1, "C2f", [96]],
        [[10, 13], 1, "Detect", ["nc"]],
    ],
}

_TEXT_SHARE = 0.12
_PROMPT_SHARE = 0.33
_EMA_DECAY = 0.995

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Bank:
    """Rendered pictures [N, 3, H, W] uint8 with their objects, flat.

    `owner` [M] int64 is the picture of each object, sorted; `boxes` [M, 4] x1, y1, x2, y2 in pixels; `shapes`,
    `colors` [M] int64 into SHAPES and the names of COLORS.
    """

    pictures: torch.Tensor
    owner: torch.Tensor
    boxes: torch.Tensor
    shapes: torch.Tensor
    colors: torch.Tensor

    def pick(self, rng: torch.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A random batch: pictures float32 in [0, 1], the rows of its objects in the bank, their place in the batch."""
        chosen = torch.randint(len(self.pictures), (size,), generator=rng)
        first = torch.searchsorted(self.owner, chosen)
        last = torch.searchsorted(self.owner, chosen, right=True)
        rows = torch.cat([torch.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)])
        place = torch.repeat_interleave(torch.arange(size), last - first)
        return self.pictures[chosen].float() / 255, rows.long(), place


def draw_bank(num_pictures: int, *, seed: int) -> Bank:
    """Renders training pictures: free scenes (empty ones among them), scenes of training prompts, and words."""
    rng = np.random.default_rng(seed)
    prompts = train_prompts()
    words = [spec.checks for spec in prompts if spec.checks.get("text")]
    objects = [spec.checks for spec in prompts if spec.checks["include"]]
    drawn = [_draw(rng, words, objects) for _ in range(num_pictures)]
    colors = {name: index for index, name in enumerate(COLORS)}
    found = [thing for one in drawn for thing in one.objects]
    return Bank(
        pictures=torch.from_numpy(np.stack([one.picture for one in drawn])).permute(0, 3, 1, 2).contiguous(),
        owner=torch.tensor([index for index, one in enumerate(drawn) for _ in one.objects]),
        boxes=torch.tensor([thing.box for thing in found], dtype=torch.float32),
        shapes=torch.tensor([SHAPES.index(thing.shape) for thing in found]),
        colors=torch.tensor([colors[thing.color] for thing in found]),
    )


def _draw(rng: np.random.Generator, words: list[dict[str, Any]], objects: list[dict[str, Any]]) -> Rendered:
    kind = rng.random()
    if kind < _TEXT_SHARE:
        return render(scene_for(words[int(rng.integers(len(words)))], rng))
    if kind < _TEXT_SHARE + _PROMPT_SHARE:
        return render(scene_for(objects[int(rng.integers(len(objects)))], rng))
    try:
        return render(random_scene(rng, max_objects=5))
    except ValueError:  # five shapes do not always find room
        return render(random_scene(rng, max_objects=4))


def augment(pictures: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """What an autoencoder and a half-trained generator do to a picture; boxes stay where they are.

    Shapes: pictures [B, 3, H, W] float32 in [0, 1]; returns the same.
    """
    size = len(pictures)

    def chance(share: float) -> torch.Tensor:
        return (torch.rand(size, 1, 1, 1, generator=rng) < share).float()

    def between(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand(size, channels, 1, 1, generator=rng)

    ghost = chance(0.25) * between(0.0, 0.3)
    pictures = pictures * (1 - ghost) + pictures.roll(1, 0) * ghost
    pictures = pictures * between(0.85, 1.12, 3) + between(-0.05, 0.05)
    half = functional.interpolate(functional.avg_pool2d(pictures, 2), scale_factor=2, mode="bicubic")
    smooth = chance(0.35) * between(0.0, 0.9)
    pictures = pictures * (1 - smooth) + half * smooth
    blurred = _blur(pictures, float(0.4 + 0.8 * torch.rand(1, generator=rng)))
    soft = chance(0.4)
    pictures = pictures * (1 - soft) + blurred * soft
    height, width = pictures.shape[2:]
    coarse = torch.randn(size, 3, height // 4, width // 4, generator=rng)
    mottled = functional.interpolate(coarse, size=(height, width), mode="bilinear")
    noise = torch.randn(pictures.shape, generator=rng)
    pictures = pictures + chance(0.4) * between(0.0, 0.08) * mottled + chance(0.5) * between(0.0, 0.06) * noise
    return pictures.clamp(0, 1)


def _blur(pictures: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of 5 taps, in pixels."""
    taps = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * sigma**2))
    kernel = (taps / taps.sum()).repeat(3, 1)
    padded = functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    rows = functional.conv2d(padded, kernel[:, None, None, :], groups=3)
    return functional.conv2d(rows, kernel[:, None, :, None], groups=3)


def train_detector(bank: Bank, *, steps: int, batch: int, seed: int, progress: Progress) -> nn.Module:
    """The detector with the exponential mean of its weights, trained with ultralytics' own detection loss."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = build_network(NETWORK)
    from ultralytics.utils.loss import v8DetectionLoss

    network.args = SimpleNamespace(box=7.5, cls=1.0, dfl=1.5)  # type: ignore[assignment]
    criterion = v8DetectionLoss(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    mean = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_EMA_DECAY), use_buffers=True
    )
    side = bank.pictures.shape[-1]
    for step, rate in _rates(steps):
        for part in optimizer.param_groups:
            part["lr"] = 2e-3 * rate
        pictures, rows, place = bank.pick(rng, batch)
        boxes = bank.boxes[rows]
        if bool(torch.rand(1, generator=rng) < 0.5):  # every shape of the world is its own mirror image
            pictures = pictures.flip(3)
            boxes = torch.stack((side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]), 1)
        large = functional.interpolate(augment(pictures, rng), size=DETECTOR_SIZE, mode="bilinear")
        loss = criterion(network(large), _targets(boxes / side, bank.shapes[rows], place))[0].sum() / batch
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        mean.update_parameters(network)
        if step % 50 == 0 or step == steps - 1:
            progress(f"detector: step {step + 1} of {steps}, loss {loss.item():.3f}")
    trained: nn.Module = mean.module
    return trained.eval()


def _targets(corners: torch.Tensor, shapes: torch.Tensor, place: torch.Tensor) -> dict[str, torch.Tensor]:
    """What ultralytics' loss asks for: class, batch place, and centre and extent as shares of the picture."""
    center, extent = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return {"batch_idx": place.float(), "cls": shapes.float(), "bboxes": torch.cat((center, extent), 1)}


def train_color(bank: Bank, *, steps: int, batch: int, seed: int, progress: Progress) -> ColorNet:
    """The colour classifier, on crops of boxes that are a little off, as a detector's are."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = ColorNet(len(COLORS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for step, rate in _rates(steps):
        for part in optimizer.param_groups:
            part["lr"] = 3e-3 * rate
        pictures, rows, place = bank.pick(rng, batch)
        boxes = bank.boxes[rows] + torch.randn(len(rows), 4, generator=rng) * 0.8
        logits = network(cut(augment(pictures, rng), place, boxes))
        loss = functional.cross_entropy(logits, bank.colors[rows], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            progress(f"colour: step {step + 1} of {steps}, loss {loss.item():.3f}")
    return network.eval()


def _rates(steps: int) -> Iterator[tuple[int, float]]:
    """Step and learning rate as a share of its peak: 5 % warm-up, then a cosine down to a hundredth."""
    warm = max(1, steps // 20)
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
        yield step, min((step + 1) / warm, 0.01 + 0.99 * cosine)
