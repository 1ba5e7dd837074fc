"""One run in peace, and one that is killed again and again at random moments and gone on with; for `test_exact_resume`.

    python -m tests.unit.trainer.resumed_runs FOLDER SEED

Each attempt is a fork of this process, which has imported all there is and gone back through no graph: starts cost
nothing, and SIGKILL takes an attempt wherever it is. The last line is the kills as JSON: iterations recorded by then,
seconds into the attempt.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tests.learning import build, deterministic_recipe
from trainer.coordination import Solo
from trainer.loop import Loop
from trainer.run_folder import RunFolder
from trainer.training_process import load_family

KILLS = 3
RECIPE = deterministic_recipe("prompts.groups_per_iteration=2", "prompts.group_size=2", "algorithm.batch_size=6")
torch.set_num_threads(1)
FAMILY = load_family(RECIPE, device=torch.device("cpu"))


def attempt(folder: Path) -> int:
    """Starts a process that goes on with a run to its end; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        parts = build(RECIPE, run_id=folder.name, device=FAMILY.device, workers=Solo(), buffer_url=None, family=FAMILY)
        loop = Loop(
            RECIPE,
            parts.algorithm,
            decode=parts.decode,
            prompts=parts.prompts,
            feedback=parts.feedback,
            folder=RunFolder(folder),
        )
        loop.run()
        status = 0
    finally:
        os._exit(status)
    return 0


def ended_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def recorded(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def main(folder: Path, seed: int) -> None:
    began = time.monotonic()
    assert ended_well(attempt(folder / "whole"))
    whole_s = time.monotonic() - began
    rng, kills = random.Random(seed), []
    while len(kills) < KILLS:
        wait_s = rng.uniform(0.1, 0.6) * whole_s
        pid = attempt(folder / "cut")
        time.sleep(wait_s)
        if os.waitpid(pid, os.WNOHANG)[0]:  # it was quicker: nothing is left to kill
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills.append({"iterations": recorded(folder / "cut"), "after_s": round(wait_s, 2)})
    assert ended_well(attempt(folder / "cut"))
    print(json.dumps({"kills": kills, "seed": seed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
