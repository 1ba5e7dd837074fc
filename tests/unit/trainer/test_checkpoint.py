"""Checkpoints are whole or not believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rewardmesh.wire.errors import CheckpointCorrupt
from trainer.checkpoint import Checkpoint, CheckpointFolder


def checkpoint(iteration: int) -> Checkpoint:
    network = torch.nn.Linear(2, 3)
    tied = torch.arange(4.0)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2)).sum().backward()
    optimizer.step()
    return Checkpoint(
        iteration=iteration,
        recipe_yaml="name: x\n",
        loop={"policy_version": iteration, "ranks": [{"bank": [["g", ["a"]]]}]},
        networks={"student": network.state_dict(), "shared": {"one": tied, "other": tied[1:]}},
        state={"optimizers": {"student": optimizer.state_dict()}, "rng": torch.get_rng_state(), "step": 3, "x": None},
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    assert folder.read_latest() is None
    written = checkpoint(10)
    path = folder.write(written)
    assert path.name == "iteration-00000010"
    read = folder.read_latest()
    assert read is not None
    assert (read.iteration, read.loop, read.recipe_yaml) == (10, written.loop, written.recipe_yaml)
    assert torch.equal(read.networks["student"]["weight"], written.networks["student"]["weight"])
    assert read.networks["shared"]["other"].tolist() == [1.0, 2.0, 3.0]
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 3).parameters())
    optimizer.load_state_dict(read.state["optimizers"]["student"])
    assert torch.equal(read.state["rng"], written.state["rng"])


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for iteration in (1, 2, 3, 11):
        folder.write(checkpoint(iteration))
    assert sorted(path.name for path in tmp_path.glob("iteration-*")) == ["iteration-00000003", "iteration-00000011"]
    assert (tmp_path / "latest").read_text() == "iteration-00000011"
    folder.write(checkpoint(11))  # resumed from 3 and come to 11 again
    read = folder.read_latest()
    assert read is not None
    assert read.iteration == 11


@pytest.mark.parametrize("victim", ["state.pt", "networks/student.safetensors", "loop.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, victim: str, how: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.write(checkpoint(1))
    file = folder.write(checkpoint(2)) / victim
    content = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    read = folder.read_latest()
    assert read is not None
    assert read.iteration == 1


def test_none_whole_is_a_clear_error(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    (folder.write(checkpoint(1)) / "state.pt").write_bytes(b"no")
    with pytest.raises(CheckpointCorrupt, match=r"does not match its checksum .*state\.pt.*: restore"):
        folder.read_latest()


def test_a_half_written_one_is_not_there(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.write(checkpoint(1))
    (tmp_path / "iteration-00000002.partial").mkdir()
    read = folder.read_latest()
    assert read is not None
    assert read.iteration == 1


def test_code_in_the_state_is_refused_when_written(tmp_path: Path) -> None:
    bad = checkpoint(1)
    with pytest.raises(TypeError, match=r"state\.path is a PosixPath"):
        CheckpointFolder(tmp_path, keep=1).write(
            Checkpoint(iteration=1, recipe_yaml="", loop={}, networks=bad.networks, state={"path": Path("x")})
        )
    assert CheckpointFolder(tmp_path, keep=1).read_latest() is None
