"""What the trainer does without an oracle: each policy in a real loop, and what is counted of it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.wire.errors import OracleUnavailable
from rewardmesh.wire.messages import ScoreFailure
from tests.unit.trainer.held_back import HeldBack
from trainer.coordination import Solo
from trainer.feedback import GroupFeedback
from trainer.in_process_feedback import InProcessFeedback

ZERO = dict.fromkeys(("asked", "scored", "failed", "stale", "dropped", "missing", "masked", "late"), 0)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def with_people(then: str, wait_s: float) -> str:
    return f"feedback.oracles=[{{name: brightness}}, {{name: people, on_missing: {{then: {then}, wait_s: {wait_s}}}}}]"


@pytest.fixture
def feedback(oracles: dict[str, Any], brightness: Any) -> HeldBack:
    """Oracle `people` does not answer."""
    oracles["people"] = brightness("people")
    held = HeldBack(InProcessFeedback(oracles))
    held.hold_oracles = {"people"}
    return held


class Mended(HeldBack):
    """What `people` fails to score at first is asked about again, and scored, once the test says so."""

    def __init__(self, inner: InProcessFeedback) -> None:
        super().__init__(inner)
        self.mended = False
        self.whole: list[GroupFeedback] = []

    def collect(self, *, wait_s: float = 0.0) -> list[GroupFeedback]:
        found = super().collect(wait_s=wait_s)
        if self.mended:
            again, self.whole = self.whole, []
            return found + again + again  # the same completion, seen twice
        broken = [_broken(one) if one.oracle == "people" else one for one in found]
        self.whole += [one for one in found if one.oracle == "people"]
        return broken


def _broken(one: GroupFeedback) -> GroupFeedback:
    """The same without its first two samples: one failed, one stale."""
    failures = {
        name: ScoreFailure(sample_id=name, code=code, detail="", retryable=False)
        for name, code in zip(sorted(one.results), ("oracle_error", "stale"), strict=False)
    }
    return replace(one, results={**one.results, **failures})


def test_mask_learns_from_the_other_rewards_after_its_own_bound(make_loop, feedback, tmp_path) -> None:
    began = time.monotonic()
    make_loop(with_people("mask", 0.1), "run.iterations=3", "feedback.wait_s=600", feedback=feedback).run()
    assert time.monotonic() - began < 300  # three bounds, not one wait_s
    for line in lines(tmp_path / "run"):
        assert line["groups"]["rewarded"] == 4
        assert line["outcomes"]["brightness"] == {**ZERO, "asked": 16, "scored": 16}
        assert line["outcomes"]["people"] == {**ZERO, "asked": 16, "missing": 16, "masked": 16}


def test_drop_group_learns_from_none_of_them_and_the_run_ends(make_loop, feedback, tmp_path) -> None:
    with pytest.raises(OracleUnavailable, match=r"not one group was rewarded in 3 iterations.*people"):
        make_loop(with_people("drop_group", 0.1), feedback=feedback).run()
    (line, _, _) = lines(tmp_path / "run")
    assert line["groups"] == {"rewarded": 0, "unrewarded": 4, "tied": 0}
    assert line["outcomes"]["people"] == {**ZERO, "asked": 16, "missing": 16}


def test_abort_ends_the_run_with_the_oracles_name_and_it_goes_on_from_there(make_loop, feedback, tmp_path) -> None:
    abort = with_people("abort", 0.1)
    with pytest.raises(OracleUnavailable, match=r"iteration 1 .* its policy is abort \(run run, oracles people\)"):
        make_loop(abort, "run.iterations=2", feedback=feedback).run()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    feedback.hold_oracles = set()
    assert make_loop(abort, "run.iterations=2", feedback=feedback).run().reason == "finished"
    assert [line["groups"]["rewarded"] for line in lines(tmp_path / "run")] == [0, 4]


class BesideAnother(Solo):
    """Rank 0 of two: all is well here, and `people` has left the other worker without a reward."""

    def decide(self, view: Any, plan: Any) -> dict[str, Any]:
        other = {
            "without": ["people"],
            "rewarded": 4,
            "groups": 4,
            "late": 0,
            "able": True,
            "awaited": {},
            "stop": False,
            "refused": False,
        }
        decided: dict[str, Any] = plan([view, other])
        return decided


def test_a_group_that_another_worker_is_left_with_aborts_too(make_loop, feedback) -> None:
    feedback.hold_oracles = set()
    with pytest.raises(OracleUnavailable, match="oracles people"):
        make_loop(with_people("abort", 5), feedback=feedback, coordinator=BesideAnother()).run()


def test_a_wait_says_for_whom_and_how_much_longer(make_loop, feedback, tmp_path) -> None:
    said: list[str] = []
    inner = feedback.collect

    def look(*, wait_s: float = 0.0) -> list[GroupFeedback]:
        status = tmp_path / "run" / "status.json"
        said.append(json.loads(status.read_text())["doing"] if status.exists() else "")
        return inner(wait_s=wait_s)

    feedback.collect = look  # type: ignore[method-assign]
    make_loop(with_people("mask", 3), "run.iterations=1", feedback=feedback).run()
    assert any(re.fullmatch(r"waiting for people \(4 groups, at most [0-3] s more\)", doing) for doing in said)


def test_failed_stale_and_refused_are_told_apart(make_loop, oracles, brightness, tmp_path) -> None:
    oracles["people"] = brightness("people")
    feedback = Mended(InProcessFeedback(oracles))
    feedback.refuse = {"000000-000"}
    make_loop(with_people("mask", 5), "run.iterations=1", "run.seed=1", feedback=feedback).run()
    (line,) = lines(tmp_path / "run")
    assert line["outcomes"]["people"] == {
        **ZERO,
        "asked": 16,
        "scored": 6,
        "failed": 3,
        "stale": 3,
        "dropped": 4,
        "masked": 6,
    }
    assert line["outcomes"]["brightness"] == {**ZERO, "asked": 16, "scored": 12, "dropped": 4}
    assert line["groups"]["rewarded"] == 3


def test_a_second_completion_is_a_late_answer_and_is_counted_once(make_loop, oracles, brightness, tmp_path) -> None:
    oracles |= {"people": brightness("people"), "judge": brightness("judge")}
    feedback = Mended(InProcessFeedback(oracles))
    feedback.hold_oracles = {"judge"}  # so that no group is forgotten

    def mend(line: Any) -> None:
        feedback.mended = line["iteration"] == 2

    late = "{name: judge, on_missing: {then: mask, wait_s: 0}}"
    people = "{name: people, on_missing: {then: mask}}"
    names = f"feedback.oracles=[{{name: brightness}}, {people}, {late}]"
    make_loop(names, "run.iterations=4", "feedback.max_inflight=1", feedback=feedback, sinks=[mend]).run()
    outcomes = [line["outcomes"]["people"] for line in lines(tmp_path / "run")]
    assert [one["scored"] for one in outcomes] == [8, 8, 16, 8]
    assert [one["failed"] + one["stale"] for one in outcomes] == [8, 8, 0, 8]
    assert [one["late"] for one in outcomes] == [0, 0, 16, 0]  # two of four samples, of eight groups
    assert [line["late"]["arrived"] for line in lines(tmp_path / "run")] == [0, 0, 8, 0]
