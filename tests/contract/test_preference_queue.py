"""The preference queue's contract, in memory and on every server: what is promised to raters, judge and operator."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from rewardmesh.wire.errors import BufferFull, ChoiceRefused, LeaseLost, NothingToUndo, UnknownRater
from services.preference.model import Nothing, Presentation, Rater
from tests.contract.preference import (
    DAY_S,
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
    side_of,
    why_not,
    work,
)

# Groups


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


# Leases


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


# Choices


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


# Undo


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


# Closing and settling


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


# The operator's


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
