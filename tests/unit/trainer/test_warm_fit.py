"""The warm fit of the shapes world: a bank scored for many prompts, sets of twelve, a fit that goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.algorithm_recipe import AlgorithmRecipe, FakeScoreSettings, SurrogateSettings
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.models.sd3 import Sd3Family
from trainer.worlds.shapes import surrogate
from trainer.worlds.shapes.prompts import PromptSpec, all_prompts
from trainer.worlds.shapes.surrogate import GROUP_SIZE, collect_bank, fit_surrogate
from trainer.worlds.shapes.weights_folder import WEIGHTS


def blue_where_asked(pictures: Sequence[np.ndarray], prompts: Sequence[PromptSpec]) -> list[float]:
    """Blue is right for half of the prompts, wrong for the rest; one picture is asked for all its prompts in a row."""
    asked = len(prompts) // len({id(picture) for picture in pictures})
    assert all(pictures[i] is pictures[i - i % asked] for i in range(len(pictures)))
    signs = [1 if len(spec.prompt) % 2 else -1 for spec in prompts]
    return [
        0.5 + sign * float(p[..., 2].mean() - p[..., 0].mean()) / 510 for p, sign in zip(pictures, signs, strict=True)
    ]


@pytest.mark.timeout(120)
def test_a_bank_is_kept_and_a_fit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "_HELDOUT", 2)
    recipe = AlgorithmRecipe(
        surrogate=SurrogateSettings(initial_weights="teacher"), fake_score=FakeScoreSettings(initial_weights="teacher")
    )
    algorithm = TdmR1(recipe, Sd3Family.load(WEIGHTS), weights=WEIGHTS, seed=0)
    bank = collect_bank(tmp_path, algorithm, blue_where_asked, num_groups=12)
    kinds = {spec.prompt: spec.kind for spec in all_prompts()}
    for groups in bank:
        assert len({kinds[prompt] for prompt in groups.prompts}) == 1
        assert groups.boundaries.shape[0] == len(groups.rewards) == 3 * GROUP_SIZE
        assert groups.rewards.shape[1] == len(set(groups.prompts)) >= 3
    again = collect_bank(tmp_path, algorithm, blue_where_asked, num_groups=12)
    assert all(torch.equal(a.rewards, b.rewards) for a, b in zip(bank, again, strict=True))

    assert 0 <= fit_surrogate(tmp_path, algorithm, bank, num_steps=2) <= 1
    head = algorithm.surrogate.networks()["surrogate"].get_parameter("head.weight").clone()
    assert head.abs().max() > 0
    fit_surrogate(tmp_path, algorithm, bank, num_steps=2)
    assert torch.equal(algorithm.surrogate.networks()["surrogate"].get_parameter("head.weight"), head)
    fit_surrogate(tmp_path, algorithm, bank, num_steps=3)
    assert not torch.equal(algorithm.surrogate.networks()["surrogate"].get_parameter("head.weight"), head)

    rates = []
    for warm in (False, True):
        folder = tmp_path / f"warm-{warm}"
        folder.mkdir()
        fit_surrogate(folder, algorithm, bank, num_steps=1, warm=warm)
        rates.append(algorithm.surrogate.optimizer.param_groups[0]["lr"])
    assert rates[1] == pytest.approx(rates[0] / 2), "one that has been fitted before takes smaller steps"


def test_a_set_is_of_one_group_or_of_all_three_and_its_own_prompts_come_first() -> None:
    rewards = torch.zeros(36, 6)
    rewards[::2, 4] = 1.0
    rewards[::3, 5] = 0.1
    seen = set()
    for seed in range(20):
        rows, own = surrogate._pictures(np.random.default_rng(seed))
        assert len(rows) == len(set(rows)) == GROUP_SIZE
        assert sorted({row // GROUP_SIZE for row in rows}) == own
        seen.add(len(own))
        columns = surrogate._columns(rewards[rows], own)
        assert columns[: len(own)] == own and columns[len(own)] == 4 and len(columns) == 8
    assert seen == {1, 3}
