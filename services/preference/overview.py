"""What the operator's page shows, read and not kept: what waits, how fast it goes, how far people agree, who they are."""

from __future__ import annotations

import time
from typing import Final

from rewardmesh.wire.messages import Count, Message, Number
from services.gateway.audit import AuditLine
from services.preference.context import Preference
from services.preference.invites import Invite
from services.preference.model import Answer, Group, QueueDepth
from services.preference.reliability import Reliability, reliability
from services.preference.rewards import agreement
from services.preference.rules import gold_comparison_id

__all__ = ["GoldResult", "InviteView", "Overview", "RecentChoice", "overview"]

_LATEST: Final = 1000  # choices that are looked back on
_RECENT: Final = 12  # that are shown with their pictures
_THROUGHPUT_S: Final = 600.0
_AUDIT_LINES: Final = 20


class InviteView(Message):
    """An invite, the text that its link ends with, and how many came by it."""

    invite: Invite
    link: str
    num_raters: Count
    holds: bool


class GoldResult(Message):
    """How a comparison with a known answer was answered, among the latest choices."""

    gold_id: str
    prompt: str
    num_answers: Count
    num_right: Count


class RecentChoice(Message):
    """A choice and what it was about: digests of pictures as they were shown, left to right."""

    answer: Answer
    prompt: str
    pictures: tuple[str, ...]


class Overview(Message):
    """Everything that the page shows. Of agreement and gold: over the latest `num_latest` choices."""

    depth: QueueDepth
    choices_per_min: Number
    num_latest: Count
    alpha: Number | None
    left_share: Number | None
    raters: list[Reliability]
    gold: list[GoldResult]
    recent: list[RecentChoice]
    invites: list[InviteView]
    changes: list[AuditLine]
    refusals: list[AuditLine]


async def overview(preference: Preference) -> Overview:
    """The present state. Raises: BufferUnavailable."""
    queue = preference.queue
    latest = await queue.latest(_LATEST)
    now = time.time()
    sides = [answer.choice == "left" for answer in latest if answer.choice in {"left", "right"}]
    return Overview(
        depth=await queue.depth(),
        choices_per_min=sum(now - answer.at < _THROUGHPUT_S for answer in latest) * 60 / _THROUGHPUT_S,
        num_latest=len(latest),
        alpha=agreement(latest),
        left_share=sum(sides) / len(sides) if sides else None,
        raters=reliability(await queue.raters(), latest),
        gold=await _gold(preference, latest),
        recent=[one for answer in latest[:_RECENT] if (one := await _recent(preference, answer)) is not None],
        invites=[await _invite(preference, invite, now) for invite in reversed(await preference.invites.all())],
        changes=await preference.audit.latest(_AUDIT_LINES),
        refusals=await preference.refusals.latest(_AUDIT_LINES),
    )


async def _gold(preference: Preference, latest: list[Answer]) -> list[GoldResult]:
    results = []
    for pair in await preference.queue.gold():
        said = [
            one.preferred
            for one in latest
            if one.kind == "gold" and one.comparison_id == gold_comparison_id(pair.gold_id)
        ]
        num_right = sum(preferred == pair.preferred for preferred in said)
        results.append(GoldResult(gold_id=pair.gold_id, prompt=pair.prompt, num_answers=len(said), num_right=num_right))
    return results


async def _recent(preference: Preference, answer: Answer) -> RecentChoice | None:
    """None once the group is forgotten."""
    group = await preference.queue.group(answer.group_key)
    if group is None:
        return None
    return RecentChoice(answer=answer, prompt=group.prompt, pictures=_as_shown(group, answer))


def _as_shown(group: Group, answer: Answer) -> tuple[str, ...]:
    indices = (answer.first,) if answer.second is None else (answer.first, answer.second)
    return tuple(group.pictures[index].digest for index in (reversed(indices) if answer.swapped else indices))


async def _invite(preference: Preference, invite: Invite, now: float) -> InviteView:
    return InviteView(
        invite=invite,
        link=preference.invites.link_token(invite.invite_id),
        num_raters=await preference.invites.num_raters(invite.invite_id),
        holds=not invite.revoked and invite.expires > now,
    )
