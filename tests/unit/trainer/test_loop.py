"""The loop over a toy algorithm with oracles in process, and with feedback that the test holds back."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.wire.errors import ChecksMissing, OracleUnavailable
from tests.unit.trainer.held_back import HeldBack
from trainer.in_process_feedback import InProcessFeedback


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lasting(line: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on how long things took."""
    timed = {"seconds", "elapsed_s", "unix_s", "samples_scored_per_s", "depth"}
    return {key: value for key, value in line.items() if key not in timed}


def test_the_reward_rises_and_every_iteration_leaves_a_line(make_loop, tmp_path) -> None:
    seen: list[Any] = []
    outcome = make_loop("run.iterations=20", sinks=[seen.append]).run()
    assert (outcome.reason, outcome.iterations) == ("finished", 20)
    written = lines(tmp_path / "run")
    assert [line["iteration"] for line in written] == list(range(1, 21))
    assert written[-1]["reward"] > written[0]["reward"] + 0.05
    assert seen[-1]["iteration"] == 20
    line = written[-1]
    assert line["updates"] == {"surrogate": 2, "fake_score": 1, "student": 1}
    assert line["groups"] == {"rewarded": 4, "unrewarded": 0, "tied": 0}
    assert line["samples"] == {"scored": 16, "failed": 0}
    assert line["seconds"]["exposed_wait"] >= 0
    assert line["seconds"]["hidden_reward"] >= -1e-6
    assert line["policy_version"] == 20
    assert line["bank_groups"] == 12
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["iteration"], status["seconds_left"]) == ("finished", 20, 0)


def test_two_in_flight_are_one_version_stale_and_one_is_not(make_loop, tmp_path) -> None:
    make_loop(folder="two").run()
    assert [line["staleness"] for line in lines(tmp_path / "two")] == [0, 1, 1, 1, 1, 1]
    make_loop("feedback.max_inflight=1", folder="one").run()
    assert [line["staleness"] for line in lines(tmp_path / "one")] == [0] * 6


@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_killed_run_goes_on_as_if_nothing_had_been(make_loop, oracles, tmp_path, stop_after: int) -> None:
    make_loop(folder="whole").run()
    asked = [{name: len(oracle.seen) for name, oracle in oracles.items()}]

    class Killed(BaseException):
        pass

    def kill(line: Any) -> None:
        if line["iteration"] == stop_after + 1:
            raise Killed

    with pytest.raises(Killed):
        make_loop(folder="cut", sinks=[kill]).run()
    asked.append({name: len(oracle.seen) for name, oracle in oracles.items()})
    make_loop(folder="cut").run()
    whole, cut = lines(tmp_path / "whole"), lines(tmp_path / "cut")
    assert [lasting(line) for line in cut] == [lasting(line) for line in whole]
    for name, oracle in oracles.items():  # nothing that was scored before the kill was asked again
        before, after = oracle.seen[asked[0][name] : asked[1][name]], oracle.seen[asked[1][name] :]
        assert not set(before) & set(after)
        assert sorted(before + after) == sorted(oracle.seen[: asked[0][name]])


def test_what_is_in_flight_stays_in_a_store_whose_bounds_leave_no_room_for_it(make_loop, oracles, tmp_path) -> None:
    """A rollout fills two segments, and each is too old as soon as the next is begun."""
    overrides = ("prompts.groups_per_iteration=160", "algorithm.batch_size=640", "store.bank_groups=0")
    hurried = {"clock": lambda: time.time() + 30 * 86_400}

    def stop(line: Any) -> None:
        if line["iteration"] == 4:
            loop.request_stop()

    make_loop(*overrides, folder="whole", **hurried).run()
    loop = make_loop(*overrides, folder="cut", sinks=[stop], **hurried)
    assert loop.run().reason == "stopped"
    make_loop(*overrides, folder="cut", **hurried).run()
    whole, cut = lines(tmp_path / "whole"), lines(tmp_path / "cut")
    assert [line["groups"] for line in whole] == [{"rewarded": 160, "unrewarded": 0, "tied": 0}] * 6
    assert [lasting(line) for line in cut] == [lasting(line) for line in whole]
    left = list((tmp_path / "whole" / "store" / "rank-0").glob("segment-*.log"))
    assert 0 < len(left) <= 3  # of six rollouts: what is not in flight goes


