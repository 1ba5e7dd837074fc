"""What a run shows through Ray: every gauge of an iteration's line, under the names that are written down."""

from __future__ import annotations

import pytest

from rewardmesh.wire.names import METRICS, labels_of
from trainer import ray_metrics
from trainer.iteration_record import OUTCOMES
from trainer.late_answers import LATE_FIGURES


class Gauge:
    """Stands for Ray's: keeps what was set."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description == METRICS[name]
        assert set(tag_keys) == labels_of(name)
        self.name, self.tag_keys = name, set(tag_keys)

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == self.tag_keys
        self.values[self.name, tuple(sorted(tags.items()))] = value


def test_every_figure_of_a_line_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    Gauge.values = {}
    monkeypatch.setattr(ray_metrics, "Gauge", Gauge)
    metrics = ray_metrics.RayMetrics("run-1")
    outcomes = {kind: index for index, kind in enumerate(OUTCOMES)}
    seconds = {"iteration": 2.0, "exposed_wait": 0.5, "hidden_reward": 1.5}
    late = {
        **{kind: index for index, kind in enumerate(LATE_FIGURES)},
        "staleness": {"0": 3, "4": 1},
        "mean_age_s": 60.0,
    }
    line = {
        "rewards": {"count": 0.25},
        "outcomes": {"count": outcomes},
        "staleness": 1,
        "seconds": seconds,
        "late": late,
    }
    metrics(line)
    metrics.close()

    def shown(name: str, **tags: str) -> float:
        return Gauge.values[name, tuple(sorted({"run": "run-1", **tags}.items()))]

    assert shown("rewardmesh_reward", oracle="count") == 0.25
    assert {kind: shown("rewardmesh_outcomes", oracle="count", kind=kind) for kind in OUTCOMES} == outcomes
    assert shown("rewardmesh_staleness") == 1
    assert [shown("rewardmesh_late_answers", kind=kind) for kind in LATE_FIGURES] == list(range(len(LATE_FIGURES)))
    assert shown("rewardmesh_late_staleness", **{"from": "4"}) == 1
    assert shown("rewardmesh_late_age_s") == 60.0
    assert shown("rewardmesh_iteration_s", part="iteration") == 2.0
    assert shown("rewardmesh_reward_time_exposed_s") == 0.5
    assert shown("rewardmesh_reward_time_hidden_s") == 1.5
