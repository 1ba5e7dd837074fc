"""Finds the oracles' weights on disk and checks that they are the ones that were shipped.

`SHA256SUMS` beside the files lists them (the format of `sha256sum`); nothing is ever fetched from a network. The files
are made by `python -m deploy.train_oracles`, which also writes `README.md` with their measured scores.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from rewardmesh.wire.errors import WeightsMissing

__all__ = ["CHECKSUMS", "FOLDER", "checksums", "locate", "sha256"]

FOLDER = Path(__file__).resolve().parent
CHECKSUMS = "SHA256SUMS"
_REMAKE = "restore it from the repository or make it anew with `python -m deploy.train_oracles`"


def sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path = FOLDER) -> dict[str, str]:
    """The shipped files of a folder: name to expected checksum.

    Raises: WeightsMissing if the list itself is missing or cannot be read.
    """
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split() for line in lines if line.strip())}
    except (OSError, ValueError) as error:
        raise WeightsMissing("list of weights is missing or unreadable", str(folder / CHECKSUMS), _REMAKE) from error


def locate(name: str, folder: Path = FOLDER) -> Path:
    """Path of a shipped file of weights, checked against its checksum.

    Raises: WeightsMissing if it is not there, not listed, or not the file that was shipped.
    """
    path = folder / name
    if not path.is_file():
        raise WeightsMissing("file of weights is missing", str(path), _REMAKE)
    expected = checksums(folder).get(name)
    if expected is None:
        raise WeightsMissing(f"file of weights is not listed in {CHECKSUMS}", str(path), _REMAKE)
    if sha256(path) != expected:
        raise WeightsMissing("file of weights does not have its recorded checksum", str(path), _REMAKE)
    return path
