"""The arithmetic of `benchmarks.overlap`: what an iteration's seconds are made of, and shares of them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from benchmarks.overlap import PHASES, Elsewhere, Window, content_of, counted, phases_of, table_of
from rewardmesh.kit.oracle import OracleInput
from rewardmesh.wire.messages import Checks, Sample, Scored


def line(iteration_s: float = 10.0, *, exposed_s: float = 1.0, hidden_s: float = 3.0, free: int = 1) -> dict[str, Any]:
    return {
        "seconds": {
            "iteration": iteration_s,
            "rollout": 2.0,
            "surrogate": 1.0,
            "fake_score": 3.0,
            "student": 2.5,
            "exposed_wait": exposed_s,
            "hidden_reward": hidden_s,
            "encode": 0.1,  # beside the training thread: no part of its time
        },
        "updates": {"surrogate": 2, "fake_score": 2 + free, "student": 3},
        "free_updates": free,
    }


def window(*lines: dict[str, Any], how: str = "overlapped", ratio: float = 1.0) -> Window:
    return Window(how, ratio, oracle_s=4.0, without_s=8.0, lines=lines)


def test_phases_add_up_to_the_iteration_and_free_updates_are_told_apart() -> None:
    phases = phases_of(line())
    assert tuple(phases) == PHASES
    assert (phases["fake_score"], phases["free"], phases["rest"]) == (2.0, 1.0, 0.5)
    assert sum(phases.values()) == pytest.approx(10.0)
    assert phases_of(line(free=0))["free"] == 0.0
    none = line() | {"updates": {}, "free_updates": 0}
    assert phases_of(none)["fake_score"] == 3.0


def test_shares_are_of_sums_so_that_one_long_wait_counts() -> None:
    found = window(line(exposed_s=0.0), line(exposed_s=0.0), line(20.0, exposed_s=10.0))
    assert found.exposed_share == pytest.approx(10 / 40)
    assert found.exposed_share_of_rewards == pytest.approx(10 / (10 + 9))
    assert found.longer_by == pytest.approx(10 / 8 - 1)
    assert found.ratio_as_it_was == pytest.approx(4 / 9)  # generation and learning: the step less wait and free updates
    assert window(line(exposed_s=0.0, hidden_s=0.0)).exposed_share_of_rewards == 0.0


def test_what_fills_the_road_and_what_empties_it_is_left_out() -> None:
    assert counted([{"iteration": i} for i in range(1, 8)]) == [{"iteration": i} for i in (4, 5, 6)]
    with pytest.raises(ValueError, match="4 iterations: 4 are left out"):
        counted([{}] * 4)


def test_keys_are_by_ratio_and_the_control_has_its_own() -> None:
    windows = [window(line(), ratio=0.25), window(line(20.0), ratio=2.0), window(line(5.0), how="in turns", ratio=2.0)]
    content = content_of(windows)
    assert content["overlap"]["exposed_share"] == {"0.25": 0.1, "2": 0.05}
    assert content["overlap"]["exposed_share_in_turns"] == {"2": 0.2}
    assert [(run["how"], run["exposed_s"]) for run in content["runs"]] == [
        ("overlapped", [1.0]),
        ("overlapped", [1.0]),
        ("in turns", [1.0]),
    ]
    assert table_of(windows).row_count == 3


def test_the_oracle_elsewhere_takes_its_time_for_each_picture_and_no_cpu() -> None:
    def asked(number: int) -> OracleInput:
        sample = Sample(
            run_id="r",
            group_id="g",
            sample_id=f"s{number}",
            policy_version=0,
            boundary_index=4,
            prompt="p",
            checks=Checks(tag="counting"),
        )
        return OracleInput(sample=sample, picture=np.full((2, 2, 3), number, np.uint8))

    began, cpu = time.perf_counter(), time.process_time()
    results = Elsewhere(0.05).score([asked(number) for number in range(4)])
    assert time.perf_counter() - began >= 0.2
    assert time.process_time() - cpu < 0.1
    assert len({result.reward for result in results if isinstance(result, Scored)}) == 4  # something to learn from
