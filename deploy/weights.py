"""Weights that ship: where they lie, and whether they are the files that were shipped."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rewardmesh.wire.errors import WeightsMissing

__all__ = ["WeightsReport", "examine", "require_world", "shipped_folders"]

_RESTORE = "restore it from the repository, or make it anew"
_SHIPPED = {"oracles": "services", "shapes world": "trainer.worlds.shapes"}


@dataclass(frozen=True)
class WeightsReport:
    """Of one folder: how many files are as listed, their size, and one line for each that is not."""

    num_good: int
    num_bytes: int
    faults: tuple[str, ...]


def shipped_folders() -> dict[str, Path]:
    """The folders of weights, by what they belong to, whether or not they are there. Imports nothing heavy."""
    folders = {}
    for what, package in _SHIPPED.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folders[what] = Path(spec.origin).parent / "weights"
    return folders


def examine(folder: Path) -> WeightsReport:
    """Compares every file that `SHA256SUMS` lists (the format of `sha256sum`) with what lies there."""
    listed = folder / "SHA256SUMS"
    if not listed.is_file():
        return WeightsReport(0, 0, (f"{listed} is missing",))
    good, size, faults = 0, 0, []
    for path, expected in _entries(listed):
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif _sha256(path) != expected:
            faults.append(f"{path} does not have its recorded checksum")
        else:
            good, size = good + 1, size + path.stat().st_size
    return WeightsReport(good, size, tuple(faults))


def require_world() -> None:
    """Before anything is started. Raises WeightsMissing for the first file that is not the one that was shipped."""
    folder = shipped_folders()["shapes world"]
    for fault in examine(folder).faults:
        raise WeightsMissing("a file of weights cannot be used", fault, f"{_RESTORE}: see `rewardmesh world --help`")


def _entries(listed: Path) -> Iterator[tuple[Path, str]]:
    for line in listed.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.strip().partition("  ")
        if name:
            yield listed.parent / name.removeprefix("*"), expected


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
