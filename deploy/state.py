"""What a stack left on disk for later commands: where its parts are, and which processes are its own.

`status`, `down`, `train` and a second `up` read it. The lock beside it keeps two commands from starting at once.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.processes import ProcessRecord
from rewardmesh.wire.errors import RewardmeshError

__all__ = [
    "StackBusy",
    "StackState",
    "exclusive",
    "keep_secret",
    "kept_secret",
    "read_state",
    "remove_state",
    "write_state",
]


class StackBusy(RewardmeshError):
    """Another command of this run root is starting or stopping its stack."""


class StackState(BaseModel):
    """One stack. `server` and `ray` are None where the stack joined somebody else's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stack_id: str
    owner: ProcessRecord | None
    """The process that stops it at its end; None for a stack that `up` left running."""
    redis_url: str | None = None
    ray_address: str | None = None
    dashboard_url: str | None = None
    serve_url: str | None = None
    server: ProcessRecord | None = None
    ray: ProcessRecord | None = None
    scratch_dirs: tuple[Path, ...] = ()
    """Short-lived folders (sockets, Ray's session) that go with it."""
    deployed: tuple[str, ...] = ()
    """Serve applications that it put on a cluster."""
    timings_s: dict[str, float] = {}
    """Seconds that each part took to start."""
    ready: bool = False

    @property
    def holds(self) -> bool:
        """True if it started something, or is there to be joined; False for a command that only joined others."""
        return bool(self.owner is None or self.server or self.ray or self.deployed)

    @property
    def alive(self) -> bool:
        """True while every process that it started, and its owner if it has one, still runs."""
        return all(record.alive for record in (self.server, self.ray, self.owner) if record is not None)


def _path(state_dir: Path) -> Path:
    return state_dir / "state.json"


def read_state(state_dir: Path) -> StackState | None:
    """The state of the stack that was last started here, dead or alive; None if there is none that can be read."""
    try:
        return StackState.model_validate_json(_path(state_dir).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_state(state_dir: Path, state: StackState) -> None:
    """Replaces the state in one step. Only its owner may read it: URLs may hold passwords."""
    state_dir.mkdir(parents=True, exist_ok=True)
    scratch = _path(state_dir).with_suffix(".new")
    scratch.touch(mode=0o600)
    scratch.write_text(state.model_dump_json(indent=1))
    scratch.replace(_path(state_dir))


def remove_state(state_dir: Path) -> None:
    """Forgets the stack; forgetting none is no error."""
    _path(state_dir).unlink(missing_ok=True)


def kept_secret(state_dir: Path, name: str) -> str:
    """A secret of the stack's own: made once in this run root, kept under its name, and for its owner's eyes alone."""
    try:
        return (state_dir / name).read_text().strip()
    except FileNotFoundError:
        return keep_secret(state_dir, name, secrets.token_urlsafe(32))


def keep_secret(state_dir: Path, name: str, secret: str) -> str:
    """Keeps this one from now on; returns it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    scratch = state_dir / f"{name}.new"
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    scratch.replace(state_dir / name)
    return secret


@contextmanager
def exclusive(state_dir: Path) -> Iterator[None]:
    """Holds the lock of this run root; the system lets go of it when the process dies.

    Raises: StackBusy if another process holds it.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StackBusy(
            "another rewardmesh command is starting or stopping a stack here",
            str(state_dir),
            "wait for it, or set REWARDMESH_RUN_ROOT to another folder",
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)
