"""Shipped weights are compared with their list before anything is started."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deploy import weights
from deploy.weights import examine, require_world, shipped_folders
from rewardmesh.wire.errors import WeightsMissing


def test_every_file_is_compared_with_the_list(tmp_path: Path) -> None:
    for name in ("good", "changed", "missing"):
        (tmp_path / name).write_text(name)
    sums = [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}" for name in ("good", "changed", "missing")]
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    (tmp_path / "changed").write_text("other")
    (tmp_path / "missing").unlink()
    report = examine(tmp_path)
    assert (report.num_good, report.num_bytes) == (1, 4)
    assert "changed does not have its recorded checksum" in report.faults[0]
    assert "missing is missing" in report.faults[1]


def test_a_folder_without_a_list_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(examine(tmp_path).faults) == 1
    monkeypatch.setattr(weights, "shipped_folders", lambda: {"shapes world": tmp_path})
    with pytest.raises(WeightsMissing, match=r"SHA256SUMS is missing\): restore it"):
        require_world()


def test_the_folders_are_those_of_the_packages() -> None:
    assert {folder.name for folder in shipped_folders().values()} == {"weights"}
    assert examine(shipped_folders()["oracles"]).faults == ()
