"""A toy of the algorithm's interface, an oracle that sees what it draws, and the parts that a loop needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.messages import OracleInfo, Scored
from trainer.algorithms.interface import TrajectoryBatch
from trainer.coordination import Solo, Workers
from trainer.diffusion.trajectory import Trajectory
from trainer.feedback import Feedback
from trainer.in_process_feedback import InProcessFeedback
from trainer.loop import Loop
from trainer.recipe import Recipe, parse_recipe
from trainer.run_folder import RunFolder

RECIPE = """
name: toy
algorithm:
  batch_size: 16
  surrogate: {updates_per_iteration: 2}
prompts: {groups_per_iteration: 4, group_size: 4}
feedback:
  oracles: [{name: brightness, applies: objects}, {name: spelled, applies: text}]
  max_inflight: 2
  wait_s: 5
store: {bank_groups: 12, segment_bytes: 65536, max_bytes: 1048576}
run: {iterations: 6, checkpoint_every: 3}
"""


class ToyAlgorithm:
    """Learns where bright pictures lie: a latent is a mean plus noise, and the surrogate is linear in it."""

    num_steps = 4
    sigmas = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0])

    def __init__(self, workers: Workers | None = None) -> None:
        self.workers = workers or Solo()
        self.mean = torch.nn.Parameter(torch.zeros(1, 2, 2))
        self.ema_mean = torch.zeros(1, 2, 2)
        self.weights = torch.nn.Parameter(torch.zeros(4))
        self.fake = torch.nn.Parameter(torch.zeros(1, 2, 2))
        self.optimizers = {
            "student": torch.optim.Adam([self.mean], lr=0.05),
            "surrogate": torch.optim.Adam([self.weights], lr=0.05),
            "fake_score": torch.optim.Adam([self.fake], lr=0.05),
        }
        self.batches: list[tuple[str, TrajectoryBatch]] = []

    def rollout(
        self, prompts: Sequence[str], group_size: int, rng: torch.Generator | Sequence[torch.Generator]
    ) -> Trajectory:
        rngs = [rng] * len(prompts) if isinstance(rng, torch.Generator) else rng
        noise = torch.cat([torch.randn(group_size, 1, 2, 2, generator=one) for one in rngs])
        clean = self.mean.detach() + 0.5 * noise
        steps = [sigma * noise + (1 - sigma) * clean for sigma in self.sigmas]
        return Trajectory(torch.stack(steps, dim=1), self.sigmas)

    def surrogate_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        self.batches.append(("surrogate", batch))
        k = int(torch.randint(1, self.num_steps + 1, ()))
        values = batch.boundaries[:, k].flatten(1) @ self.weights
        return self._step(
            "surrogate", (values - batch.advantages_at(k)).square().mean() + 0 * batch.rewards_at(k).sum()
        )

    def fake_score_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        self.batches.append(("fake_score", batch))
        return self._step("fake_score", (self.fake - batch.boundaries[:, -1]).square().mean())

    def student_step(self, batch: TrajectoryBatch) -> dict[str, float]:
        self.batches.append(("student", batch))
        figures = self._step("student", -(self.mean.flatten() @ self.weights.detach()) + 0.01 * torch.randn(()))
        self.ema_mean = 0.9 * self.ema_mean + 0.1 * self.mean.detach()
        return figures

    def opinions(self, batch: TrajectoryBatch) -> Tensor:
        return batch.boundaries[:, -1].flatten(1).mean(1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "networks": {
                "student": {"mean": self.mean.detach()},
                "ema_student": {"mean": self.ema_mean},
                "surrogate": {"weights": self.weights.detach()},
                "fake_score": {"mean": self.fake.detach()},
            },
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        networks = state["networks"]
        with torch.no_grad():
            self.mean.copy_(networks["student"]["mean"])
            self.weights.copy_(networks["surrogate"]["weights"])
            self.fake.copy_(networks["fake_score"]["mean"])
        self.ema_mean = networks["ema_student"]["mean"].clone()
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def _step(self, name: str, loss: Tensor) -> dict[str, float]:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()
        self.workers.average([parameter.grad for group in optimizer.param_groups for parameter in group["params"]])
        optimizer.step()
        return {"loss": float(loss.detach()), "undefined": float("nan")}


def toy_decode(latents: Tensor) -> np.ndarray[Any, Any]:
    """A 2x2 picture, brighter where the latent is higher."""
    bright = (torch.sigmoid(latents.float())[:, 0] * 255).to(torch.uint8)
    return bright[..., None].expand(-1, -1, -1, 3).numpy()


class Brightness(Oracle):
    """Mean brightness."""

    def __init__(self, name: str = "brightness") -> None:
        self.info = OracleInfo(
            name=name, version="1", reward_min=0.0, reward_max=1.0, media_types=("image/png",), max_batch=7
        )
        self.calls = 0
        self.seen: list[str] = []

    def score(self, batch: Sequence[OracleInput]) -> list[Any]:
        self.calls += 1
        self.seen += [one.sample.sample_id for one in batch]
        return [
            Scored(sample_id=one.sample.sample_id, reward=float(one.picture.mean()) / 255) for one in reversed(batch)
        ]


@dataclass(frozen=True)
class ToyPrompt:
    prompt: str
    kind: str
    checks: Mapping[str, Any] = field(default_factory=dict)


PROMPTS = [
    *(ToyPrompt(f"a {c} circle", "colors", {"tag": "colors", "include": [{"class": c}]}) for c in ("red", "blue")),
    ToyPrompt('the word "CAT"', "spelling", {"tag": "spelling", "include": [], "text": "CAT"}),
]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For sums that must not depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy_algorithm() -> type[ToyAlgorithm]:
    return ToyAlgorithm


@pytest.fixture
def brightness() -> type[Brightness]:
    return Brightness


@pytest.fixture
def prompts() -> list[ToyPrompt]:
    return PROMPTS


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(*overrides: str) -> Recipe:
        return parse_recipe(RECIPE, which="toy", overrides=overrides)

    return make


@pytest.fixture
def oracles() -> dict[str, Brightness]:
    return {"brightness": Brightness(), "spelled": Brightness("spelled")}


@pytest.fixture
def make_loop(
    tmp_path: Path, make_recipe: Callable[..., Recipe], oracles: dict[str, Brightness]
) -> Callable[..., Loop]:
    """A loop over the toy; the same folder name goes on with the same run."""

    def make(
        *overrides: str,
        folder: str = "run",
        feedback: Feedback | None = None,
        algorithm: ToyAlgorithm | None = None,
        **more: Any,
    ) -> Loop:
        return Loop(
            make_recipe(*overrides),
            algorithm or ToyAlgorithm(),
            decode=toy_decode,
            prompts=PROMPTS,
            feedback=feedback or InProcessFeedback(oracles),
            folder=RunFolder(tmp_path / folder),
            **more,
        )

    return make
