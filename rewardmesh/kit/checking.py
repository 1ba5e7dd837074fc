"""A pass of checks over a service: what each found, how long it took, and the report. What is asked is its users'.

Users: `kit.conformance` for docs/protocol.md, `kit.dialect_conformance` for the services of others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from rewardmesh.kit.probe import Unusable
from rewardmesh.wire.messages import OracleInfo, Scored

__all__ = [
    "MAX_BATCH_TRIED",
    "OUR_PROTOCOL",
    "WHOLE_DEADLINES",
    "Checking",
    "ConformanceReport",
    "Finding",
    "Judged",
    "asked_twice",
]

WHOLE_DEADLINES: Final = 10
MAX_BATCH_TRIED: Final = 1024
OUR_PROTOCOL: Final = "the protocol"

Judged = tuple[bool, str]
"""Whether it passed, and what is to be said of it."""


@dataclass(frozen=True)
class Finding:
    """What one check found. A warning is a finding that passed and says so."""

    check: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class ConformanceReport:
    """All findings about the service at `url`; `info` is what it is, as far as that could be found out."""

    url: str
    speaks: str
    """What it should keep to: our protocol, or a dialect."""
    info: OracleInfo | None
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    """Those that there are, in order; after a failure some make no sense and are left out."""

    @property
    def passed(self) -> bool:
        """Whether every check that was made passed."""
        return all(one.passed for one in self.findings)

    def __str__(self) -> str:
        """A line a finding, for a terminal."""
        who = f"oracle {self.info.name}, version {self.info.version}" if self.info else "no oracle"
        verdict = f"{'keeps' if self.passed else 'does not keep'} to {self.speaks}"
        lines = [f"{who} at {self.url}: {verdict}"]
        lines += [
            f"  {'ok  ' if one.passed else 'FAIL'}  {one.check:<17}  {one.seconds:6.2f} s  {one.detail}"
            for one in self.findings
        ]
        left_out = [check for check in self.checks if check not in {one.check for one in self.findings}]
        if left_out:
            lines.append(f"  not checked, because of the above: {', '.join(left_out)}")
        return "\n".join(lines)


class Checking:
    """One pass over a service; `advice` says where its answers are described."""

    def __init__(self, *, advice: str) -> None:
        self.info: OracleInfo | None = None
        self.findings: list[Finding] = []
        self.late: list[str] = []
        self.problems: list[str] = []
        self.num_results = 0
        self.timings: list[tuple[float, int]] = []  # seconds of an answer, its pictures
        self.advice = advice

    def conclude(self, deadline_s: float) -> None:
        """The two findings that are about all answers together."""
        if not self.info or not (self.timings or self.problems or self.late):
            return
        if self.num_results or self.problems:
            fine = f"{self.num_results} results: ids asked for, rewards finite and in range"
            said = "; ".join(self.problems[:3]) + f": see {self.advice}"
            self.findings.append(Finding("answer", not self.problems, said if self.problems else fine, 0.0))
        seconds = sum(spent for spent, _ in self.timings)
        detail = f"within {deadline_s:g} s"
        if self.timings:
            a_picture = statistics.median(spent / number for spent, number in self.timings)
            slowest = max(spent for spent, _ in self.timings)
            detail = f"slowest answer {slowest:.3f} s of {deadline_s:g} s; {1000 * a_picture:.1f} ms a picture (p50)"
        if self.late:
            detail = (
                "; ".join(self.late[:3]) + ": score faster, declare a smaller max_batch, or ask for a longer deadline"
            )
        self.findings.append(Finding("deadline", not self.late, detail, seconds))

    async def step(self, check: str, step: Callable[[], Awaitable[Judged]]) -> None:
        began = time.monotonic()
        try:
            passed, detail = await step()
        except Unusable as error:
            passed, detail = False, str(error)
            self.noted(error, check)
        self.findings.append(Finding(check, passed, detail, time.monotonic() - began))

    def noted(self, error: Unusable, asked: str) -> list[str]:
        """Notes an answer that came too late as such; otherwise it is a problem of the answer."""
        said = f"{asked}: {error}"
        if error.timed_out:
            self.late.append(said)
            return []
        return [said]


def asked_twice(first: object, second: object) -> Judged:
    """What two results of one picture say of the oracle: to vary is allowed, and worth a warning."""
    if not (isinstance(first, Scored) and isinstance(second, Scored)):
        return True, "no two rewards to compare"
    if first.reward == second.reward:
        return True, f"the same picture twice: {first.reward:g}"
    return True, f"warning: the same picture got {first.reward:g} and {second.reward:g}"
