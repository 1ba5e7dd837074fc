"""What becomes of what raters said, on every preference queue: groups closed, settled and kept; the operator's view."""

from __future__ import annotations

import pytest

from rewardmesh.wire.errors import LeaseLost, NothingToUndo, UnknownRater
from services.preference.model import Nothing, Rater
from tests.contract.preference import (
    START,
    Clock,
    OpenQueue,
    ask,
    choose,
    group_of,
    join,
    pictures_of,
    said,
    shown,
    why_not,
    work,
)


async def test_an_answered_group_is_closed_once(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada")
    group = await ask(queue, "g1", 3)
    for _ in range(2):
        await work(queue)
    assert await queue.close_due() == []
    await work(queue)
    await queue.undo(rater_id="ada")
    assert await queue.close_due() == []  # taken back in time
    (again,) = await queue.held("ada")
    await choose(queue, again)
    assert await queue.close_due() == [group]
    assert await open_queue().close_due() == [group]  # until its rewards are posted
    depth = await queue.depth()
    assert (depth.groups, depth.comparisons, depth.bytes_in_use) == (0, 0, 300)
    await queue.settled(group.key)
    await queue.settled(group.key)
    assert await queue.close_due() == []
    assert (await queue.depth()).bytes_in_use == 0
    assert await queue.settled_groups() == [group]
    assert len(await queue.answers(group.key)) == 3


async def test_a_group_past_its_deadline_is_closed_on_what_there_is(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(lease_s=1000)
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1", 3, deadline_s=100)
    await work(queue)
    held, other = await shown(queue, "bob"), await shown(queue, "bob")
    clock.pass_s(99.999)
    assert await queue.close_due() == []
    clock.pass_s(0.001)
    assert await why_not(queue, "ada") == "empty"
    await choose(queue, held)  # late, and yet in time
    assert await queue.close_due() == [group]
    assert await queue.held("bob") == []
    with pytest.raises(LeaseLost):
        await choose(queue, other)
    with pytest.raises(LeaseLost):
        await queue.renew(other.lease_id, rater_id="bob")
    assert [rater for rater, *_ in await said(queue, group)] == ["ada", "bob"]
    assert (await queue.depth()).leased == 0


async def test_a_group_without_questions_is_due_at_once(open_queue: OpenQueue) -> None:
    queue = open_queue()
    group = await ask(queue, "g1", 1)
    assert await queue.close_due() == [group]


async def test_no_more_groups_are_closed_than_are_wanted(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue()
    groups = [await ask(queue, f"g{index}", deadline_s=50 - index) for index in range(5)]
    answered = await ask(queue, "answered", 1, deadline_s=99)
    clock.pass_s(60)
    due = [answered, *reversed(groups)]  # what is answered comes first, then the oldest deadline
    assert await queue.close_due(max_groups=2) == due[:2]
    assert await queue.close_due(max_groups=2) == due[:2]  # the trainer was not told of these
    await queue.settled(due[1].key)
    assert await queue.close_due(max_groups=2) == [due[0], due[2]]
    await queue.settled("run/unknown")
    await queue.settled(due[4].key)  # it is still open
    assert await queue.close_due(max_groups=9) == [due[0], *due[2:]]


async def test_settled_groups_are_kept_until_their_bytes_are_needed(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(kept_bytes=650)
    await join(queue, "ada")
    groups = [await ask(queue, f"g{index}", deadline_s=index + 1) for index in range(5)]
    for _ in groups:
        await work(queue)
    for group in await queue.close_due():
        await queue.settled(group.key)
    assert await queue.settled_groups() == groups[2:]
    assert await queue.settled_groups(max_groups=2) == groups[2:4]
    assert await queue.settled_groups(after=groups[3].key) == groups[4:]
    assert await queue.settled_groups(after=groups[0].key) == groups[2:]  # gone: all that are kept are younger
    assert await queue.settled_groups(after=groups[4].key) == []
    for group, is_kept in zip(groups, [False, False, True, True, True], strict=True):
        assert (await queue.group(group.key) is not None) == is_kept
        assert (await queue.picture(group.pictures[1].digest) is not None) == is_kept
        assert len(await queue.answers(group.key)) == is_kept
    assert len(await queue.latest(9)) == 3
    with pytest.raises(NothingToUndo):
        await queue.undo(rater_id="ada")


async def test_a_picture_of_two_groups_stays_for_the_second(open_queue: OpenQueue) -> None:
    queue = open_queue(kept_bytes=0)
    await join(queue, "ada")
    pictures = pictures_of("same")
    groups = [group_of(group_id, [*pictures, pictures[0]]) for group_id in ("g1", "g2")]
    for group in groups:
        await queue.accept(group, [*pictures, pictures[0]], [])
    assert await queue.close_due() == groups
    await queue.settled(groups[0].key)
    assert [await queue.picture(one.digest) for one in groups[0].pictures[:2]] == pictures
    await queue.settled(groups[1].key)
    assert await queue.picture(groups[0].pictures[0].digest) is None


async def test_a_paused_queue_gives_out_nothing_and_takes_answers(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada")
    group = await ask(queue, "g1", 3)
    held = await shown(queue)
    await queue.pause(paused=True)
    assert await why_not(open_queue()) == "paused"
    assert (await queue.depth()).paused
    await choose(queue, held)
    assert len(await said(queue, group)) == 1
    await queue.pause(paused=False)
    await work(queue)


async def test_depth_says_what_waits(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(raters_per_comparison=2, budget_bytes=1000)
    await join(queue, "ada", "bob")
    assert (await queue.depth()).oldest_s == 0
    await ask(queue, "g1", 3, deadline_s=100)
    clock.pass_s(7)
    await ask(queue, "g2", accepted=clock.now)
    await work(queue, "ada")
    await work(queue, "bob")
    await shown(queue, "ada")
    depth = await queue.depth()
    assert (depth.groups, depth.comparisons, depth.leased, depth.oldest_s) == (2, 3, 1, 7)
    assert (depth.bytes_in_use, depth.budget_bytes, depth.paused) == (500, 1000, False)


async def test_raters_are_known_once_they_have_joined(open_queue: OpenQueue) -> None:
    queue = open_queue()
    with pytest.raises(UnknownRater, match="ada"):
        await queue.lease("ada")
    with pytest.raises(UnknownRater):
        await queue.pause_rater("ada", paused=True)
    assert await queue.rater("ada") is None
    bob = Rater(rater_id="bob", invite_id="i2", name="Bób", joined=START + 5, prolific_pid="p")
    ada = Rater(rater_id="ada", invite_id="i1", joined=START + 9)
    for rater in (ada, bob):
        assert await queue.join(rater) == rater
    assert await queue.join(ada.model_copy(update={"name": "other"})) == ada
    await ask(queue, "g1")
    await work(queue, "bob")
    known = bob.model_copy(update={"num_choices": 1})
    assert await queue.join(bob) == known
    assert await open_queue().raters() == [known, ada]
    assert isinstance(await queue.lease("ada"), Nothing)


async def test_the_latest_choices_come_newest_first(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1", 3)
    for rater in ("ada", "bob", "ada"):
        await work(queue, rater)
    answers = await queue.answers(group.key)
    assert await queue.latest(2) == answers[:0:-1]
    await queue.undo(rater_id="ada")
    assert await queue.latest(9) == answers[1::-1]
    (held,) = await queue.held("ada")
    await choose(queue, held, "tie")
    assert [one.preferred for one in await queue.latest(9)] == ["tie", *(one.preferred for one in answers[1::-1])]
