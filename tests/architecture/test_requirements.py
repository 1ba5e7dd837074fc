"""requirements.lock holds what pyproject.toml asks for, each with hashes, and nothing about where it was made."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.repository import ROOT, read

ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)", re.MULTILINE)


def entries() -> dict[str, str]:
    """Name to the text of its entry."""
    lock = read(Path("requirements.lock"))
    starts = list(ENTRY.finditer(lock))
    ends = [match.start() for match in starts[1:]] + [len(lock)]
    return {
        canonicalize_name(match["name"]): lock[match.start() : end] for match, end in zip(starts, ends, strict=True)
    }


def test_every_requirement_is_locked() -> None:
    project = tomllib.loads(read(Path("pyproject.toml")))["project"]
    asked = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    assert len(asked) > 30
    locked = entries()
    for requirement in asked:
        entry = locked.get(canonicalize_name(requirement.name))
        assert entry, f"{requirement.name} is not in requirements.lock: run `make lock`"
        match = ENTRY.match(entry)
        assert match
        assert match["version"] in requirement.specifier, f"{requirement}: locked at {match['version']}"


def test_every_locked_package_has_hashes() -> None:
    locked = entries()
    assert len(locked) > 100
    assert [name for name, entry in locked.items() if "--hash=sha256:" not in entry] == []


def test_the_lock_says_nothing_about_a_machine() -> None:
    comments = [line for line in read(Path("requirements.lock")).splitlines() if line.startswith("#")]
    assert "make lock" in comments[1]
    assert not [line for line in comments if "/" in line or str(ROOT) in line]
    assert "://" not in read(Path("requirements.lock"))