def test_the_control_permutes_rewards_and_says_so(make_loop, tmp_path) -> None:
    make_loop("run.permute_rewards=true", folder="control").run()
    make_loop(folder="real").run()
    control, real = lines(tmp_path / "control"), lines(tmp_path / "real")
    assert control[0]["permuted"] is True
    assert control[0]["reward"] == pytest.approx(real[0]["reward"])
    assert control[0]["figures"]["surrogate"] != real[0]["figures"]["surrogate"]


def test_every_boundary_is_scored_and_credited_on_its_own(make_loop, toy_algorithm, oracles, tmp_path) -> None:
    algorithm = toy_algorithm()
    make_loop("feedback.pictures=every_boundary", "run.iterations=2", algorithm=algorithm).run()
    line = lines(tmp_path / "run")[-1]
    assert set(line["rewards_by_boundary"]["brightness"]) == {"1", "2", "4"}
    batch = next(batch for name, batch in algorithm.batches if name == "surrogate")
    assert batch.boundary_rewards.shape == (16, 5)
    assert batch.boundary_rewards[:, 3].tolist() == batch.boundary_rewards[:, 4].tolist() == batch.rewards.tolist()
    assert batch.boundary_rewards[:, 0].tolist() == batch.boundary_rewards[:, 1].tolist()


def test_groups_of_too_little_spread_teach_the_surrogate_nothing(make_loop, tmp_path) -> None:
    widest = max(run_and_spread(make_loop, tmp_path))
    for bound, updates in ((0.5 * widest, 2), (2 * widest, 0)):
        make_loop(f"algorithm.surrogate.min_spread={bound}", "run.iterations=1", folder=f"bound-{bound}").run()
        line = lines(tmp_path / f"bound-{bound}")[-1]
        assert line["updates"].get("surrogate", 0) == updates
        assert line["updates"]["student"] == 1  # matching is learnt from every group


def test_a_student_that_always_passes_does_not_end_the_run(make_loop, oracles, tmp_path) -> None:
    """Few groups in the bank still teach: most draws from it find none of them."""

    def after_first(score: Any, batch: Any) -> list[Any]:
        passing = sum(len(oracle.seen) for oracle in oracles.values()) >= 16
        return [one.model_copy(update={"reward": 1.0}) if passing else one for one in score(batch)]

    for oracle in oracles.values():
        oracle.score = partial(after_first, oracle.score)
    settings = ("algorithm.batch_size=4", "algorithm.surrogate.updates_per_iteration=8", "store.bank_groups=1000")
    make_loop(*settings, "feedback.max_inflight=1", "run.iterations=12").run()
    assert len(lines(tmp_path / "run")) == 12
    assert lines(tmp_path / "run")[-1]["groups"]["tied"] == 4


def run_and_spread(make_loop, tmp_path: Path) -> list[float]:
    """Spread of each of the first rollout's groups, without a bound."""
    loop = make_loop("run.iterations=1", folder="unbounded")
    loop.run()
    rule, store = loop._rule, loop._store
    combined = [rule.combine(store.header(one), store.rewards(one)) for one in store.group_ids()]
    return [one.spread for one in combined if one is not None]


def test_free_updates_while_waiting_are_bounded(make_loop, oracles, tmp_path) -> None:
    feedback = HeldBack(InProcessFeedback(oracles), delay=8)
    make_loop("feedback.max_inflight=1", "feedback.max_free_updates=3", "run.iterations=3", feedback=feedback).run()
    for line in lines(tmp_path / "run"):
        assert line["free_updates"] == 3
        assert line["updates"]["fake_score"] == 1 + 3


