"""Dead letters of every stream: bounded, shown, taken back, dropped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rewardmesh.wire.errors import BufferFull, PictureGone, UnknownGroup, UnknownLetter
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.stream import DeadLetter, Group, Stream
from tests.contract.streams import MakeGroup, failed, scored, settle, take

OpenStream = Callable[..., Stream]


async def one_failed(stream: Stream, group: Group) -> DeadLetter:
    """Enqueues the group, scores all of its samples but the first, and gives that one's letter."""
    await stream.enqueue(group, oracles=["count"])
    first, *others = await take(stream)
    assert await settle(stream, failed(first), *map(scored, others)) == (len(group.requests), 0, 0)
    (letter,) = await stream.dead_letters("count", 1)
    return letter


async def test_dead_letters_are_bounded_in_number_and_bytes(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(dead_letter_bytes=250, max_dead_letters=4)
    for index in range(6):
        await stream.enqueue(make_group(f"g{index}", size=1), oracles=["count"])
        await settle(stream, *map(failed, await take(stream)))
        await stream.forget(f"g{index}")
    letters = await stream.dead_letters("count", 10)
    assert [letter.sample.group_id for letter in letters] == ["g5", "g4", "g3", "g2"]
    assert [letter.picture is not None for letter in letters] == [True, True, False, False]
    assert (letters[0].failure.code, letters[0].oracle, letters[0].media_type) == (
        "oracle_error",
        "count",
        "application/x-raw-rgb;width=1;height=1",
    )
    assert len(await stream.dead_letters("count", 2)) == 2
    assert (await stream.depth("count")).dead_letters == 4


async def test_a_letter_is_shown_by_its_id(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    letter = await one_failed(stream, make_group())
    assert await stream.dead_letter("count", letter.letter_id) == letter
    assert letter.picture == make_group().requests[0].picture
    for unknown in ("0-1", "nonsense", "*", ""):
        with pytest.raises(UnknownLetter, match="no such dead letter"):
            await stream.dead_letter("count", unknown)
        assert not await stream.requeue("count", unknown)
        assert not await stream.discard("count", unknown)


async def test_a_requeued_sample_gets_one_other_outcome(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    letter = await one_failed(stream, make_group())
    _, cursor = await stream.completions()
    assert await stream.requeue("count", letter.letter_id)
    assert not await stream.requeue("count", letter.letter_id)  # once is enough
    assert await stream.dead_letters("count", 9) == []

    outcome = await stream.outcomes("g1", "count")
    assert (outcome.complete, sorted(outcome.results), sorted(outcome.provenance)) == (False, ["g1/1"], ["g1/1"])
    depth = await stream.depth("count")
    assert (depth.lag, depth.bytes_in_use, depth.dead_letters) == (1, 100, 0)
    (claim,) = await take(stream)
    assert (claim.sample, claim.picture, claim.media_type) == (letter.sample, letter.picture, letter.media_type)
    assert (claim.attempts, claim.failures, claim.deliveries) == (0, {}, 1)
    assert claim.hint == make_group().requests[0].hint

    assert await settle(stream, scored(claim), version="2") == (1, 0, 0)
    assert await settle(stream, failed(claim)) == (0, 1, 0)
    outcome = await stream.outcomes("g1", "count")
    assert (outcome.complete, outcome.results["g1/0"]) == (True, scored(claim)[1])
    assert (await stream.completions(after=cursor))[0] == [("g1", "count")]  # the trainer hears of it again
    assert (await stream.depth("count")).bytes_in_use == 0


async def test_a_requeued_sample_may_fail_again(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    letter = await one_failed(stream, make_group(size=1))
    assert await stream.requeue("count", letter.letter_id)
    await settle(stream, *map(failed, await take(stream)))
    assert (await stream.outcomes("g1", "count")).complete
    (again,) = await stream.dead_letters("count", 9)
    assert again.letter_id != letter.letter_id
    assert again.picture == letter.picture


async def test_another_oracle_is_not_touched_by_a_requeue(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    await stream.enqueue(make_group(size=1), oracles=["count", "spelling"])
    await settle(stream, *map(failed, await take(stream)))
    (letter,) = await stream.dead_letters("count", 9)
    assert await stream.requeue("count", letter.letter_id)
    for oracle in ("spelling", "count"):
        (claim,) = await stream.claim(oracle, consumer="w1", max_samples=9, lease_s=30)
        assert claim.picture == letter.picture
        await stream.settle(oracle, consumer="w1", outcomes=[scored(claim)], version="1")
        outcome = await stream.outcomes("g1", oracle)
        assert (outcome.complete, outcome.results["g1/0"].kind) == (True, "scored")


async def test_what_cannot_be_requeued_says_why(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(dead_letter_bytes=150, budget_bytes=250)
    pushed_out = await one_failed(stream, make_group("g1"))
    kept = await one_failed(stream, make_group("g2"))
    with pytest.raises(PictureGone, match="pushed out"):
        await stream.requeue("count", pushed_out.letter_id)
    assert (await stream.outcomes("g1", "count")).complete

    await stream.enqueue(make_group("g3"), oracles=["count"])
    with pytest.raises(BufferFull, match="no room"):
        await stream.requeue("count", kept.letter_id)
    await stream.forget("g3")

    await stream.forget("g2")
    with pytest.raises(UnknownGroup, match="forgotten"):
        await stream.requeue("count", kept.letter_id)
    await stream.enqueue(make_group("g2"), oracles=["count"])
    with pytest.raises(UnknownGroup):  # another group under the same id
        await stream.requeue("count", kept.letter_id)
    assert len(await stream.dead_letters("count", 9)) == 2  # a refusal changes nothing


async def test_a_discarded_letter_leaves_the_outcome(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream(dead_letter_bytes=150)
    letter = await one_failed(stream, make_group())
    assert await stream.discard("count", letter.letter_id)
    assert not await stream.discard("count", letter.letter_id)
    outcome = await stream.outcomes("g1", "count")
    assert (outcome.complete, outcome.results["g1/0"]) == (True, letter.failure)
    assert (await one_failed(stream, make_group("g2"))).picture is not None  # its bytes were given back


async def test_a_late_answer_settles_a_requeued_sample(open_stream: OpenStream, make_group: MakeGroup) -> None:
    stream = open_stream()
    letter = await one_failed(stream, make_group(size=1))
    assert await stream.requeue("count", letter.letter_id)
    answer = Scored(sample_id="g1/0", reward=1.0)
    assert await stream.settle_late("count", group_id="g1", result=answer, version="j")
    assert (await stream.outcomes("g1", "count")).results == {"g1/0": answer}
    assert await take(stream) == []
