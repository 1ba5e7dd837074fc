"""One worker with a batch, and two with half of its groups each, over gloo; for `test_workers_learn_as_one`.

    python -m tests.unit.trainer.shared_batches FOLDER

Each worker is a fork of this process. Writes figures and final weights of each to FOLDER.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.unit.trainer.test_roles import FORMS, batch_of, recipe, way
from trainer.algorithms.interface import TrajectoryBatch
from trainer.algorithms.tdm_r1 import TdmR1
from trainer.coordination import Solo, TorchCoordinator, Workers
from trainer.models.sd3 import Sd3Family
from trainer.worlds.shapes.weights_folder import WEIGHTS

WAYS = dict(zip(FORMS, ("full", "lora"), strict=True))


def groups_of(batch: TrajectoryBatch, groups: list[int]) -> TrajectoryBatch:
    rows = torch.cat([(batch.group_index == group).nonzero()[:, 0] for group in groups])
    assert batch.rewards is not None and batch.advantages is not None and batch.shortfall is not None
    _, index = torch.unique_consecutive(batch.group_index[rows], return_inverse=True)
    return TrajectoryBatch(
        boundaries=batch.boundaries[rows],
        prompts=[batch.prompts[row] for row in rows.tolist()],
        group_index=index,
        rewards=batch.rewards[rows],
        advantages=batch.advantages[rows],
        shortfall=batch.shortfall[rows],
    )


def learn(family: Sd3Family, batch: TrajectoryBatch, workers: Workers, folder: Path, form: str) -> None:
    algorithm = TdmR1(recipe(form), family, roles=way(WAYS[form], family), seed=2, workers=workers)
    mine = groups_of(batch, list(range(workers.rank, batch.num_groups, workers.world_size)))
    steps = (algorithm.surrogate_step, algorithm.fake_score_step, algorithm.student_step)
    figures = [step(mine) for _ in range(2) for step in steps]
    name = f"{form}-{workers.rank}-of-{workers.world_size}"
    (folder / f"{name}.json").write_text(json.dumps({"figures": figures, "samples": mine.num_samples}))
    networks = algorithm.state_dict()["networks"]
    save_file(
        {f"{network}/{key}": t.clone() for network, tensors in networks.items() for key, t in tensors.items()},
        folder / f"{name}.safetensors",
    )


def worker(rank: int, world_size: int, folder: Path, family: Sd3Family, batches: dict[str, TrajectoryBatch]) -> int:
    """Starts one; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        workers: Workers = Solo()
        if world_size > 1:
            dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
            workers = TorchCoordinator()
        for form, batch in batches.items():
            learn(family, batch, workers, folder, form)
        if world_size > 1:
            dist.destroy_process_group()
        status = 0
    finally:
        os._exit(status)
    return 0


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    family = Sd3Family.load(WEIGHTS)
    batches = {}
    for form in FORMS:
        batch = batch_of(TdmR1(recipe(form), family, roles=way("lora", family)), groups=3, size=3)
        batches[form] = groups_of(batch, [0, 1, 2])  # two groups for one worker, one for the other
    for world_size in (1, 2):
        pids = [worker(rank, world_size, folder, family, batches) for rank in range(world_size)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert not any(codes), codes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
