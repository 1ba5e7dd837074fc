"""Rollouts: the same from the same seed, shared out among workers, and not made twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.buffer_feedback import _pack
from trainer.recipe_sections import PromptSettings
from trainer.rewards import RewardRule
from trainer.rollouts import RolloutMaker, seed_for
from trainer.trajectory_store import TrajectoryStore

Made = tuple[RolloutMaker, TrajectoryStore]


@pytest.fixture
def maker(toy_algorithm: Any, prompts: Any, tmp_path: Path) -> Iterator[Callable[..., Made]]:
    """Makes rollout makers, each over a store in a folder of its own."""
    stores: list[TrajectoryStore] = []

    def make(recipe: Any, folder: str = "store", *, rank: int = 0, world_size: int = 1, **settings: Any) -> Made:
        store = TrajectoryStore(tmp_path / folder / f"rank-{rank}", recipe.store)
        stores.append(store)
        made = RolloutMaker(
            toy_algorithm(),
            lambda latents: torch.zeros(latents.shape[0], 2, 2, 3, dtype=torch.uint8),
            prompts=prompts,
            settings=PromptSettings(**{"groups_per_iteration": 6, "group_size": 4, **settings}),
            rule=RewardRule(recipe.feedback, num_steps=4),
            store=store,
            run_id="run",
            seed=0,
            rank=rank,
            world_size=world_size,
        )
        return made, store

    yield make
    for store in stores:
        store.close()


def test_kinds_are_drawn_by_weight_and_prompts_without_repetition(make_recipe, maker) -> None:
    even, _ = maker(make_recipe())
    chosen = even.choose(0)
    assert chosen == even.choose(0)
    assert [one.prompt for one in chosen] != [one.prompt for one in even.choose(1)]
    assert Counter(one.kind for one in chosen) == {"colors": 3, "spelling": 3}
    assert {one.prompt for one in chosen if one.kind == "colors"} == {"a red circle", "a blue circle"}
    skewed, _ = maker(make_recipe(), "b", kind_weights={"spelling": 0.2})
    counts = sum((Counter(one.kind for one in skewed.choose(i)) for i in range(100)), Counter())
    assert 80 <= counts["spelling"] <= 120
    none, _ = maker(make_recipe(), "c", kind_weights={"spelling": 0})
    assert {one.kind for one in none.choose(0)} == {"colors"}


def test_a_rollout_is_the_same_again_and_is_taken_from_the_store(make_recipe, maker) -> None:
    first, store = maker(make_recipe(), "a", rollout_batch_size=8)
    other, second = maker(make_recipe(), "b", rollout_batch_size=8)
    rollout = first.make(3, 5)
    assert rollout.group_ids == other.make(3, 5).group_ids == [f"000003-{i:03d}" for i in range(6)]
    for group_id in rollout.group_ids:
        assert (store.boundaries(group_id) == second.boundaries(group_id)).all()
        assert store.header(group_id).policy_version == 5
    end = store.position()
    assert first.make(3, 5).group_ids == rollout.group_ids
    assert store.position() == end


def test_workers_share_the_rollout_that_one_would_make(make_recipe, maker) -> None:
    alone, alone_store = maker(make_recipe(), "alone")
    both = [maker(make_recipe(), rank=r, world_size=2) for r in (0, 1)]
    parts = [one.make(0, 0) for one, _ in both]
    assert [len(part.group_ids) for part in parts] == [3, 3]
    prompts_of = [
        [store.header(g).prompt for g in part.group_ids] for part, (_, store) in zip(parts, both, strict=True)
    ]
    together = [prompt for pair in zip(*prompts_of, strict=True) for prompt in pair]
    assert together == [one.prompt for one in alone.choose(0)]
    assert not set(parts[0].group_ids) & set(parts[1].group_ids)
    assert not set(parts[0].group_ids) & set(alone.make(0, 0).group_ids)
    made = alone_store.group_ids()
    for rank, (part, (_, store)) in enumerate(zip(parts, both, strict=True)):
        for group_id, same in zip(part.group_ids, made[rank::2], strict=True):
            assert (store.boundaries(group_id) == alone_store.boundaries(same)).all()
    assert (alone_store.boundaries(made[0]) != alone_store.boundaries(made[1])).any()


def test_pictures_name_every_sample_and_the_oracles_that_still_owe(make_recipe, maker) -> None:
    recipe = make_recipe("feedback.pictures=every_boundary")
    made, _ = maker(recipe)
    rollout = made.make(0, 0)
    groups = made.pictures(rollout.awaited)
    assert len(groups) == 6
    for group in groups:
        assert group.awaited == (("brightness",) if group.checks.get("include") else ("spelled",))
        assert [sample.boundary_index for sample in group.samples] == [1] * 4 + [2] * 4 + [4] * 4
        assert len({sample.sample_id for sample in group.samples}) == 12
        assert [[s.sample_id for s in group.samples[p * 4 : p * 4 + 4]] for p in range(3)] == made.sample_ids(
            group.group_id, 4
        )
        assert len(group.wire_samples()) == 12


def test_what_a_recipe_lets_be_reused_travels_with_its_pictures(make_recipe, maker) -> None:
    recipe = make_recipe("feedback.oracles.1.reuse_answers_s=60")
    made, _ = maker(recipe)
    for group in made.pictures(made.make(0, 0).awaited):
        assert _pack(group, None).reuse_answers_s == group.reuse_answers_s == {"spelled": 60.0}


def test_seeds_differ_in_every_part() -> None:
    seeds = {seed_for(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
