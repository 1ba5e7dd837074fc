"""The surrogates that are a velocity: the tilt (E11), and either around a network that it is handed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.algorithm_recipe import (
    AdamSettings,
    AlgorithmRecipe,
    FakeScoreSettings,
    StudentSettings,
    SurrogateSettings,
)
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.algorithms.tilt_surrogate import TiltSurrogate
from trainer.algorithms.velocity_surrogate import VelocitySurrogate
from trainer.coordination import Solo
from trainer.models.lora import LoraRoles
from trainer.models.sd3 import Sd3Family
from trainer.worlds.shapes.weights_folder import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["a red circle and a blue star", "three rings"]


@pytest.fixture(scope="module")
def family() -> Sd3Family:
    return Sd3Family.load(WEIGHTS)


def recipe(form: str = "tilt", **more: object) -> AlgorithmRecipe:
    surrogate = {
        "form": form,
        "fresh_share": 1.0,
        "initial_weights": "teacher",
        "optimizer": AdamSettings(learning_rate=1e-3),
        **more,
    }
    return AlgorithmRecipe(
        surrogate=SurrogateSettings.model_validate(surrogate),
        fake_score=FakeScoreSettings(initial_weights="teacher", target="boundary_score"),
        student=StudentSettings(initial_weights="teacher"),
    )


def build(family: Sd3Family, recipe: AlgorithmRecipe) -> TdmR1:
    return TdmR1(recipe, family, roles=LoraRoles(family, rank=4, alpha=8, targets=("to_q", "to_v")))


def batch_of(algorithm: TdmR1, size: int = 3) -> TrajectoryBatch:
    rng = torch.Generator().manual_seed(0)
    trajectory = algorithm.rollout(PROMPTS, size, rng)
    rewards = torch.rand(2 * size, generator=rng)
    return TrajectoryBatch(
        boundaries=trajectory.boundaries,
        prompts=[prompt for prompt in PROMPTS for _ in range(size)],
        group_index=torch.arange(2).repeat_interleave(size),
        rewards=rewards,
        advantages=rewards - rewards.mean(),
    )


def changed(before: dict[str, dict[str, torch.Tensor]], algorithm: TdmR1) -> set[str]:
    after = algorithm.state_dict()["networks"]
    return {name for name in before if any(not torch.equal(before[name][k], after[name][k]) for k in before[name])}


def weights_of(algorithm: TdmR1) -> dict[str, dict[str, torch.Tensor]]:
    networks = algorithm.state_dict()["networks"]
    return {name: {key: tensor.clone() for key, tensor in network.items()} for name, network in networks.items()}


@pytest.mark.parametrize(("reference", "followers"), [("teacher", set()), ("surrogate_ema", {"surrogate_reference"})])
def test_a_tilt_learns_and_gives_the_student_a_direction(
    family: Sd3Family, reference: str, followers: set[str]
) -> None:
    algorithm = build(family, recipe(reference=reference))
    assert isinstance(algorithm.surrogate, TiltSurrogate)
    batch = batch_of(algorithm)
    before = weights_of(algorithm)
    figures = algorithm.surrogate_step(batch)
    assert changed(before, algorithm) == {"surrogate", *followers}
    assert np.isfinite(figures["surrogate_loss"]) and figures["surrogate_grad_norm"] > 0
    assert algorithm.student_step(batch)["reward_rms"] > 0
    assert float(algorithm.opinions(batch).abs().max()) > 0


def test_without_advantages_a_tilt_that_is_its_reference_stays_where_it_is(family: Sd3Family) -> None:
    algorithm = build(family, recipe())
    batch = batch_of(algorithm)
    flat = TrajectoryBatch(
        batch.boundaries, batch.prompts, batch.group_index, rewards=batch.rewards, advantages=torch.zeros(6)
    )
    figures = algorithm.surrogate_step(flat)
    assert figures["surrogate_loss"] == pytest.approx(0, abs=1e-12)


def test_a_tilt_in_pieces_is_the_whole_and_goes_on_from_a_checkpoint(family: Sd3Family) -> None:
    whole = build(family, recipe())
    pieces = build(family, recipe().model_copy(update={"micro_batch_size": 3}))
    batch = batch_of(whole)
    one, other = whole.surrogate_step(batch), pieces.surrogate_step(batch)
    assert one["surrogate_loss"] == pytest.approx(other["surrogate_loss"], rel=1e-5)
    later = build(family, recipe())
    later.load_state_dict(whole.state_dict())
    assert whole.surrogate_step(batch) == later.surrogate_step(batch)


def test_a_surrogate_around_a_given_network_is_held_to_what_that_began_as(family: Sd3Family) -> None:
    settings = recipe("group_bradley_terry")
    algorithm = build(family, settings)
    algorithm.student_step(batch_of(algorithm))  # no teacher any more
    own = VelocitySurrogate(settings, family, roles=algorithm.roles, workers=Solo(), network=algorithm.student)
    assert own.network is algorithm.student
    assert own.reference is own.origin is not family.teacher
    assert set(own.networks()) == {"surrogate", "surrogate_origin", "surrogate_lagged"}
    batch = batch_of(algorithm)
    at, _ = algorithm.renoised(batch)
    assert torch.equal(own.opinions(at), torch.zeros(6))
    origin = {key: tensor.clone() for key, tensor in own.origin.state_dict().items()}
    before = weights_of(algorithm)
    assert batch.rewards is not None and batch.advantages is not None
    figures = own.step(at, rewards=batch.rewards, advantages=batch.advantages)
    assert figures["surrogate_drift"] == 0
    assert changed(before, algorithm) == {"student"}
    assert all(torch.equal(tensor, origin[key]) for key, tensor in own.origin.state_dict().items())
