"""Weights are found and checked, and what is wrong is said in one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewardmesh.wire.errors import WeightsMissing
from services.weights import CHECKSUMS, FOLDER, checksums, locate, sha256


def test_what_ships_has_its_checksum() -> None:
    for name in checksums():
        assert locate(name) == FOLDER / name


def listed(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    (folder / CHECKSUMS).write_text(f"{sha256(path)}  {name}\n")
    return path


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"detector\.safetensors"):
        locate("detector.safetensors", tmp_path)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = listed(tmp_path, "some.bin", b"weights")
    assert locate("some.bin", tmp_path) == path
    path.write_bytes(b"other weights")
    with pytest.raises(WeightsMissing, match="does not have its recorded checksum"):
        locate("some.bin", tmp_path)


def test_an_unlisted_file_is_refused(tmp_path: Path) -> None:
    listed(tmp_path, "some.bin", b"weights")
    (tmp_path / "other.bin").write_bytes(b"x")
    with pytest.raises(WeightsMissing, match="not listed"):
        locate("other.bin", tmp_path)


def test_a_missing_or_broken_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.bin").write_bytes(b"x")
    with pytest.raises(WeightsMissing, match=CHECKSUMS):
        locate("some.bin", tmp_path)
    (tmp_path / CHECKSUMS).write_text("nonsense\n")
    with pytest.raises(WeightsMissing, match="unreadable"):
        locate("some.bin", tmp_path)


def test_the_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        locate("detector.safetensors", tmp_path)
    assert "\n" not in str(caught.value)
    assert "deploy.train_oracles" in str(caught.value)
