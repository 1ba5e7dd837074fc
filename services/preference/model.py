"""What the queue holds: groups, comparisons, presentations, choices and raters. Plain frozen data, no storage."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from rewardmesh.wire.messages import Count, Identifier, Message, Name, Number, Sample

__all__ = [
    "Answer",
    "Choice",
    "Comparison",
    "ComparisonKind",
    "GoldPair",
    "Group",
    "GroupPicture",
    "Nothing",
    "Presentation",
    "QueueDepth",
    "QueueSettings",
    "Rater",
    "Saved",
    "digest_of",
]

#: What a rater may say. Pairs: the first five; single pictures: like, dislike, skip.
Choice = Literal["left", "right", "tie", "both_bad", "skip", "like", "dislike"]

#: A question earns a reward. Gold has a known answer, a repeat was answered before by the same rater: both measure.
ComparisonKind = Literal["question", "gold", "repeat"]


def digest_of(picture: bytes) -> str:
    """The name of a picture's bytes: 64 hexadecimal digits."""
    return hashlib.sha256(picture).hexdigest()


class QueueSettings(Message):
    """How groups become questions, and how raters are held to them."""

    mode: Literal["pairs", "singles"] = "pairs"
    pairing: Literal["close", "uniform"] = "close"  # close in the surrogate's opinion (the request's hint)
    comparisons_per_group: Count = Field(default=12, ge=1)  # of pairs; or as many as connect its pictures, if more
    raters_per_comparison: Count = Field(default=1, ge=1, le=25)  # k distinct raters
    lease_s: Number = Field(default=90.0, gt=0)
    deadline_s: Number = Field(default=86_400.0, gt=0)  # of a group; then it is settled on what there is
    budget_bytes: Count = Field(default=512 * 1024 * 1024, ge=1)  # of pictures that wait for people
    kept_bytes: Count = Field(default=1024 * 1024 * 1024, ge=0)  # of pictures of settled groups, for the export
    gold_share: Number = Field(default=0.05, ge=0, lt=0.5)
    repeat_share: Number = Field(default=0.05, ge=0, lt=0.5)
    min_gold_rate: Number = Field(default=0.7, ge=0, le=1)  # below it, a rater is paused
    min_gold_answers: Count = Field(default=8, ge=1)  # from so many gold answers on
    max_leases: Count = Field(default=2, ge=1)  # of one rater: the pair that is shown, and the next one
    min_look_s: Number = Field(default=0.7, ge=0)


class GroupPicture(Message):
    """One sample of a group, as it was accepted. `digest` names its bytes in the queue: `digest_of` them."""

    sample: Sample
    digest: str
    hint: Number | None = None


class Group(Message):
    """A group that people are asked about. `key` is unique over runs: `<run_id>/<group_id>`."""

    key: str
    run_id: Name
    group_id: Identifier
    prompt: str
    pictures: tuple[GroupPicture, ...]
    accepted: Number  # unix seconds, as are all times here
    until: Number


class Comparison(Message):
    """Two pictures of one group, by their index in it; a single picture where `second` is None."""

    comparison_id: str
    group_key: str
    kind: ComparisonKind = "question"
    first: Count
    second: Count | None = None


class GoldPair(Message):
    """A comparison with a known answer: pictures by digest, and which of them people prefer."""

    gold_id: str
    prompt: str
    first: str
    second: str
    preferred: Literal["first", "second"]


class Presentation(Message):
    """A comparison under lease: what one rater sees. `swapped`: the first picture is on the right."""

    lease_id: str
    comparison_id: str
    kind: ComparisonKind
    rater_id: str
    prompt: str
    left: str  # digests of pictures
    right: str | None
    swapped: bool
    expires: Number


class Nothing(Message):
    """Why there is nothing to show."""

    reason: Literal["empty", "paused", "rater_paused", "too_many_leases"]


class Saved(Message):
    """A choice that is kept. `first_time` is False for the same choice sent again."""

    choice_id: str
    comparison_id: str
    first_time: bool


class Answer(Message):
    """A choice as it is kept. `choice` is as the rater saw it; `preferred` is in the comparison's own order."""

    choice_id: str
    comparison_id: str
    group_key: str
    kind: ComparisonKind
    rater_id: str
    choice: Choice
    swapped: bool
    first: Count
    second: Count | None
    preferred: Literal["first", "second", "tie", "both_bad", "skip", "like", "dislike"]
    at: Number
    look_s: Number
    counts: bool = True  # for a reward. False: of a paused rater, kept apart; and gold and repeats always


class Rater(Message):
    """One person, by the id that their invite gave them."""

    rater_id: str
    invite_id: str
    name: str = ""
    paused: bool = False
    why_paused: str = ""
    joined: Number
    num_choices: Count = 0
    num_gold: Count = 0
    num_gold_right: Count = 0
    num_repeats: Count = 0
    num_repeats_same: Count = 0
    prolific_pid: str | None = None


class QueueDepth(Message):
    """What waits."""

    groups: Count
    comparisons: Count  # not yet answered by all that they need
    leased: Count
    bytes_in_use: Count
    budget_bytes: Count
    oldest_s: Number
    paused: bool
