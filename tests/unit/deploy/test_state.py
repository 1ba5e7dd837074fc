"""What a stack leaves on disk, and the lock beside it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import Stack, stop_stack
from deploy.processes import ProcessRecord, record_of
from deploy.settings import Settings, SettingsError
from deploy.state import (
    StackBusy,
    StackState,
    exclusive,
    keep_secret,
    kept_secret,
    read_state,
    remove_state,
    write_state,
)

GONE = ProcessRecord(pid=1, started_at=0.0)


def running(**more: object) -> StackState:
    known = {"redis_url": "unix:///a", "ray_address": "127.0.0.1:1", "serve_url": "http://127.0.0.1:2", "ready": True}
    return StackState.model_validate({"stack_id": "s", "owner": None, **known, **more})


def test_it_is_read_back_and_private(tmp_path: Path) -> None:
    state = running(server=record_of())
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
    remove_state(tmp_path)
    assert read_state(tmp_path) is None


def test_a_secret_is_made_once_and_private(tmp_path: Path) -> None:
    token = kept_secret(tmp_path / "stack", "oracle-token")
    assert len(token) >= 32
    assert kept_secret(tmp_path / "stack", "oracle-token") == token  # the next start, too
    assert stat.S_IMODE((tmp_path / "stack" / "oracle-token").stat().st_mode) == 0o600
    remove_state(tmp_path / "stack")
    assert kept_secret(tmp_path / "stack", "oracle-token") == token
    assert kept_secret(tmp_path / "another", "oracle-token") != token
    assert kept_secret(tmp_path / "stack", "preference-secret") != token
    assert keep_secret(tmp_path / "stack", "oracle-token", "another") == "another"
    assert kept_secret(tmp_path / "stack", "oracle-token") == "another"
    assert [one.name for one in (tmp_path / "stack").glob("*.new")] == []


def test_a_torn_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"stack_id": ')
    assert read_state(tmp_path) is None


def test_it_lives_as_long_as_all_its_parts() -> None:
    assert running(server=record_of()).alive
    assert not running(server=record_of(), ray=GONE).alive
    assert not running(owner=GONE).alive


def test_two_commands_do_not_start_at_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from deploy.state import exclusive\n"
        f"with exclusive(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StackBusy, match="starting or stopping"), exclusive(tmp_path):
            pass
        other.communicate("\n")
    with exclusive(tmp_path):
        pass


def test_a_stack_that_belongs_to_somebody_is_not_joined(tmp_path: Path) -> None:
    settings = Settings(run_root=tmp_path)
    write_state(settings.state_dir, running(owner=record_of(), server=record_of()))
    with pytest.raises(StackBusy, match="ends with it"):
        Stack(settings).start()


def test_a_command_that_started_nothing_is_in_nobodys_way() -> None:
    assert not running(owner=record_of()).holds
    assert running(owner=record_of(), deployed=("object_count",)).holds
    assert running(owner=None).holds


def test_a_stack_with_another_buffer_is_not_joined(tmp_path: Path) -> None:
    settings = Settings(run_root=tmp_path, redis_url="redis://elsewhere:1")
    write_state(settings.state_dir, running(redis_url="redis://:secret@here:1"))
    with pytest.raises(SettingsError, match=r"another REDIS_URL \(redis://:\*\*\*@here:1\): .*rewardmesh down"):
        Stack(settings).start()


def test_what_is_left_of_a_dead_stack_is_cleared_away(tmp_path: Path) -> None:
    settings = Settings(run_root=tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    state = running(server=GONE, ray=GONE, scratch_dirs=(scratch,))
    write_state(settings.state_dir, state)
    stop_stack(state, settings.state_dir)
    assert read_state(settings.state_dir) is None
    assert not scratch.exists()
