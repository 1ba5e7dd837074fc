"""What is asked of raters, on every preference queue: groups taken over, leases, and who holds what."""

from __future__ import annotations

import asyncio

import pytest

from rewardmesh.wire.errors import BufferFull, LeaseLost
from services.preference.model import Presentation
from tests.contract.preference import (
    START,
    Clock,
    OpenQueue,
    ask,
    choose,
    group_of,
    join,
    pictures_of,
    questions_of,
    said,
    shown,
    why_not,
    work,
)


async def test_a_group_is_taken_over_once(open_queue: OpenQueue) -> None:
    queue = open_queue()
    group = await ask(queue, "g1", 3)
    assert not await open_queue().accept(group, pictures_of("g1", 3), questions_of(group)[:1])
    assert await queue.group(group.key) == group
    assert await queue.group("run/other") is None
    assert [await queue.picture(one.digest) for one in group.pictures] == pictures_of("g1", 3)
    assert await queue.picture("0" * 64) is None
    depth = await queue.depth()
    assert (depth.groups, depth.comparisons, depth.leased, depth.bytes_in_use) == (1, 3, 0, 300)


async def test_what_does_not_fit_is_refused_and_leaves_nothing(open_queue: OpenQueue) -> None:
    queue = open_queue(budget_bytes=500)
    await ask(queue, "g1", 3)
    pictures = pictures_of("g2", 3)
    group = group_of("g2", pictures)
    with pytest.raises(BufferFull, match="300 of 500"):
        await queue.accept(group, pictures, questions_of(group))
    assert await queue.group(group.key) is None
    assert await queue.picture(group.pictures[0].digest) is None
    assert (await queue.depth()).bytes_in_use == 300
    await ask(queue, "g3", 2)


async def test_parts_that_do_not_belong_together_are_refused(open_queue: OpenQueue) -> None:
    queue, pictures = open_queue(), pictures_of("g1")
    group = group_of("g1", pictures)
    (question,) = questions_of(group)
    for changed in (
        {"first": 1},
        {"second": 2},
        {"group_key": "run/g2"},
        {"kind": "gold"},
        {"comparison_id": "a b"},
    ):
        with pytest.raises(ValueError, match="group run/g1"):
            await queue.accept(group, pictures, [question.model_copy(update=changed)])
    with pytest.raises(ValueError, match="the same id"):
        await queue.accept(group, pictures, [question, question])
    with pytest.raises(ValueError, match="digests"):
        await queue.accept(group, pictures[::-1], [question])
    with pytest.raises(ValueError, match="is not the key"):
        await queue.accept(group.model_copy(update={"key": "run/g2"}), pictures, [question])
    assert (await queue.depth()).groups == 0


async def test_the_group_that_is_due_first_is_asked_first(open_queue: OpenQueue) -> None:
    queue = open_queue(max_leases=9)
    await join(queue, "ada")
    for group_id, deadline_s in (("later", 300.0), ("now", -1.0), ("soon", 100.0)):
        await ask(queue, group_id, 3 if group_id == "soon" else 2, deadline_s=deadline_s)
    asked = [(await shown(queue)).comparison_id for _ in range(4)]
    assert asked == ["run/soon/0000", "run/soon/0001", "run/soon/0002", "run/later/0000"]
    assert await why_not(queue) == "empty"  # nothing of a group past its deadline


async def test_what_is_shown_is_what_was_asked(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(lease_s=90)
    await join(queue, "ada")
    group = await ask(queue, "g1")
    what = await shown(queue)
    sides = [one.digest for one in group.pictures]
    assert [what.left, what.right] == (sides[::-1] if what.swapped else sides)
    assert (what.prompt, what.kind, what.rater_id, what.expires) == (group.prompt, "question", "ada", START + 90)
    assert await open_queue().held("ada") == [what]
    assert await queue.held("bob") == []


async def test_a_rater_holds_no_more_than_they_may(open_queue: OpenQueue) -> None:
    queue = open_queue(max_leases=2)
    await join(queue, "ada")
    await ask(queue, "g1", 3)
    held = [await shown(queue), await shown(queue)]
    assert await why_not(queue) == "too_many_leases"
    assert await queue.held("ada") == held
    await choose(queue, held[0])
    third = await shown(queue)
    assert await queue.held("ada") == [held[1], third]


async def test_no_two_raters_hold_one_place(open_queue: OpenQueue) -> None:
    queue = open_queue(raters_per_comparison=2, max_leases=20)
    raters = [f"rater{index}" for index in range(5)]
    await join(queue, *raters)
    await ask(queue, "g1", 4)
    found = await asyncio.gather(*(open_queue().lease(rater) for rater in raters * 6))
    given = [one for one in found if isinstance(one, Presentation)]
    assert len(given) == 12  # six comparisons, two raters each
    assert len({one.lease_id for one in given}) == len({(one.comparison_id, one.rater_id) for one in given}) == 12
    assert (await queue.depth()).leased == 12


async def test_a_comparison_has_k_raters_none_twice(open_queue: OpenQueue) -> None:
    queue = open_queue(raters_per_comparison=2)
    await join(queue, "ada", "bob", "cyd")
    group = await ask(queue, "g1")
    await work(queue, "ada")
    assert await why_not(queue, "ada") == "empty"
    held = await shown(queue, "bob")
    assert await why_not(queue, "cyd") == "empty"
    await queue.release(held.lease_id, rater_id="bob")
    await work(queue, "cyd")
    assert await why_not(queue, "bob") == "empty"
    assert [rater for rater, *_ in await said(queue, group)] == ["ada", "cyd"]


async def test_an_expired_lease_is_open_again_and_its_choice_is_lost(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(lease_s=10)
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1")
    first = await shown(queue, "ada")
    clock.pass_s(9.999)
    assert await why_not(queue, "bob") == "empty"
    clock.pass_s(0.001)
    assert await queue.held("ada") == []
    with pytest.raises(LeaseLost):
        await choose(queue, first)
    with pytest.raises(LeaseLost):
        await queue.renew(first.lease_id, rater_id="ada")
    again = await shown(queue, "ada")  # their own question is no other one
    assert (again.comparison_id, again.lease_id != first.lease_id) == (first.comparison_id, True)
    clock.pass_s(10)
    await work(queue, "bob")
    assert [rater for rater, *_ in await said(queue, group)] == ["bob"]


async def test_a_renewed_lease_is_kept(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(lease_s=10)
    await join(queue, "ada")
    await ask(queue, "g1")
    what = await shown(queue)
    for _ in range(3):
        clock.pass_s(9)
        renewed = await queue.renew(what.lease_id, rater_id="ada")
        assert renewed == what.model_copy(update={"expires": clock.now + 10})
        assert await queue.held("ada") == [renewed]
    assert (await choose(queue, what)).first_time


async def test_another_s_lease_is_nobody_else_s(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1")
    what = await shown(queue, "ada")
    with pytest.raises(LeaseLost, match="not yours"):
        await choose(queue, what, rater_id="bob")
    with pytest.raises(LeaseLost):
        await queue.renew(what.lease_id, rater_id="bob")
    with pytest.raises(LeaseLost):
        await queue.choose("nonsense", "left", rater_id="bob", choice_id="c", look_s=1)
    await queue.release(what.lease_id, rater_id="bob")
    assert await queue.held("ada") == [what]
    assert await said(queue, group) == []
    await queue.release(what.lease_id, rater_id="ada")
    await queue.release(what.lease_id, rater_id="ada")
    assert await queue.held("ada") == []
