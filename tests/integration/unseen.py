"""The secrets of the real stack, and where none of them may stand."""

from __future__ import annotations

from pathlib import Path

from deploy.settings import Settings
from tests.integration.compose import PASSWORD
from tests.integration.conftest import RunningStack
from tests.integration.dashboard import ray_token


def secrets_of(stack: RunningStack) -> set[str]:
    """The buffer's password, Ray's token and the oracles'."""
    return {PASSWORD, ray_token(), (_state_dir(stack) / "oracle-token").read_text()}


def places_of(stack: RunningStack) -> list[Path]:
    """Ray's session, with all logs and arguments; what the services print; folders of runs. Not the token's own file,
    which its owner alone can read, nor the buffer's data.
    """
    session = stack.state.scratch_dirs[-1]
    return [session, *(path for path in stack.folder.iterdir() if path.name not in {"data", "stack"})]


def seen_in_files(secrets: set[str], *places: Path) -> list[str]:
    """`file: how the secret begins` for each one that stands in a file of these places."""
    files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    assert len(files) > 5
    found = []
    for path in files:
        content = path.read_bytes()
        found += [f"{path}: {secret[:4]}…" for secret in secrets if secret.encode() in content]
    return found


def _state_dir(stack: RunningStack) -> Path:
    return Settings(run_root=stack.folder / "stack").state_dir
