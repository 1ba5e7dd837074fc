"""The same recipe by one Ray Train worker and by two, with half of the batch each; for `test_stack`.

    python -m tests.integration.two_workers FOLDER

Joins the Ray that the environment names. One worker's run is made in this process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from tests.learning import deterministic_recipe
from trainer.launch import launch

COMMON = ("algorithm.surrogate.fresh_share=1", "run.iterations=2", "feedback.max_inflight=1")
PARTS = "tests.learning:build"


def main(folder: Path) -> None:
    launch(deterministic_recipe(*COMMON), folder / "one", num_workers=0, parts=PARTS)
    ray.init(log_to_driver=False)
    halved = deterministic_recipe(*COMMON, "algorithm.batch_size=6")
    launch(halved, folder / "two", num_workers=2, parts=PARTS, cpus_per_worker=0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
