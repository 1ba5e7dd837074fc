"""Figures of a run where Ray's are: gauges that Ray's own Prometheus endpoint shows. A sink of the loop's lines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

from rewardmesh.wire.names import METRICS
from trainer.late_answers import LATE_FIGURES

__all__ = ["RayMetrics"]

REPEAT_S = 5.0  # Ray drops gauges that are not set again within some ten seconds


class RayMetrics:
    """Sets gauges of the last line, again and again until closed."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._values: list[tuple[Gauge, float, dict[str, str]]] = []
        self._gauges = {
            name: Gauge(name, description=METRICS[name], tag_keys=("run", *labels))
            for name, labels in {
                "rewardmesh_reward": ("oracle",),
                "rewardmesh_outcomes": ("oracle", "kind"),
                "rewardmesh_staleness": (),
                "rewardmesh_late_answers": ("kind",),
                "rewardmesh_late_staleness": ("from",),
                "rewardmesh_late_age_s": (),
                "rewardmesh_reward_time_exposed_s": (),
                "rewardmesh_reward_time_hidden_s": (),
                "rewardmesh_iteration_s": ("part",),
            }.items()
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="ray-metrics", daemon=True)
        self._thread.start()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Takes an iteration's line."""
        seconds = line["seconds"]
        values = [self._value("rewardmesh_reward", reward, oracle=name) for name, reward in line["rewards"].items()]
        values += [
            self._value("rewardmesh_outcomes", amount, oracle=name, kind=kind)
            for name, outcomes in line["outcomes"].items()
            for kind, amount in outcomes.items()
        ]
        values.append(self._value("rewardmesh_staleness", line["staleness"]))
        values += self._late(line["late"])
        values.append(self._value("rewardmesh_reward_time_exposed_s", seconds["exposed_wait"]))
        values.append(self._value("rewardmesh_reward_time_hidden_s", seconds["hidden_reward"]))
        values += [self._value("rewardmesh_iteration_s", value, part=part) for part, value in seconds.items()]
        self._values = values
        self._set()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=REPEAT_S)

    def _late(self, late: Mapping[str, Any]) -> list[tuple[Gauge, float, dict[str, str]]]:
        values = [self._value("rewardmesh_late_answers", late[kind], kind=kind) for kind in LATE_FIGURES]
        values += [
            self._value("rewardmesh_late_staleness", count, **{"from": begin})
            for begin, count in late["staleness"].items()
        ]
        if late["mean_age_s"] is not None:
            values.append(self._value("rewardmesh_late_age_s", late["mean_age_s"]))
        return values

    def _value(self, name: str, value: float, **labels: str) -> tuple[Gauge, float, dict[str, str]]:
        return self._gauges[name], float(value), {"run": self._run_id, **labels}

    def _set(self) -> None:
        for gauge, value, tags in self._values:
            gauge.set(value, tags)

    def _repeat(self) -> None:
        while not self._stop.wait(REPEAT_S):
            self._set()
