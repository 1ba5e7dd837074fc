"""Two workers with whole groups of a batch each have the losses of one that has all of it, and end as it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.trainer.test_roles import FORMS

ROOT = Path(__file__).parents[3]
LOCAL = {
    "surrogate_ranking",
    "surrogate_drift",
    "surrogate_trust_stopped",
    "matching_rms",
    "guidance_rms",
    "reward_rms",
}


@pytest.mark.timeout(300)  # a start of torch, on a machine that may be busy
def test_two_workers_and_one_with_the_same_batch(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.trainer.shared_batches", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for form in FORMS:
        alone, *both = (
            json.loads((tmp_path / f"{form}-{name}.json").read_text()) for name in ("0-of-1", "0-of-2", "1-of-2")
        )
        assert alone["samples"] == 9
        assert [one["samples"] for one in both] == [6, 3]
        for one in both:
            for figures, expected in zip(one["figures"], alone["figures"], strict=True):
                shared = {key: value for key, value in expected.items() if key not in LOCAL}
                assert {key: figures[key] for key in shared} == pytest.approx(shared, rel=1e-4, abs=1e-6)
        weights, first, second = (
            load_file(tmp_path / f"{form}-{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")
        )
        assert all(torch.equal(first[key], second[key]) for key in weights)
        apart = torch.cat([(first[key] - tensor).abs().flatten() for key, tensor in weights.items()])
        # Adam's first steps are as long as its rate, whichever way: a gradient near 0 may turn one round.
        assert float((apart > 1e-5).float().mean()) < 0.01
        assert float(apart.mean()) < 1e-6
