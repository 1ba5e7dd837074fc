"""The shipped networks: they are checksummed, and a value learns from them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from trainer.algorithm_recipe import AdamSettings, AlgorithmRecipe, FakeScoreSettings, SurrogateSettings
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.algorithms.value_network import ValueNetwork
from trainer.models.sd3 import Sd3Family, read_sampling
from trainer.worlds.shapes.prompts import train_prompts
from trainer.worlds.shapes.weights_folder import CHECKSUMS, WEIGHTS


@pytest.fixture(scope="module")
def family() -> Sd3Family:
    return Sd3Family.load(WEIGHTS)


def test_every_shipped_file_has_its_recorded_checksum() -> None:
    listed = dict(reversed(line.split("  ")) for line in (WEIGHTS / CHECKSUMS).read_text().splitlines())
    there = {p.relative_to(WEIGHTS).as_posix() for p in WEIGHTS.rglob("*") if p.is_file()}
    assert there - {CHECKSUMS, "README.md", "__init__.py"} == set(listed)
    for name, digest in listed.items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest, name


def test_shipped_weights_stay_small() -> None:
    assert sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) < 72e6


def test_the_shipped_pipeline_says_how_it_is_sampled() -> None:
    assert read_sampling(WEIGHTS)["max_sequence_length"] == 0


@pytest.mark.parametrize("name", ["student", "fake_score"])
def test_shipped_transformers_are_not_the_teacher(family: Sd3Family, name: str) -> None:
    network = SD3Transformer2DModel.from_pretrained(WEIGHTS / name, low_cpu_mem_usage=False)
    teacher = family.teacher.state_dict()
    assert any(not torch.equal(t.float(), teacher[key]) for key, t in network.state_dict().items())


@pytest.mark.timeout(300)
def test_a_value_learns_how_much_blue_there_is_within_80_steps(family: Sd3Family) -> None:
    """A reward that the latents show: ranked above 80 % in groups that were never learnt from."""
    torch.manual_seed(0)
    recipe = AlgorithmRecipe(
        surrogate=SurrogateSettings(initial_weights="teacher", optimizer=AdamSettings(learning_rate=3e-4)),
        fake_score=FakeScoreSettings(initial_weights="teacher"),
    )
    algorithm = TdmR1(recipe, family, weights=WEIGHTS, seed=0)
    rng = torch.Generator().manual_seed(1)
    shapes = [p.prompt for p in train_prompts() if p.kind in ("single_object", "two_object", "counting")]
    batches = [_blue_batch(algorithm, shapes, rng) for _ in range(16)]
    learnt, heldout = batches[:12], batches[12:]
    for step in range(80):
        algorithm.surrogate_step(learnt[step % len(learnt)])
    rankings = [algorithm.surrogate_ranking(batch) for batch in heldout for _ in range(3)]
    assert float(np.mean(rankings)) > 0.8


def test_opinions_order_finished_pictures_and_disturb_no_draw(family: Sd3Family) -> None:
    """What goes along as a hint: the warm value of a clean picture, the same whenever it is asked."""
    algorithm = TdmR1(AlgorithmRecipe(), family, weights=WEIGHTS, seed=0)
    prompts = ["a red circle", "a blue star"]
    trajectory = algorithm.rollout(prompts, 4, torch.Generator().manual_seed(0))
    pictures = TrajectoryBatch(
        trajectory.boundaries, [one for one in prompts for _ in range(4)], torch.arange(2).repeat_interleave(4)
    )
    before = torch.random.get_rng_state()
    first, again = algorithm.opinions(pictures), algorithm.opinions(pictures)
    assert torch.equal(first, again) and torch.equal(before, torch.random.get_rng_state())
    assert first.shape == (8,) and float(first.std()) > 0.1
    alone = TrajectoryBatch(trajectory.boundaries[4:], pictures.prompts[4:], torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(algorithm.opinions(alone), first[4:], atol=1e-3, rtol=1e-3)
    other = TrajectoryBatch(trajectory.boundaries[4:], ["a red circle"] * 4, torch.zeros(4, dtype=torch.int64))
    assert float(algorithm.opinions(other).mean()) < float(first[4:].mean())  # they show another thing


def test_a_value_reads_several_prompts_as_it_reads_each_alone(family: Sd3Family) -> None:
    torch.manual_seed(0)
    network = ValueNetwork(family)
    torch.nn.init.normal_(network.head.weight)
    tokens = family.encode_prompts(["a circle", "a red star", 'the word "BAD"']).tokens
    x, tau = torch.randn(2, *family.latent_shape), torch.tensor([0.3, 0.7])
    together = network(x, tau, tokens.expand(2, -1, -1, -1))
    alone = [network(x, tau, one.expand(2, -1, -1)) for one in tokens]
    torch.testing.assert_close(together, torch.stack(alone, dim=1), atol=1e-3, rtol=1e-3)
    assert (together.std(dim=1) > 0.01).all()


def test_a_value_says_that_its_weights_are_another_networks(family: Sd3Family) -> None:
    recipe = AlgorithmRecipe(surrogate=SurrogateSettings(value_blocks=1))
    with pytest.raises(ValueError, match=r"surrogate\.safetensors is of another network.*fit-surrogate"):
        TdmR1(recipe, family, weights=WEIGHTS)
    with pytest.raises(ValueError, match="a trunk of 9 blocks was asked for, and the backbone has 5"):
        ValueNetwork(family, num_blocks=9)


def _blue_batch(algorithm: TdmR1, prompts: list[str], rng: torch.Generator) -> TrajectoryBatch:
    """Four groups of eight, rewarded by the mean of blue less red of the decoded picture."""
    chosen = [prompts[int(i)] for i in torch.randint(len(prompts), (4,), generator=rng)]
    trajectory = algorithm.rollout(chosen, 8, rng)
    pictures = algorithm.family.decode(trajectory.latents).float()
    rewards = (pictures[..., 2] - pictures[..., 0]).mean(dim=(1, 2)) / 255
    return TrajectoryBatch(
        boundaries=trajectory.boundaries,
        prompts=[p for p in chosen for _ in range(8)],
        group_index=torch.arange(4).repeat_interleave(8),
        rewards=rewards,
        advantages=torch.zeros_like(rewards),
    )
