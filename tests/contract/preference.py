"""What the tests of the preference queue ask of it: a clock that they turn, small groups, and raters at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from uuid import uuid4

from rewardmesh.wire.messages import Checks, Sample
from services.preference.model import (
    Answer,
    Choice,
    Comparison,
    GoldPair,
    Group,
    GroupPicture,
    Nothing,
    Presentation,
    Rater,
    Saved,
    digest_of,
)
from services.preference.queue import PreferenceQueue

OpenQueue = Callable[..., PreferenceQueue]
START = 1_700_000_000.0
DAY_S = 86_400.0
PLAIN = {"gold_share": 0.0, "repeat_share": 0.0}  # settings of a queue that asks questions only


class Clock:
    """Unix seconds, in whole milliseconds."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)


def pictures_of(group_id: str, num: int = 2, num_bytes: int = 100) -> list[bytes]:
    return [f"{group_id} {index} ".encode().ljust(num_bytes, b".") for index in range(num)]


def group_of(
    group_id: str, pictures: Sequence[bytes], *, accepted: float = START, deadline_s: float = 3600.0, prompt: str = ""
) -> Group:
    return Group(
        key=f"run/{group_id}",
        run_id="run",
        group_id=group_id,
        prompt=prompt or f"a red circle of {group_id} – ✓",
        pictures=tuple(
            GroupPicture(
                sample=Sample(
                    run_id="run",
                    group_id=group_id,
                    sample_id=f"{group_id}/{index}",
                    policy_version=3,
                    boundary_index=4,
                    prompt=prompt or f"a red circle of {group_id} – ✓",
                    checks=Checks(tag="single_object"),
                ),
                digest=digest_of(picture),
                hint=index / 8,
            )
            for index, picture in enumerate(pictures)
        ),
        accepted=accepted,
        until=accepted + deadline_s,
    )


def questions_of(group: Group, *, single: bool = False) -> list[Comparison]:
    """Every pair of the group, or every picture."""
    indices = range(len(group.pictures))
    sides = [(index, None) for index in indices] if single else list(combinations(indices, 2))
    return [
        Comparison(comparison_id=f"{group.key}/{number:04d}", group_key=group.key, first=first, second=second)
        for number, (first, second) in enumerate(sides)
    ]


async def ask(
    queue: PreferenceQueue, group_id: str, num: int = 2, *, num_bytes: int = 100, single: bool = False, **group: float
) -> Group:
    """Brings a group to the queue, which accepts it."""
    pictures = pictures_of(group_id, num, num_bytes)
    asked = group_of(group_id, pictures, **group)  # type: ignore[arg-type]
    assert await queue.accept(asked, pictures, questions_of(asked, single=single))
    return asked


async def add_gold(queue: PreferenceQueue, num: int) -> None:
    """Gold pairs of which the first picture is preferred."""
    for index in range(num):
        pictures = pictures_of(f"gold{index}")
        first, second = map(digest_of, pictures)
        pair = GoldPair(gold_id=f"{index:02d}", prompt="gold", first=first, second=second, preferred="first")
        await queue.add_gold(pair, pictures)


async def join(queue: PreferenceQueue, *rater_ids: str) -> None:
    for index, rater_id in enumerate(rater_ids):
        await queue.join(Rater(rater_id=rater_id, invite_id="i", joined=START + index))


async def shown(queue: PreferenceQueue, rater_id: str = "ada") -> Presentation:
    found = await queue.lease(rater_id)
    assert isinstance(found, Presentation), found
    return found


async def why_not(queue: PreferenceQueue, rater_id: str = "ada") -> str:
    found = await queue.lease(rater_id)
    assert isinstance(found, Nothing), found
    return found.reason


async def choose(
    queue: PreferenceQueue, what: Presentation, choice: Choice = "left", *, choice_id: str = "", rater_id: str = ""
) -> Saved:
    return await queue.choose(
        what.lease_id,
        choice,
        rater_id=rater_id or what.rater_id,
        choice_id=choice_id or uuid4().hex,
        look_s=1.25,
    )


async def work(queue: PreferenceQueue, rater_id: str = "ada", choice: Choice = "left") -> Presentation:
    """One comparison, leased and answered."""
    what = await shown(queue, rater_id)
    assert (await choose(queue, what, choice)).first_time
    return what


def side_of(what: Presentation, preferred: str) -> Choice:
    """The side on which the comparison's first or second picture is shown."""
    return "left" if (preferred == "first") != what.swapped else "right"


async def said(queue: PreferenceQueue, group: Group) -> list[tuple[str, str, bool]]:
    """Who preferred what, and whether it counts."""
    return [(one.rater_id, one.preferred, one.counts) for one in await queue.answers(group.key)]


def without_ids(answer: Answer) -> Answer:
    return answer.model_copy(update={"choice_id": ""})
