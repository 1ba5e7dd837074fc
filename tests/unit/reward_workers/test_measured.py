"""What a worker measures: every metric that is its own, by oracle and version."""

from __future__ import annotations

from reward_workers.meter import TallyMeter
from reward_workers.worker import Worker
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import BreakerBounds
from rewardmesh.wire.names import METRICS, labels_of
from tests.contract.workers import World, completed, endpoint_of, failing, group_of, until, working
from tests.oracle_server import OracleServer, Response

TRAINERS = (
    "rewardmesh_reward",
    "rewardmesh_iteration",
    "rewardmesh_late",
    "rewardmesh_outcomes",
    "rewardmesh_staleness",
)


class Recorded:
    """Keeps every measurement with its labels, as something that shows them would be told."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[dict[str, str], float]]] = {}

    def count(self, name: str, amount: int, **labels: str) -> None:
        self.values.setdefault(name, []).append((labels, amount))

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.values.setdefault(name, []).append((labels, value))

    def level(self, name: str, value: float, **labels: str) -> None:
        self.values.setdefault(name, []).append((labels, value))

    def of(self, name: str, **labels: str) -> list[float]:
        return [value for has, value in self.values.get(name, []) if labels.items() <= has.items()]


async def measured() -> tuple[Worker, Recorded]:
    world, shown = World(MemoryStream("run-1")), Recorded()
    await world.registry.put_run("run-1")
    async with OracleServer(answer=failing(1, Response(b"", 500))) as oracle:
        breaker = BreakerBounds(failures_to_open=1, open_s=0.3, max_open_s=0.3)
        await world.registry.put_oracle(endpoint_of(oracle, version="1", breaker=breaker))
        worker = world.worker()
        worker.meter = TallyMeter(then=shown)
        await world.stream.set_policy_version(3)
        await world.stream.enqueue(group_of("g1", object_count=60.0), oracles=["object_count"])
        async with working(worker):
            await completed(world.stream, "g1")
            await world.stream.enqueue(group_of("g2", object_count=60.0), oracles=["object_count"])
            await completed(world.stream, "g2")
            worker._levels_due_s = 0.0
            shown.values.pop("rewardmesh_stream_lag")
            await until(lambda: "rewardmesh_stream_lag" in shown.values)
    return worker, shown


async def test_every_metric_of_a_worker_is_measured_by_oracle_and_version() -> None:
    _, shown = await measured()
    own = {name for name in METRICS if not name.startswith(TRAINERS)} - {"rewardmesh_samples_duplicate"}
    assert set(shown.values) == own
    for name, measurements in shown.values.items():
        for labels, _ in measurements:
            assert set(labels) == labels_of(name), name
            assert {"oracle": "object_count", "version": "1"}.items() <= labels.items(), name
            assert labels.get("run", "run-1") == "run-1"


async def test_what_they_say_of_two_groups_one_failed_call_and_four_hits() -> None:
    worker, shown = await measured()
    assert sum(shown.of("rewardmesh_samples_settled", kind="scored", code="")) == 8
    assert sum(shown.of("rewardmesh_samples_retried", code="server_error")) == 4
    assert sum(shown.of("rewardmesh_oracle_calls_failed", code="server_error", breaker="open")) == 1
    assert sum(shown.of("rewardmesh_answers_reused", kind="hit")) == 4
    assert set(shown.of("rewardmesh_sample_staleness")) == {3}
    assert {"queue", "call", "settle"} == {labels["phase"] for labels, _ in shown.values["rewardmesh_oracle_latency_s"]}
    assert all(value >= 0 for value in shown.of("rewardmesh_oracle_latency_s"))
    assert sum(shown.of("rewardmesh_oracle_batch_samples")) >= 8  # the failed call, and the four of it again
    assert {0, 1, 2} >= set(shown.of("rewardmesh_oracle_breaker")) >= {0}
    assert shown.of("rewardmesh_stream_lag")[-1] == 0
    assert worker.meter.levels
