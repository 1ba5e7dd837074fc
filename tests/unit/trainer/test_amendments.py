"""Amendments: the trainer's rulings in the run folder, and an oracle that joins a run that is training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.oracle_use import OnMissing, OracleUse
from trainer.amendments import AmendmentLog, read_amendments, show_amendments
from trainer.in_process_feedback import InProcessFeedback
from trainer.report import render_report
from trainer.run_folder import RunFolder

PEOPLE = Amendment(
    amendment_id="a1",
    use=OracleUse(name="people", weight=2.0, on_missing=OnMissing(then="mask", wait_s=5)),
    requested_by="a colleague",
    requested_unix_s=1.0,
)
NOBODY = Amendment(amendment_id="a2", use=OracleUse(name="nobody"), requested_unix_s=2.0)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lasting(line: dict[str, Any]) -> dict[str, Any]:
    timed = {"seconds", "elapsed_s", "unix_s", "samples_scored_per_s", "depth"}
    return {key: value for key, value in line.items() if key not in timed}


@pytest.fixture
def run(tmp_path: Path, make_recipe: Any) -> Path:
    """The folder of a run that has begun."""
    RunFolder(tmp_path / "run").adopt(make_recipe())
    return tmp_path / "run"


def knows(name: str) -> bool:
    return name in {"people", "brightness"}


def test_each_is_ruled_on_once_and_the_folder_keeps_it(run: Path, make_recipe: Any) -> None:
    present = PEOPLE.model_copy(update={"amendment_id": "a3", "use": OracleUse(name="brightness")})
    twice = PEOPLE.model_copy(update={"amendment_id": "a4"})
    asked = [PEOPLE, NOBODY, present, twice]
    ruled = AmendmentLog(run, make_recipe()).rule(asked, from_iteration=7, knows=knows)
    assert [(one.from_iteration, one.refused) for one in ruled] == [
        (7, ""),
        (None, "no oracle nobody is registered: register it, then ask again"),
        (None, "the run learns from brightness already"),
        (None, "the run learns from people already"),
    ]
    assert read_amendments(run) == ruled
    log = AmendmentLog(run, make_recipe())  # a trainer that was killed before it could say so
    assert log.rule(asked, from_iteration=9, knows=knows) == ruled
    assert read_amendments(run) == ruled
    assert log.held() == ruled[:1]
    again = NOBODY.model_copy(update={"amendment_id": "a5"})  # once more, now that it is there
    assert log.rule([again], from_iteration=9, knows=lambda _: True)[0].from_iteration == 9


def test_one_whose_highest_reward_is_unknown_does_not_join_a_run_that_weighs_by_it(run: Path, make_recipe: Any) -> None:
    unbounded = PEOPLE.model_copy(update={"use": OracleUse(name="people", normalisation="none")})
    recipe = make_recipe("algorithm.student.reward_weighting=shortfall")
    (ruling,) = AmendmentLog(run, recipe).rule([unbounded], from_iteration=7, knows=knows)
    assert ruling.from_iteration is None
    assert "set its normalisation to unit_range, not none" in ruling.refused


def test_what_cannot_be_looked_up_is_not_ruled_on(run: Path, make_recipe: Any) -> None:
    def away(_: str) -> bool:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        AmendmentLog(run, make_recipe()).rule([PEOPLE], from_iteration=2, knows=away)
    assert read_amendments(run) == []


def test_a_ruling_that_a_crash_tore_is_made_again(run: Path, make_recipe: Any) -> None:
    torn = PEOPLE.model_copy(update={"from_iteration": 3}).to_json()[:-20]
    (run / "amendments.jsonl").write_text(f"nonsense\n{torn}")
    assert read_amendments(run) == []
    ruled = AmendmentLog(run, make_recipe()).rule([PEOPLE], from_iteration=4, knows=knows)
    assert read_amendments(run) == ruled
    assert ruled[0].from_iteration == 4


class Amendable(InProcessFeedback):
    """Feedback that passes on what a test asks for, until it is ruled on."""

    def __init__(self, oracles: Any) -> None:
        super().__init__(oracles)
        self.pending: list[Amendment] = []
        self.rulings: list[Amendment] = []

    def asked(self) -> Sequence[Amendment]:
        return tuple(self.pending)

    def rule(self, amendment: Amendment) -> None:
        self.rulings.append(amendment)
        self.pending = [one for one in self.pending if one.amendment_id != amendment.amendment_id]


def test_an_oracle_joins_a_run_and_a_resumed_run_has_it_in_the_same_iterations(
    make_loop, make_recipe, oracles, brightness, tmp_path
) -> None:
    oracles["people"] = brightness("people")

    class Killed(BaseException):
        pass

    def begin(folder: str, *, kill_in: int = 0) -> Amendable:
        feedback = Amendable(oracles)

        def sink(line: Any) -> None:
            if line["iteration"] == 2:
                feedback.pending += [PEOPLE, NOBODY]
            if line["iteration"] == kill_in:
                raise Killed

        make_loop("run.iterations=8", folder=folder, feedback=feedback, sinks=[sink]).run()
        return feedback

    RunFolder(tmp_path / "whole").adopt(make_recipe())
    feedback = begin("whole")
    whole = lines(tmp_path / "whole")
    # After iteration 2 one more rollout is out; the next one is what iteration 4 learns from.
    assert ["people" in line["outcomes"] for line in whole] == [False] * 3 + [True] * 5
    assert all(line["outcomes"]["people"]["scored"] == 16 for line in whole[3:])
    assert [(one.use.name, one.from_iteration) for one in feedback.rulings] == [("people", 4), ("nobody", None)]
    assert {one["oracle"]: one["from_iteration"] for one in show_amendments(tmp_path / "whole")} == {
        "people": 4,
        "nobody": None,
    }
    status = json.loads((tmp_path / "whole" / "status.json").read_text())
    assert [one["refused"] for one in status["amendments"]] == ["", feedback.rulings[1].refused]
    page = render_report(tmp_path / "whole")
    assert "Oracles added while it trained" in page
    assert "a colleague" in page

    RunFolder(tmp_path / "cut").adopt(make_recipe())
    with pytest.raises(Killed):  # the last checkpoint, of iteration 3, is from before the first rollout with it
        begin("cut", kill_in=5)
    make_loop("run.iterations=8", folder="cut", feedback=InProcessFeedback(oracles)).run()
    assert [lasting(line) for line in lines(tmp_path / "cut")] == [lasting(line) for line in whole]
