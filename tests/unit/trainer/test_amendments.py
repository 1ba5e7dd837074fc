"""Amendments: the file, the trainer's rulings, and an oracle that joins a run that is training."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.wire.errors import RecipeError
from trainer.amendments import AmendmentLog, read_amendments, request_amendment, show_amendments
from trainer.in_process_feedback import InProcessFeedback
from trainer.recipe_sections import OnMissing, OracleUse
from trainer.report import render_report
from trainer.run_folder import RunFolder

PEOPLE = OracleUse(name="people", weight=2.0, on_missing=OnMissing(then="mask", wait_s=5))


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


def test_a_request_is_pending_until_it_is_decided_and_the_same_one_is_made_once(run: Path, make_recipe: Any) -> None:
    first = request_amendment(run, PEOPLE, requested_by="team a")
    assert first.is_pending
    assert request_amendment(run, PEOPLE, requested_by="team b") == first
    held = AmendmentLog(run, make_recipe()).decide(from_iteration=7, knows=lambda _: True)
    assert [(one.use, one.from_iteration, one.requested_by) for one in held] == [(PEOPLE, 7, "team a")]
    assert AmendmentLog(run, make_recipe()).decide(from_iteration=9, knows=lambda _: True) == held  # ruled on once
    assert request_amendment(run, PEOPLE) == held[0]
    with pytest.raises(RecipeError, match=r"another amendment adds this oracle \(people\)"):
        request_amendment(run, OracleUse(name="people"))


def test_what_cannot_be_is_refused_when_it_is_asked_for(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"learns from this oracle already \(brightness\)"):
        request_amendment(run, OracleUse(name="brightness"))
    with pytest.raises(RecipeError, match="there is no run in this folder"):
        request_amendment(tmp_path / "nowhere", PEOPLE)
    assert not (run / "amendments.jsonl").exists()


def test_lines_that_are_no_amendment_are_refused_and_the_others_stand(run: Path, make_recipe: Any) -> None:
    good = request_amendment(run, PEOPLE)
    content = json.loads(good.model_dump_json())
    content["use"]["weight"] = -1
    content["amendment_id"] = "by hand"
    with (run / "amendments.jsonl").open("a") as file:
        file.write(json.dumps(content) + "\nnonsense\n" + '{"amendment_id": "torn by a cra')
    assert [one.amendment_id for one in read_amendments(run)[0]] == [good.amendment_id]
    request_amendment(run, OracleUse(name="unregistered"))
    log = AmendmentLog(run, make_recipe())
    assert [one.use.name for one in log.decide(from_iteration=2, knows=lambda name: name == "people")] == ["people"]
    shown = {one["oracle"]: (one["from_iteration"], one["refused"]) for one in show_amendments(run)}
    assert shown["people"] == (2, "")
    assert shown["unregistered"] == (None, "no oracle unregistered is registered: register it, then ask again")
    assert "use.weight: Input should be greater than 0" in shown["line 2"][1]
    assert shown["line 3"][1] == shown["line 4"][1] == "the line is not JSON"
    assert request_amendment(run, OracleUse(name="unregistered")).is_pending  # once more, now that it may be there


def test_many_who_ask_at_once_overwrite_nothing(run: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: request_amendment(run, OracleUse(name=f"o{i}")), range(64)))
    amendments, faults = read_amendments(run)
    assert faults == {}
    assert {one.use.name for one in amendments} == {f"o{i}" for i in range(64)}


def test_an_oracle_joins_a_run_and_a_resumed_run_has_it_in_the_same_iterations(
    make_loop, make_recipe, oracles, brightness, tmp_path
) -> None:
    oracles["people"] = brightness("people")

    class Killed(BaseException):
        pass

    def asks(folder: str, *, kill_in: int) -> Any:
        RunFolder(tmp_path / folder).adopt(make_recipe())

        def sink(line: Any) -> None:
            if line["iteration"] == 2:
                request_amendment(tmp_path / folder, PEOPLE, requested_by="a colleague")
                request_amendment(tmp_path / folder, OracleUse(name="nobody"))
            if line["iteration"] == kill_in:
                raise Killed

        return sink

    make_loop("run.iterations=8", folder="whole", sinks=[asks("whole", kill_in=0)]).run()
    whole = lines(tmp_path / "whole")
    # After iteration 2 one more rollout is out; the next one is what iteration 4 learns from.
    assert ["people" in line["outcomes"] for line in whole] == [False] * 3 + [True] * 5
    assert all(line["outcomes"]["people"]["scored"] == 16 for line in whole[3:])
    assert {one["oracle"]: one["from_iteration"] for one in show_amendments(tmp_path / "whole")} == {
        "people": 4,
        "nobody": None,
    }
    status = json.loads((tmp_path / "whole" / "status.json").read_text())
    assert [one["refused"] for one in status["amendments"]] == [
        "",
        "no oracle nobody is registered: register it, then ask again",
    ]
    page = render_report(tmp_path / "whole")
    assert "Oracles added while it trained" in page
    assert "a colleague" in page

    with pytest.raises(
        Killed
    ):  # the last checkpoint is that of iteration 3, before the first rollout with it is learnt
        make_loop("run.iterations=8", folder="cut", sinks=[asks("cut", kill_in=5)]).run()
    make_loop("run.iterations=8", folder="cut", feedback=InProcessFeedback(oracles)).run()
    assert [lasting(line) for line in lines(tmp_path / "cut")] == [lasting(line) for line in whole]
