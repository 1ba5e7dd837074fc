from __future__ import annotations

import pytest
import torch

from trainer.losses.advantages import group_advantages

GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def test_closed_form() -> None:
    rewards = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.2, 0.4, 0.6, 0.8])
    values, tied = group_advantages(rewards, GROUPS)
    assert tied.tolist() == [False, False]
    torch.testing.assert_close(values[:4], torch.tensor([-1.0, -1.0, 1.0, 1.0]) * 0.5 / 0.5001)
    std = rewards[4:].std(correction=0)
    torch.testing.assert_close(values[4:], (rewards[4:] - 0.5) / (std + 1e-4))


def test_a_tied_group_says_nothing() -> None:
    values, tied = group_advantages(torch.tensor([0.1, 0.1, 0.1, 0.1, 0.0, 1.0, 1.0, 1.0]), GROUPS)
    assert tied.tolist() == [True, False]
    assert values[:4].tolist() == [0.0] * 4
    alone = group_advantages(torch.tensor([0.7]), torch.tensor([0]))
    assert alone.tied.tolist() == [True] and alone.values.tolist() == [0.0]


def test_the_global_standard_deviation() -> None:
    rewards = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.49, 0.49, 0.51, 0.51])
    own = group_advantages(rewards, GROUPS).values
    shared = group_advantages(rewards, GROUPS, std="global").values
    assert float(own[7]) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(shared, (rewards - 0.5) / (rewards.std(correction=0) + 1e-4))


def test_clipping() -> None:
    rewards = torch.zeros(101)
    rewards[0] = 1
    values = group_advantages(rewards, torch.zeros(101, dtype=torch.int64)).values
    assert float(values[0]) == 5.0  # 10 standard deviations
    assert float(values[1]) == pytest.approx(-0.1, abs=0.01)


def test_groups_need_not_stand_together() -> None:
    rewards = torch.tensor([0.0, 0.2, 1.0, 0.8])
    values = group_advantages(rewards, torch.tensor([0, 1, 0, 1])).values
    assert values.sign().tolist() == [-1, -1, 1, 1]


def test_a_reward_that_is_no_number_is_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            group_advantages(torch.tensor([0.0, bad]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"both be \[B\]"):
        group_advantages(torch.zeros(2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no standard deviation"):
        group_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), std="other")  # type: ignore[arg-type]
