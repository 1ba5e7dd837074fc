from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.models.sd3 import Sd3Family
from trainer.samplers import seeded_noise, student_sampler, teacher_sampler
from trainer.worlds.shapes.weights_folder import WEIGHTS

PROMPTS = ["a red circle", "three rings", 'the word "TEN"']
SEEDS = [20_000, 20_001, 20_002]


@pytest.fixture(scope="module")
def family() -> Sd3Family:
    return Sd3Family.load(WEIGHTS)


def test_noise_belongs_to_its_seed() -> None:
    noise = seeded_noise([3, 1, 2], (2, 4, 4))
    assert torch.equal(noise[1], seeded_noise([1], (2, 4, 4))[0])
    assert not torch.equal(noise[0], noise[1])
    assert float(seeded_noise(range(500), (2, 4, 4)).std()) == pytest.approx(1.0, abs=0.03)


@torch.inference_mode()
def test_a_picture_depends_on_its_prompt_and_seed_and_not_on_its_batch(family: Sd3Family) -> None:
    sampler, nfe = student_sampler(family, family.new_transformer(WEIGHTS / "student").eval(), num_steps=4)
    together = sampler(PROMPTS, SEEDS)
    assert nfe == 4
    assert together.dtype == np.uint8 and together.shape[0] == 3 and together.shape[3] == 3
    alone = sampler(PROMPTS[1:2], SEEDS[1:2])
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1  # sums in another order, rounded
    other = sampler(PROMPTS[1:2], SEEDS[2:3])
    assert np.abs(together[1].astype(int) - other[0].astype(int)).max() > 10


@torch.inference_mode()
def test_the_teacher_counts_its_guidance(family: Sd3Family) -> None:
    sampler, nfe = teacher_sampler(family, family.teacher, num_steps=2, guidance_scale=4.5)
    plain, _ = teacher_sampler(family, family.teacher, num_steps=2, guidance_scale=1.0)
    assert nfe == 4
    assert teacher_sampler(family, family.teacher, guidance_scale=4.5)[1] == 80
    assert not np.array_equal(sampler(PROMPTS[:1], SEEDS[:1]), plain(PROMPTS[:1], SEEDS[:1]))
