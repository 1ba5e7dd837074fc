"""What raters say, on every preference queue: choices kept once, taken back, or come too late."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from rewardmesh.wire.errors import ChoiceRefused, LeaseLost, NothingToUndo
from tests.contract.preference import (
    DAY_S,
    START,
    Clock,
    OpenQueue,
    ask,
    choose,
    join,
    questions_of,
    said,
    shown,
    side_of,
    why_not,
    work,
)


async def test_a_choice_is_kept_as_it_was_made(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(max_leases=20, raters_per_comparison=9)
    raters = [f"rater{index}" for index in range(8)]
    await join(queue, *raters)
    group = await ask(queue, "g1", prompt="a “quoted” \\ prompt / \U0001f600")
    seen = set()
    for rater in raters:
        what = await shown(queue, rater)
        assert what.prompt == group.prompt
        clock.pass_s(1.5)
        await choose(queue, what, side_of(what, "second"), choice_id=f"c-{rater}")
        answer = (await queue.answers(group.key))[-1]
        assert (answer.choice, answer.preferred, answer.counts) == (side_of(what, "second"), "second", True)
        assert (answer.choice_id, answer.rater_id, answer.kind) == (f"c-{rater}", rater, "question")
        assert (answer.first, answer.second, answer.swapped) == (0, 1, what.swapped)
        assert (answer.at, answer.look_s) == (clock.now, 1.25)
        seen.add(what.swapped)
    assert seen == {True, False}
    for choice in ("tie", "both_bad", "skip"):
        await join(queue, choice)
        await queue.pause_rater(choice, paused=False)
    assert [one.rater_id for one in await queue.answers(group.key)] == raters  # oldest first


@pytest.mark.parametrize("choice", ["tie", "both_bad", "skip"])
async def test_a_choice_without_a_side_is_an_answer(open_queue: OpenQueue, choice: Any) -> None:
    queue = open_queue()
    await join(queue, "ada")
    group = await ask(queue, "g1")
    await work(queue, choice=choice)
    assert await said(queue, group) == [("ada", choice, True)]
    assert await queue.close_due() == [group]


async def test_a_choice_sent_again_is_counted_once(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(raters_per_comparison=2, lease_s=10)
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1")
    what = await shown(queue, "ada")
    saved = await asyncio.gather(*(choose(open_queue(), what, "left", choice_id="c1") for _ in range(5)))
    assert sorted(one.first_time for one in saved) == [False] * 4 + [True]

    async def again() -> None:
        one = await choose(open_queue(), what, "right", choice_id="c1")
        assert (one.first_time, one.comparison_id, one.choice_id) == (False, what.comparison_id, "c1")

    clock.pass_s(100)
    await again()
    assert [(one.choice, one.choice_id) for one in await queue.answers(group.key)] == [("left", "c1")]
    theirs = await shown(queue, "bob")
    assert (await choose(queue, theirs, choice_id="c1")).first_time  # ids are each rater's own
    assert await queue.close_due() == [group]
    await again()
    await queue.settled(group.key)
    await again()
    assert len(await queue.answers(group.key)) == 2
    assert [(await queue.rater(who)).num_choices for who in ("ada", "bob")] == [1, 1]  # type: ignore[union-attr]


async def test_another_choice_under_one_lease_is_refused(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1")
    what = await work(queue, "ada")
    for _ in range(2):
        with pytest.raises(ChoiceRefused, match="another choice"):
            await choose(queue, what, "tie")
        with pytest.raises(LeaseLost):
            await choose(queue, what, "tie", rater_id="bob")
    assert len(await queue.answers(group.key)) == 1


async def test_pairs_and_single_pictures_have_their_own_choices(open_queue: OpenQueue) -> None:
    queue = open_queue(max_leases=9)
    await join(queue, "ada")
    await ask(queue, "g1", deadline_s=10)
    singles = await ask(queue, "g2", 3, single=True)
    pair, *alone = [await shown(queue) for _ in range(4)]
    for what, choices in ((pair, ("like", "dislike", "best")), (alone[0], ("left", "right", "tie", "both_bad"))):
        for choice in choices:
            with pytest.raises(ChoiceRefused, match="not a choice here"):
                await choose(queue, what, choice)  # type: ignore[arg-type]
    assert [one.left for one in alone] == [one.digest for one in singles.pictures]
    assert {(one.right, one.swapped) for one in alone} == {(None, False)}
    for what, choice in zip(alone, ("like", "dislike", "skip"), strict=True):
        await choose(queue, what, choice)  # type: ignore[arg-type]
    assert [one.preferred for one in await queue.answers(singles.key)] == ["like", "dislike", "skip"]
    assert {one.second for one in await queue.answers(singles.key)} == {None}
    assert await queue.close_due() == [singles]


async def test_sides_are_even_over_a_thousand_pairs(open_queue: OpenQueue) -> None:
    """Within what happens in all but one of a million fair queues: 500 ± 4.9 standard deviations."""
    queue = open_queue(max_leases=1000)
    await join(queue, "ada")
    firsts = set()
    for index in range(10):
        group = await ask(queue, f"g{index}", 15)
        firsts |= {(one.comparison_id, group.pictures[one.first].digest) for one in questions_of(group)}
    pairs = [await shown(queue) for _ in range(1000)]
    assert all((one.comparison_id, one.right if one.swapped else one.left) in firsts for one in pairs)
    swapped = [one.swapped for one in pairs]
    assert 423 <= sum(swapped) <= 577
    assert 423 <= sum(one == after for one, after in pairwise(swapped)) <= 577  # nor do they alternate


async def test_an_answer_that_is_a_day_late(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(lease_s=90)
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1", 3, deadline_s=2 * DAY_S)
    held = await shown(queue, "ada")
    clock.pass_s(DAY_S)
    with pytest.raises(LeaseLost):  # a day after it was shown: it is somebody else's by now
        await choose(queue, held)
    assert await said(queue, group) == []
    for _ in range(3):  # a day after the pictures came: as good as any
        await work(queue, "bob")
    assert [one.at for one in await queue.answers(group.key)] == [START + DAY_S] * 3
    assert await queue.close_due() == [group]


async def test_choices_are_taken_back_one_after_another(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1", 3)
    with pytest.raises(NothingToUndo):
        await queue.undo(rater_id="ada")
    made = [await work(queue) for _ in range(3)]
    for what in reversed(made):
        undone = await open_queue().undo(rater_id="ada")
        assert undone.lease_id != what.lease_id
        update = {"lease_id": what.lease_id, "expires": what.expires}
        assert undone.model_copy(update=update) == what  # the same sides, too
    with pytest.raises(NothingToUndo):
        await queue.undo(rater_id="ada")
    assert await said(queue, group) == []
    assert (await queue.depth()).comparisons == 3
    assert await why_not(queue, "bob") == "empty"  # they are Ada's again
    for what in await queue.held("ada"):
        await choose(queue, what, side_of(what, "second"))
    assert await said(queue, group) == [("ada", "second", True)] * 3
    assert (await queue.rater("ada")).num_choices == 3  # type: ignore[union-attr]


async def test_an_undone_choice_sent_again_changes_nothing(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(lease_s=10)
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1")
    what = await shown(queue)
    await choose(queue, what, choice_id="c1")
    again = await queue.undo(rater_id="ada")
    assert not (await choose(queue, what, choice_id="c1")).first_time
    assert not (await choose(queue, again, choice_id="c1")).first_time
    with pytest.raises(ChoiceRefused):
        await choose(queue, what, choice_id="c2")
    assert await said(queue, group) == []
    assert await queue.held("ada") == [again]
    clock.pass_s(10)
    await work(queue, "bob")  # what was taken back, and not made again, is open to others
    with pytest.raises(NothingToUndo):
        await queue.undo(rater_id="ada")


async def test_what_a_reward_used_is_not_taken_back(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada")
    used = await ask(queue, "g1", deadline_s=10)
    waiting = await ask(queue, "g2", 3, deadline_s=20)
    for _ in range(3):
        await work(queue)
    assert await queue.close_due() == [used]
    for _ in range(2):
        await queue.undo(rater_id="ada")
    with pytest.raises(NothingToUndo, match="used already"):
        await queue.undo(rater_id="ada")
    assert len(await said(queue, used)) == 1
    assert await said(queue, waiting) == []
