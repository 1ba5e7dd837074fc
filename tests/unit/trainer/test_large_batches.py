"""What makes large batches and models fit changes no gradient: micro-batches, activations computed again, bfloat16."""

from __future__ import annotations

import pytest
import torch

from tests.unit.trainer.test_roles import batch_of, recipe, way
from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.micro_batches import micro_batches
from trainer.algorithms.networks import descend
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.coordination import Solo
from trainer.models.sd3 import Sd3Family, native_precision
from trainer.worlds.shapes.weights_folder import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_thread")
NETWORKS = ("surrogate", "fake_score", "student")


@pytest.fixture(scope="module")
def families() -> dict[str, Sd3Family]:
    return {
        "plain": Sd3Family.load(WEIGHTS),
        "recomputing": Sd3Family.load(WEIGHTS, gradient_checkpointing=True),
        "bfloat16": Sd3Family.load(WEIGHTS, precision=torch.bfloat16),
    }


def uneven(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The first group loses a sample, as one whose reward is missing would."""
    kept = slice(1, None)
    assert batch.rewards is not None and batch.advantages is not None and batch.shortfall is not None
    return TrajectoryBatch(
        boundaries=batch.boundaries[kept],
        prompts=batch.prompts[kept],
        group_index=batch.group_index[kept],
        rewards=batch.rewards[kept],
        advantages=batch.advantages[kept],
        shortfall=batch.shortfall[kept],
    )


def learnt(settings: AlgorithmRecipe, family: Sd3Family, name: str) -> dict[str, tuple[dict[str, float], torch.Tensor]]:
    """Figures and gradients of one update of each network."""
    algorithm = TdmR1(settings, family, roles=way(name, family), seed=1)
    batch = uneven(batch_of(algorithm, groups=3, size=2))
    found = {}
    for network in NETWORKS:
        figures = getattr(algorithm, f"{network}_step")(batch)
        groups = algorithm.optimizers[network].param_groups
        found[network] = figures, torch.cat([p.grad.flatten() for group in groups for p in group["params"]])
    return found


@pytest.mark.parametrize(("name", "form"), [("full", "value_contrast"), ("lora", "group_bradley_terry")])
def test_micro_batches_and_recomputed_activations_change_no_gradient(
    families: dict[str, Sd3Family], name: str, form: str
) -> None:
    whole = learnt(recipe(form), families["plain"], name)
    for other in (
        learnt(recipe(form, micro_batch_size=2), families["plain"], name),
        learnt(recipe(form), families["recomputing"], name),
        learnt(recipe(form, micro_batch_size=3), families["recomputing"], name),
    ):
        for network, (figures, gradient) in whole.items():
            assert other[network][0] == pytest.approx(figures, rel=2e-3, abs=1e-6), network
            distance = (other[network][1] - gradient).norm() / gradient.norm()
            assert float(distance) < 5e-3, (network, float(distance))


def test_bfloat16_forwards_give_nearly_the_same_gradients_and_float32_networks(
    families: dict[str, Sd3Family],
) -> None:
    exact = learnt(recipe("value_contrast"), families["plain"], "lora")
    mixed = learnt(recipe("value_contrast"), families["bfloat16"], "lora")
    for network in NETWORKS:
        assert mixed[network][1].dtype == torch.float32
        assert mixed[network][0][f"{network}_loss"] == pytest.approx(exact[network][0][f"{network}_loss"], rel=0.05)
        alike = torch.nn.functional.cosine_similarity(mixed[network][1], exact[network][1], dim=0)
        assert float(alike) > 0.98, network


@pytest.mark.parametrize(
    ("can", "chosen"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_a_cpu_computes_in_bfloat16_if_it_multiplies_matrices_in_it(
    monkeypatch: pytest.MonkeyPatch, can: dict[str, bool], chosen: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    assert native_precision(torch.device("cpu")) == chosen


@pytest.mark.parametrize("name", ["full", "lora"])
def test_recomputed_activations_are_not_kept(families: dict[str, Sd3Family], name: str) -> None:
    def kept_bytes(family: Sd3Family) -> int:
        role = way(name, family).new()
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x, cond = torch.randn(8, *family.latent_shape), family.encode_prompts(["a circle"] * 8)
        weights = {parameter.untyped_storage().data_ptr() for parameter in family.teacher.parameters()}
        weights |= {parameter.untyped_storage().data_ptr() for parameter in role.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = family.velocity(role, x, torch.full((8,), 0.5), cond).square().mean()
        loss.backward()
        return sum(size for storage, size in kept.items() if storage not in weights)

    assert kept_bytes(families["recomputing"]) < 0.3 * kept_bytes(families["plain"])


def test_pieces_are_whole_groups_and_their_shares_come_to_one() -> None:
    index = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    for at_most, expected in ((None, [9]), (100, [9]), (5, [5, 4]), (4, [3, 2, 4]), (1, [3, 2, 4])):
        pieces = micro_batches(index, at_most=at_most, workers=Solo())
        assert [rows.stop - rows.start for rows, _ in pieces] == expected
        assert sum(share for _, share in pieces) == pytest.approx(1)


def test_a_loss_that_is_no_number_leaves_the_network_as_it_was() -> None:
    network = torch.nn.Linear(2, 1)
    optimizer, before = torch.optim.SGD(network.parameters(), lr=1.0), network.weight.detach().clone()
    losses = (network(torch.full((1, 2), value)).sum() for value in (1.0, float("nan")))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        descend(losses, optimizer, max_grad_norm=1.0, workers=Solo())
    assert torch.equal(network.weight, before)
    assert network.weight.grad is None
