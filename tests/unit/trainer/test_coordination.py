"""Several workers act as one: they agree on every plan, and their networks stay equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from trainer.coordination import Solo, TorchCoordinator

ROOT = Path(__file__).parents[3]

WORKER = """
import json, os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import torch, torch.distributed as dist
from tests.unit.trainer.conftest import PROMPTS, RECIPE, Brightness, ToyAlgorithm, toy_decode
from trainer.coordination import TorchCoordinator
from trainer.in_process_feedback import InProcessFeedback
from trainer.loop import Loop
from trainer.recipe import parse_recipe
from trainer.run_folder import RunFolder

rank, folder, iterations = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{{folder}}/meet-{{iterations}}", rank=rank, world_size=2)
recipe = parse_recipe(RECIPE, which="toy", overrides=[f"run.iterations={{iterations}}", "algorithm.batch_size=8"])
workers = TorchCoordinator()
algorithm = ToyAlgorithm(workers)
made = []
loop = Loop(
    recipe, algorithm, decode=toy_decode, prompts=PROMPTS, folder=RunFolder(folder / "run"),
    feedback=InProcessFeedback({{name: Brightness(name) for name in ("brightness", "spelled")}}),
    coordinator=workers, on_checkpoint=lambda path, line: made.append(path is not None),
)
outcome = loop.run()
(folder / f"{{rank}}-{{iterations}}.json").write_text(json.dumps({{
    "mean": algorithm.mean.flatten().tolist(), "weights": algorithm.weights.tolist(),
    "reason": outcome.reason, "checkpoints": made,
}}))
dist.destroy_process_group()
"""


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_worker_decides_for_itself() -> None:
    assert Solo().decide({"ready": 3}, lambda views: {"seen": list(views)}) == {"seen": [{"ready": 3}]}
    assert Solo().gather({"x": None}) == [{"x": None}]


def test_messages_cross_a_process_group_unchanged(alone: None) -> None:
    coordinator = TorchCoordinator()
    view = {"groups": ["a – ✓", "b"], "count": 3, "nothing": None, "deep": {"x": [1.5, True]}}
    assert coordinator.gather(view) == [view]
    assert coordinator.decide(view, lambda views: {"plan": list(views)}) == {"plan": [view]}


def test_the_mean_of_one_worker_s_tensors_is_themselves(alone: None) -> None:
    for workers in (Solo(), TorchCoordinator()):
        tensors = [torch.arange(6.0).reshape(2, 3), torch.tensor([7.0])]
        workers.average(tensors)
        assert [tensor.tolist() for tensor in tensors] == [[[0, 1, 2], [3, 4, 5]], [7]]


@pytest.mark.timeout(600)  # four starts of torch, on a machine that may be busy
def test_two_workers_learn_the_same_network_and_go_on_after_a_restart(tmp_path: Path) -> None:
    def run(iterations: int) -> list[dict[str, object]]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER.format(root=str(ROOT)), str(rank), str(tmp_path), str(iterations)],
                env=environment,
            )
            for rank in (0, 1)
        ]
        try:
            assert [worker.wait(timeout=280) for worker in workers] == [0, 0]
        finally:
            for worker in workers:
                worker.kill()
        return [json.loads((tmp_path / f"{rank}-{iterations}.json").read_text()) for rank in (0, 1)]

    first, second = run(4)
    assert first["mean"] == second["mean"]
    assert first["weights"] == second["weights"]
    assert (first["checkpoints"], second["checkpoints"]) == ([True, True], [False, False])
    first, second = run(6)
    assert first["mean"] == second["mean"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["groups"]["rewarded"] == 4 for line in lines)  # over both workers
    assert lines[-1]["samples"]["scored"] == 16
