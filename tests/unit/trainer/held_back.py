"""Feedback that a test holds back, refuses or answers twice; what is in it are the oracles of the process."""

from __future__ import annotations

import time
from typing import Any

from trainer.feedback import FeedbackDepth, GroupFeedback, PictureGroup, RewardTimes
from trainer.in_process_feedback import InProcessFeedback

__all__ = ["HeldBack"]


class HeldBack:
    """Feedback that answers what the test releases: by default everything, at the `delay`-th look for it."""

    def __init__(self, inner: InProcessFeedback, *, delay: int = 0) -> None:
        self.inner = inner
        self.delay = delay
        self.looks = 0
        self.held: list[GroupFeedback] = []
        self.published: list[PictureGroup] = []
        self.forgotten: list[str] = []
        self.versions: list[int] = []
        self.iterations: list[int] = []
        self.refuse: set[str] = set()
        self.hold_oracles: set[str] = set()

    def publish(self, groups: Any) -> None:
        self.looks = 0
        self.published += groups
        self.inner.publish(groups)

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        self.held += self.inner.collect()
        self.looks += 1
        if self.looks <= self.delay:
            time.sleep(min(wait_s, 0.02))
            return []
        out = [one for one in self.held if one.oracle not in self.hold_oracles]
        self.held = [one for one in self.held if one.oracle in self.hold_oracles]
        return [
            GroupFeedback(group_id=one.group_id, oracle=one.oracle, status="refused")
            if one.group_id in self.refuse
            else one
            for one in out
        ]

    def knows(self, oracle: str) -> bool:
        return self.inner.knows(oracle)

    def asked(self) -> Any:
        return self.inner.asked()

    def rule(self, amendment: Any) -> None:
        self.inner.rule(amendment)

    def depth(self) -> dict[str, FeedbackDepth]:
        return {"brightness": FeedbackDepth(samples=len(self.held))}

    def set_policy_version(self, version: int) -> None:
        self.versions.append(version)

    def set_iteration(self, iteration: int) -> None:
        self.iterations.append(iteration)

    def forget(self, group_ids: Any) -> None:
        self.forgotten += group_ids
        self.inner.forget(group_ids)

    def resume(self, pairs: Any, *, done: Any = ()) -> None:
        self.inner.resume(pairs, done=done)

    def times(self) -> RewardTimes:
        return self.inner.times()

    def close(self) -> None: ...
