"""How the preference queue measures raters, on every implementation: gold, repeats, and who is paused."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from rewardmesh.wire.errors import NothingToUndo
from services.preference.model import GoldPair, Presentation, Rater
from services.preference.queue import PreferenceQueue
from services.preference.rules import REPEAT_AFTER
from tests.contract.preference import (
    Clock,
    OpenQueue,
    add_gold,
    ask,
    choose,
    join,
    pictures_of,
    said,
    shown,
    side_of,
    why_not,
    work,
)

ALWAYS = 0.4999  # the largest share: about every second comparison


async def known(queue: PreferenceQueue, rater_id: str = "ada") -> Rater:
    rater = await queue.rater(rater_id)
    assert rater is not None
    return rater


async def until_kind(queue: PreferenceQueue, kind: str, preferred: str, rater_id: str = "ada") -> None:
    """Answers `first` to whatever comes, until there is one of this kind, which is answered otherwise."""
    while True:
        what = await shown(queue, rater_id)
        if what.kind == kind:
            choice = "skip" if preferred == "skip" else side_of(what, preferred)
            await choose(queue, what, choice)  # type: ignore[arg-type]
            return
        await choose(queue, what, side_of(what, "first"))


async def test_gold_is_asked_at_its_share_and_once(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=0.25, raters_per_comparison=2)
    await join(queue, "ada", "bob")
    await add_gold(queue, 20)
    group = await ask(queue, "g1", 16)
    kinds: Counter[str] = Counter()
    asked = []
    for _ in range(60):
        what = await shown(queue)
        kinds[what.kind] += 1
        await choose(queue, what, side_of(what, "first"))
        asked.append(what.comparison_id)
    assert 6 <= kinds["gold"] <= 20  # 15 ± 2.7 standard deviations, and no more than there are
    assert len(set(asked)) == 60
    rater = await known(queue)
    assert (rater.num_choices, rater.num_gold, rater.num_gold_right) == (60, kinds["gold"], kinds["gold"])
    assert {one.kind for one in await queue.answers(group.key)} == {"question"}
    golden = [one for one in await queue.latest(60) if one.kind == "gold"]
    assert {(one.group_key, one.counts) for one in golden} == {("gold", False)}
    assert await queue.answers("gold") == golden[::-1]


async def test_gold_that_is_used_up_is_not_asked_again(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=ALWAYS)
    await join(queue, "ada", "bob")
    await add_gold(queue, 3)
    await ask(queue, "g1", 8)
    kinds = [(await work(queue, choice="tie")).kind for _ in range(31)]
    assert Counter(kinds) == {"gold": 3, "question": 28}
    assert await why_not(queue) == "empty"
    rater = await known(queue)
    assert (rater.num_gold, rater.num_gold_right) == (3, 0)  # one picture was better, and a tie says otherwise


async def test_without_a_question_there_is_no_gold(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=ALWAYS)
    await join(queue, "ada")
    await add_gold(queue, 3)
    assert {await why_not(queue) for _ in range(9)} == {"empty"}


async def test_gold_pairs_are_kept_once(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await add_gold(queue, 2)
    await add_gold(queue, 3)
    pairs = await queue.gold()
    assert [pair.gold_id for pair in pairs] == ["00", "01", "02"]
    assert await queue.picture(pairs[2].second) == pictures_of("gold2")[1]
    changed = pairs[0].model_copy(update={"preferred": "second"})
    await queue.add_gold(changed, pictures_of("gold0"))
    assert (await queue.gold())[0].preferred == "first"
    with pytest.raises(ValueError, match="digests"):
        await queue.add_gold(changed.model_copy(update={"gold_id": "9"}), pictures_of("gold1"))
    with pytest.raises(ValueError, match="is no id"):
        await queue.add_gold(GoldPair(**changed.model_dump() | {"gold_id": "a b"}), pictures_of("gold0"))
    assert (await queue.depth()).bytes_in_use == 0


async def test_who_fails_on_gold_is_paused_and_their_answers_are_kept_apart(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=ALWAYS, min_gold_answers=3, min_gold_rate=0.5, max_leases=3)
    await join(queue, "ada", "bob")
    closed, group = await ask(queue, "closed", deadline_s=10), await ask(queue, "g1", 8)
    await work(queue)
    assert await queue.close_due() == [closed]
    await work(queue)
    await add_gold(queue, 12)
    held = await shown(queue)
    while held.kind != "question":
        await queue.release(held.lease_id, rater_id="ada")
        held = await shown(queue)
    for preferred in ("skip", "second", "first", "second"):
        assert not (await known(queue)).paused
        await until_kind(queue, "gold", preferred)
    rater = await known(queue)
    assert (rater.paused, rater.why_paused) == (True, "gold: 1 of 3 right")
    assert await why_not(queue) == "rater_paused"
    assert {counts for _, _, counts in await said(queue, closed)} == {True}  # a reward has used it
    assert {counts for _, _, counts in await said(queue, group)} == {False}
    assert (await queue.depth()).comparisons == 28  # open to others again
    await choose(queue, held)  # what they held may be answered, for nothing
    assert {counts for _, _, counts in await said(queue, group)} == {False}

    kinds = Counter([(await work(queue, "bob", choice="skip")).kind for _ in range(40)])
    assert kinds == {"gold": 12, "question": 28}
    assert (await known(queue, "bob")).num_gold == 0  # who cannot tell says nothing wrong
    assert await queue.close_due() == [closed, group]
    assert Counter(counts for _, _, counts in await said(queue, group))[True] == 28


async def test_who_works_again_is_judged_by_what_follows(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=ALWAYS, min_gold_answers=2, min_gold_rate=0.6)
    await join(queue, "ada")
    await add_gold(queue, 9)
    await ask(queue, "g1", 9)
    for _ in range(2):
        await until_kind(queue, "gold", "second")
    assert (await known(queue)).paused
    rater = await queue.pause_rater("ada", paused=False)
    assert (rater.paused, rater.why_paused, rater.num_gold) == (False, "", 2)
    await until_kind(queue, "gold", "first")
    await until_kind(queue, "gold", "first")
    assert not (await known(queue)).paused  # two of four, but two of two since
    await until_kind(queue, "gold", "second")
    assert not (await known(queue)).paused
    await until_kind(queue, "gold", "second")
    assert (await known(queue)).why_paused == "gold: 2 of 4 right"


async def test_gold_can_be_taken_back_like_any_choice(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=ALWAYS, min_gold_answers=2)
    await join(queue, "ada")
    await add_gold(queue, 3)
    await ask(queue, "g1", 9)
    await until_kind(queue, "gold", "second")
    undone = await queue.undo(rater_id="ada")
    assert undone.kind == "gold"
    rater = await known(queue)
    assert (rater.num_gold, rater.num_gold_right) == (0, 0)
    await choose(queue, undone, side_of(undone, "first"))
    rater = await known(queue)
    assert (rater.num_gold, rater.num_gold_right) == (1, 1)


async def test_an_operator_pauses_a_rater_from_now_on(open_queue: OpenQueue) -> None:
    queue = open_queue()
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1", 3)
    await work(queue)
    held, other = await shown(queue), await shown(queue)
    assert (await queue.pause_rater("ada", paused=True, why="asleep")).why_paused == "asleep"
    assert await why_not(queue) == "rater_paused"
    await choose(queue, held, side_of(held, "second"))
    assert [counts for _, _, counts in await said(queue, group)] == [True, False]
    taken = await work(queue, "bob")  # whose place was given back
    assert taken.comparison_id == held.comparison_id
    undone = await queue.undo(rater_id="ada")
    assert undone.comparison_id == held.comparison_id
    await queue.pause_rater("ada", paused=False)
    await choose(queue, undone, side_of(undone, "second"))  # bob's counts, and it has one place
    await choose(queue, other)
    assert await said(queue, group) == [
        ("ada", (await queue.answers(group.key))[0].preferred, True),
        ("bob", (await queue.answers(group.key))[1].preferred, True),
        ("ada", "second", False),
        ("ada", (await queue.answers(group.key))[3].preferred, True),
    ]
    assert await queue.close_due() == [group]


async def test_a_repeat_comes_once_and_late_enough(open_queue: OpenQueue) -> None:
    queue = open_queue(repeat_share=ALWAYS)
    await join(queue, "ada", "bob")
    group = await ask(queue, "g1", 9)
    made = []
    while (await queue.depth()).comparisons:
        what = await shown(queue)
        made.append(what)
        await choose(queue, what, side_of(what, "first" if len(made) % 2 else "second"))
    at = {one.comparison_id: index for index, one in enumerate(made) if one.kind == "question"}
    repeats = [(index, one.comparison_id) for index, one in enumerate(made) if one.kind == "repeat"]
    assert len(repeats) >= 8
    assert len({one for _, one in repeats}) == len(repeats)
    assert min(index - at[one] for index, one in repeats) > REPEAT_AFTER
    rater = await known(queue)
    same = sum((index - at[one]) % 2 == 0 for index, one in repeats)
    assert (rater.num_repeats, rater.num_repeats_same) == (len(repeats), same)
    answers = await queue.answers(group.key)
    assert {one.counts for one in answers if one.kind == "repeat"} == {False}
    assert sum(one.counts for one in answers) == 36
    assert {one.swapped for one in answers if one.kind == "repeat"} == {True, False}
    assert await queue.close_due() == [group]


async def test_a_repeat_is_of_what_is_still_kept(open_queue: OpenQueue) -> None:
    queue = open_queue(repeat_share=ALWAYS, kept_bytes=700, lease_s=1000)
    await join(queue, "ada")
    groups = [await ask(queue, f"g{index}", 4, deadline_s=1000 + index) for index in range(3)]
    for _ in range(12):
        while (await work(queue)).kind != "question":
            pass
    assert set(await queue.close_due()) == set(groups[:2])
    await queue.settled(groups[0].key)
    held = await shown(queue)
    while held.kind != "repeat" or not held.comparison_id.startswith(groups[0].key):
        await queue.release(held.lease_id, rater_id="ada")
        held = await shown(queue)  # of a settled group, whose pictures are still there
    await queue.settled(groups[1].key)
    assert await queue.group(groups[0].key) is None
    assert held not in await queue.held("ada")  # its pictures are gone
    for _ in range(30):
        what = await shown(queue)
        assert not what.comparison_id.startswith(groups[0].key)
        await queue.release(what.lease_id, rater_id="ada")


async def test_a_repeat_of_what_was_taken_back_measures_nothing(open_queue: OpenQueue, clock: Clock) -> None:
    queue = open_queue(repeat_share=ALWAYS, max_leases=99, lease_s=1000)
    await join(queue, "ada")
    await ask(queue, "g1", 9)
    await until_kind(queue, "repeat", "first")
    undone = await queue.undo(rater_id="ada")
    assert (undone.kind, (await known(queue)).num_repeats) == ("repeat", 0)
    for _ in range((await known(queue)).num_choices):
        await queue.undo(rater_id="ada")
    with pytest.raises(NothingToUndo):
        await queue.undo(rater_id="ada")
    await choose(queue, undone)
    rater = await known(queue)
    assert (rater.num_choices, rater.num_repeats) == (1, 0)


async def test_raters_at_once_are_counted_right(open_queue: OpenQueue) -> None:
    queue = open_queue(gold_share=0.2, repeat_share=0.2, raters_per_comparison=3, min_gold_rate=0.0)
    raters = ["ada", "bob", "cyd"]
    await join(queue, *raters)
    await add_gold(queue, 5)
    group = await ask(queue, "g1", 8)

    async def work_on(rater_id: str) -> int:
        num = 0
        while isinstance(found := await queue.lease(rater_id), Presentation):
            num += (await choose(queue, found)).first_time
        return num

    nums = await asyncio.gather(*map(work_on, raters))
    assert [(await known(queue, rater)).num_choices for rater in raters] == list(nums)
    assert Counter(rater for rater, _, counts in await said(queue, group) if counts) == dict.fromkeys(raters, 28)
    assert await queue.close_due() == [group]
