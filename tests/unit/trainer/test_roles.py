"""Roles, both ways: they begin as the teacher, learn apart, go on from a checkpoint, and plain diffusers loads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from trainer.algorithm_recipe import (
    AdamSettings,
    AlgorithmRecipe,
    FakeScoreSettings,
    StudentSettings,
    SurrogateSettings,
)
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm import Tdm
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.checkpoint import Checkpoint, CheckpointFolder
from trainer.diffusion.trajectory import sample_trajectory
from trainer.models.full_copies import FullCopies
from trainer.models.lora import LoraRoles
from trainer.models.roles import Roles
from trainer.models.sd3 import Sd3Family
from trainer.worlds.shapes.distill import LORA_DISTILLATION, distil
from trainer.worlds.shapes.weights_folder import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ["a red circle and a blue star", 'the word "TEN"', "three rings"]
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
RANK = 4
FORMS = {"value_contrast": 0.5, "group_bradley_terry": 1.0}
Make = Callable[[str], Roles]


@pytest.fixture(scope="module")
def family() -> Sd3Family:
    return Sd3Family.load(WEIGHTS)


def way(name: str, family: Sd3Family) -> Roles:
    return FullCopies(family) if name == "full" else LoraRoles(family, rank=RANK, alpha=8, targets=TARGETS)


def recipe(form: str, **more: Any) -> AlgorithmRecipe:
    return AlgorithmRecipe(
        surrogate=SurrogateSettings(
            form=form, fresh_share=FORMS[form], initial_weights="teacher", reference="surrogate_ema"
        ),
        fake_score=FakeScoreSettings(initial_weights="teacher"),
        student=StudentSettings(initial_weights="teacher", reward_weighting="shortfall"),
        **more,
    )


def batch_of(algorithm: Tdm, *, groups: int = 2, size: int = 3, seed: int = 0) -> TrajectoryBatch:
    rng = torch.Generator().manual_seed(seed)
    trajectory = algorithm.rollout(PROMPTS[:groups], size, rng)
    rewards = torch.rand(groups * size, generator=rng)
    return TrajectoryBatch(
        boundaries=trajectory.boundaries,
        prompts=[prompt for prompt in PROMPTS[:groups] for _ in range(size)],
        group_index=torch.arange(groups).repeat_interleave(size),
        rewards=rewards,
        advantages=rewards - rewards.mean(),
        shortfall=1 - rewards,
    )


def weights_of(algorithm: Tdm) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: tensor.clone() for key, tensor in state.items()}
        for name, state in algorithm.state_dict()["networks"].items()
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {
        name for name in before if any(not torch.equal(before[name][key], after[name][key]) for key in before[name])
    }


@pytest.mark.parametrize("form", FORMS)
def test_fresh_adapters_are_the_teacher_to_the_bit(family: Sd3Family, form: str) -> None:
    algorithm = TdmR1(recipe(form), family, roles=way("lora", family))
    x, sigma = torch.randn(3, *family.latent_shape), torch.tensor([0.9, 0.5, 0.1])
    cond = family.encode_prompts(PROMPTS)
    with torch.no_grad():
        teacher = family.velocity(family.teacher, x, sigma, cond)
        for name, network in algorithm._networks().items():
            if name == "surrogate" and form == "value_contrast":
                own, full = network.trunk, family.new_trunk()
                assert torch.equal(family.trunk_tokens(own, x, sigma), family.trunk_tokens(full, x, sigma))
            else:
                assert torch.equal(family.velocity(network, x, sigma, cond), teacher), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["full", "lora"])
def test_an_update_touches_its_own_network_and_what_follows_it(family: Sd3Family, name: str, form: str) -> None:
    teacher = {key: tensor.clone() for key, tensor in family.teacher.state_dict().items()}
    algorithm = TdmR1(recipe(form), family, roles=way(name, family))
    batch = batch_of(algorithm)
    follows = {
        "surrogate": {"surrogate", "surrogate_lagged", "surrogate_reference"} & set(algorithm._networks()),
        "fake_score": {"fake_score"},
        "student": {"student", "ema_student"},
    }
    for network, own in follows.items():
        before = weights_of(algorithm)
        figures = getattr(algorithm, f"{network}_step")(batch)
        assert changed(before, weights_of(algorithm)) == own
        assert np.isfinite(figures[f"{network}_loss"]) and figures[f"{network}_grad_norm"] > 0
    assert all(torch.equal(tensor, teacher[key]) for key, tensor in family.teacher.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_adapters_learn_and_go_on_from_a_checkpoint(family: Sd3Family, form: str, tmp_path: Path) -> None:
    one = TdmR1(recipe(form), family, roles=way("lora", family), seed=3)
    batch = batch_of(one)

    def learn(algorithm: TdmR1) -> list[dict[str, float]]:
        return [step(batch) for step in (algorithm.surrogate_step, algorithm.fake_score_step, algorithm.student_step)]

    learn(one)
    state = one.state_dict()
    assert not any("base_layer" in key for tensors in state["networks"].values() for key in tensors)
    rest = {key: value for key, value in state.items() if key != "networks"}
    CheckpointFolder(tmp_path, keep=1).write(
        Checkpoint(iteration=1, recipe_yaml="", loop={}, networks=state["networks"], state=rest)
    )
    read = CheckpointFolder(tmp_path, keep=1).read_latest()
    assert read is not None
    other = TdmR1(recipe(form), family, roles=way("lora", family), seed=3)
    other.load_state_dict({**read.state, "networks": read.networks})
    assert learn(one) == learn(other)
    assert changed(weights_of(one), weights_of(other)) == set()


def test_a_checkpoint_brings_moments_and_the_recipe_the_learning_rate(family: Sd3Family) -> None:
    def algorithm(learning_rate: float) -> TdmR1:
        student = StudentSettings(initial_weights="teacher", optimizer=AdamSettings(learning_rate=learning_rate))
        settings = recipe("value_contrast").model_copy(update={"student": student})
        return TdmR1(settings, family, roles=way("lora", family))

    before, after = algorithm(3e-4), algorithm(1e-4)
    before.student_step(batch_of(before))
    after.load_state_dict(before.state_dict())
    (group,), moments = after.optimizers["student"].param_groups, after.optimizers["student"].state_dict()["state"]
    assert group["lr"] == 1e-4
    assert {int(one["step"]) for one in moments.values()} == {1}


def test_plain_distillation_moves_an_adapter_towards_what_guidance_draws(family: Sd3Family) -> None:
    """TDM alone: the loss of one fixed batch falls while the fake score stands still."""
    settings = recipe("value_contrast").model_copy(update={"student": StudentSettings(initial_weights="teacher")})
    algorithm = Tdm(settings, family, roles=way("lora", family))
    batch = batch_of(algorithm)
    losses = [algorithm.student_step(batch)["student_loss"] for _ in range(6)]
    assert np.mean(losses[3:]) < np.mean(losses[:3])


def test_a_distilled_adapter_is_what_a_run_begins_with(family: Sd3Family, tmp_path: Path) -> None:
    roles = way("lora", family)
    few = LORA_DISTILLATION.model_copy(update={"batch_size": 2})
    tdm = distil(tmp_path / "work", family, roles=roles, recipe=few, num_steps=1)
    for name, network in (("student", tdm.ema_student), ("fake_score", tdm.fake_score)):
        roles.export(roles.shipped(tmp_path) / name, network, num_steps=4)
    shipped = recipe("group_bradley_terry").model_copy(
        update={"student": StudentSettings(), "fake_score": FakeScoreSettings()}
    )
    algorithm = TdmR1(shipped, family, roles=roles, weights=tmp_path)
    begun = weights_of(algorithm)
    assert changed({"s": tdm.ema_student.state_dict()}, {"s": begun["student"]}) == set()
    assert changed({"f": tdm.fake_score.state_dict()}, {"f": begun["fake_score"]}) == set()
    assert any(float(tensor.abs().max()) > 0 for key, tensor in begun["student"].items() if "lora_B" in key)


def test_an_adapter_costs_its_own_matrices_and_nothing_else(family: Sd3Family) -> None:
    role = way("lora", family).new()
    layers = [
        layer
        for path, layer in family.teacher.named_modules()
        if any(path.endswith(f".{target}") for target in TARGETS)
    ]
    assert len(layers) > 8 * 4
    assert sum(p.numel() for p in role.parameters()) == sum(
        RANK * (layer.in_features + layer.out_features) for layer in layers
    )
    tied = dict(role._transformer[0].named_parameters())
    for name, parameter in family.teacher.named_parameters():
        own = tied.get(name)
        base = (
            own
            if own is not None
            else tied[name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")]
        )
        assert base.data_ptr() == parameter.data_ptr(), name


@pytest.mark.parametrize("name", ["full", "lora"])
def test_plain_diffusers_makes_the_same_pictures_from_an_export(family: Sd3Family, name: str, tmp_path: Path) -> None:
    roles = way(name, family)
    student = roles.new(WEIGHTS / "student" if name == "full" else None).requires_grad_(False)
    if name == "lora":
        rng = torch.Generator().manual_seed(7)
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    roles.export(tmp_path, student, num_steps=4, note="kept")
    assert not [file for file in tmp_path.rglob("*.json") if str(WEIGHTS) in file.read_text()], "paths of this machine"
    noise = torch.randn(len(PROMPTS), *family.latent_shape, generator=torch.Generator().manual_seed(5))

    def ours(network: torch.nn.Module) -> np.ndarray[Any, Any]:
        velocity = family.velocity_fn(network, family.encode_prompts(PROMPTS))
        return family.decode(sample_trajectory(velocity, noise, family.student_sigmas(4)).latents).numpy().astype(float)

    plain = StableDiffusion3Pipeline.from_pretrained(
        tmp_path if name == "full" else WEIGHTS, text_encoder_3=None, tokenizer_3=None, low_cpu_mem_usage=False
    ).to(dtype=torch.float32)
    if name == "lora":
        plain.load_lora_weights(tmp_path)
    plain.set_progress_bar_config(disable=True)
    said = json.loads((tmp_path / "sampling.json").read_text())
    arguments = {
        key: said[key]
        for key in ("num_inference_steps", "guidance_scale", "max_sequence_length", "sigmas", "height", "width")
    }
    theirs = plain(prompt=PROMPTS, latents=noise, output_type="np", **arguments).images
    assert said["note"] == "kept"
    assert np.allclose(plain.scheduler.sigmas.numpy(), said["sigmas_as_sampled"], atol=1e-6)
    assert np.abs((theirs * 255).round() - ours(student)).max() <= 1
    assert np.abs(ours(student) - ours(family.teacher)).max() > 20  # it is the student that was compared
    again = roles.new(tmp_path if name == "lora" else tmp_path / "transformer")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), student.parameters(), strict=True))


def test_adapters_that_are_missing_or_of_another_rank_are_named(family: Sd3Family, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no adapter at .*lora.student.*distil --lora.*initial_weights=teacher"
    ):
        Tdm(AlgorithmRecipe(), family, roles=way("lora", family), weights=WEIGHTS)
    way("lora", family).export(tmp_path, way("lora", family).new(), num_steps=4)
    with pytest.raises(ValueError, match="another rank or other targets"):
        LoraRoles(family, rank=8, alpha=8, targets=TARGETS).new(tmp_path)
