"""A run that is killed (-9) at random moments and gone on with ends with the very weights of one left alone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.learning import deterministic_recipe
from tests.unit.trainer.test_loop import lasting, lines
from trainer.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[3]


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text()


def plain(value: Any) -> Any:
    """Tensors as their bytes, so that == means every bit."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.timeout(400)  # a start of torch and seven short runs, on a machine that may be busy
def test_killed_at_random_it_ends_with_bitwise_the_same_weights(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.trainer.resumed_runs", str(tmp_path), str(seed)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert ended.returncode == 0, (seed, ended.stderr)
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["kills"], said
    whole, cut = (newest(tmp_path / name) for name in ("whole", "cut"))
    assert whole.name == cut.name == f"iteration-{deterministic_recipe().run.iterations:08d}"
    files = sorted(path.name for path in (whole / "networks").iterdir())
    assert files == [f"{name}.safetensors" for name in ("ema_student", "fake_score", "student", "surrogate")]
    for name in files:
        assert (whole / "networks" / name).read_bytes() == (cut / "networks" / name).read_bytes(), (name, said)
    one, other = read_checkpoint(whole), read_checkpoint(cut)
    assert plain(one.state["algorithm"]) == plain(other.state["algorithm"]), said  # optimisers, counts, running size
    timed = {"elapsed_s"}
    assert {k: v for k, v in one.loop.items() if k not in timed and k != "ranks"} == {
        k: v for k, v in other.loop.items() if k not in timed and k != "ranks"
    }
    assert [rank["bank"] for rank in one.loop["ranks"]] == [rank["bank"] for rank in other.loop["ranks"]]
    assert [lasting(line) for line in lines(tmp_path / "cut")] == [lasting(line) for line in lines(tmp_path / "whole")]