def test_an_oracle_that_refuses_a_group_costs_that_group_only(make_loop, oracles, tmp_path) -> None:
    feedback = HeldBack(InProcessFeedback(oracles))
    feedback.refuse = {"000000-000", "000001-001"}
    make_loop("run.iterations=3", feedback=feedback).run()
    first, second, third = lines(tmp_path / "run")
    assert first["groups"]["unrewarded"] == second["groups"]["unrewarded"] == 1
    assert first["pairs"] == {"refused": 1, "lost": 0, "missing": 0}
    assert third["groups"]["rewarded"] == 4
    assert third["policy_version"] == 3
    assert feedback.iterations == [0, 1, 2, 3]


def test_a_silent_oracle_ends_the_run_with_its_name_and_a_checkpoint(make_loop, oracles, tmp_path) -> None:
    feedback = HeldBack(InProcessFeedback(oracles))
    feedback.hold_oracles = {"brightness", "spelled"}
    overrides = ("feedback.wait_s=0.05", "feedback.max_empty_iterations=2")
    with pytest.raises(OracleUnavailable, match=r"not one group was rewarded in 2 iterations.*brightness"):
        make_loop(*overrides, feedback=feedback).run()
    assert lines(tmp_path / "run")[-1]["policy_version"] == 0
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()


def test_stragglers_reach_the_surrogate_alone_and_are_then_forgotten(
    make_loop, toy_algorithm, oracles, tmp_path
) -> None:
    feedback = HeldBack(InProcessFeedback(oracles))
    feedback.hold_oracles = {"spelled"}
    algorithm = toy_algorithm()

    def release(line: Any) -> None:
        if line["iteration"] == 3:
            feedback.hold_oracles = set()

    make_loop("feedback.wait_s=0.05", "run.iterations=5", feedback=feedback, algorithm=algorithm, sinks=[release]).run()
    written = lines(tmp_path / "run")
    assert written[0]["pairs"]["missing"] > 0
    arrived = sum(line["late"]["arrived"] for line in written)
    assert arrived == sum(line["pairs"]["missing"] for line in written[:3])
    assert max(line["late"]["mean_staleness"] or 0 for line in written) >= 1
    published = {group.group_id for group in feedback.published}
    assert published == set(feedback.forgotten)


def test_a_late_oracle_is_never_waited_for(make_loop, oracles, brightness, tmp_path) -> None:
    oracles["people"] = brightness("people")
    feedback = HeldBack(InProcessFeedback(oracles))
    feedback.hold_oracles = {"people"}
    late = "{name: people, on_missing: {wait_s: 0, then: mask}, weight: 2}"
    names = f"feedback.oracles=[{{name: brightness}}, {late}]"
    make_loop(names, "run.iterations=3", feedback=feedback, folder="late").run()
    assert all(line["groups"]["rewarded"] == 4 for line in lines(tmp_path / "late"))
    assert feedback.forgotten == []
    feedback.hold_oracles = set()
    make_loop(names, "run.iterations=4", feedback=feedback, folder="late").run()


def test_a_stop_file_and_a_time_limit_end_a_run_after_an_iteration(make_loop, tmp_path) -> None:
    def ask(line: Any) -> None:
        if line["iteration"] == 2:
            (tmp_path / "stopped" / "stop").touch()

    outcome = make_loop(folder="stopped", sinks=[ask]).run()
    assert (outcome.reason, outcome.iterations) == ("stopped", 2)
    assert (tmp_path / "stopped" / "checkpoints" / "iteration-00000002").is_dir()

    def slow(line: Any) -> None:
        time.sleep(0.3)

    outcome = make_loop("run.time_limit_s=0.5", "run.iterations=50", folder="timed", sinks=[slow]).run()
    assert outcome.reason == "time_limit"
    assert 1 <= outcome.iterations <= 3


def test_a_prompt_without_checks_for_any_needed_oracle_is_named(make_loop) -> None:
    with pytest.raises(ChecksMissing, match="the word"):
        make_loop("feedback.oracles=[{name: brightness, applies: objects}]")
