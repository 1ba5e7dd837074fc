"""The repository as these tests see it: what is tracked, and where."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rewardmesh", "services", "reward_workers", "trainer", "deploy")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Paths below the root: what git tracks, or, where the tree is no clone, what lies there."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode == 0:
        names = [name for name in listing.stdout.decode().split("\0") if name]
        return tuple(sorted(path for path in map(Path, names) if (ROOT / path).is_file()))
    made = {".venv", "runs", "build", "dist", "__pycache__", ".git"}
    return tuple(
        sorted(
            path.relative_to(ROOT)
            for path in ROOT.rglob("*")
            if path.is_file() and not any(part in made or part.endswith("_cache") for part in path.parts)
        )
    )


def tracked(suffix: str) -> list[Path]:
    """Tracked files with this suffix; never an empty list."""
    found = [path for path in tracked_files() if path.suffix == suffix]
    assert found, f"no tracked file ends in {suffix}"
    return found


def read(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
