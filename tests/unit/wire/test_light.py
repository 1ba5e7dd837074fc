"""Small rules of the package: what importing it costs, what its modules promise."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import rewardmesh.wire
from rewardmesh.wire import errors, names
from rewardmesh.wire.errors import OracleTimeout, RewardmeshError, WeightsMissing
from rewardmesh.wire.telemetry import FORMAT, about, configure_logging, get_logger

HEAVY = {"torch", "ray", "fastapi", "transformers", "diffusers", "redis", "numpy", "pydantic", "PIL"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_is_light() -> None:
    assert not HEAVY & modules_after("import rewardmesh")
    assert not {"torch", "ray", "fastapi"} & modules_after(
        "import rewardmesh.wire.redis_stream, rewardmesh.wire.codec, rewardmesh.wire.telemetry"
    )


@pytest.mark.parametrize("module", rewardmesh.wire.__all__)
def test_all_is_what_there_is(module: str) -> None:
    loaded = importlib.import_module(f"rewardmesh.wire.{module}")
    for name in loaded.__all__:
        assert hasattr(loaded, name), name


def test_the_error_tree_is_the_one_drawn() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, RewardmeshError)
        assert f"─ {name} " in (errors.__doc__ or "") or kind is RewardmeshError, name
    retryable = {name for name in errors.__all__ if getattr(errors, name).retryable}
    assert retryable == {
        "BufferUnavailable", "GatewayUnavailable", "OracleTimeout", "OracleUnavailable", "RateExceeded",
    }  # fmt: skip


def test_an_error_is_one_line_that_says_what_which_and_what_to_do() -> None:
    error = WeightsMissing("no weights", "detector.pt", "run `rewardmesh\n doctor`")
    assert str(error) == "no weights (detector.pt): run `rewardmesh doctor`"
    assert str(OracleTimeout("too slow")) == "too slow"


def test_keys_are_spelt_in_one_place() -> None:
    assert names.run_key("r1", "stream", "count") == "rm:{r1}:stream:count"
    assert names.run_key("r1", "results") == "rm:{r1}:results"
    with pytest.raises(ValueError, match="no such key"):
        names.run_key("r1", "stream")


def test_a_log_line_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json_lines=True)
    with about(run_id="r1", oracle="count"):
        get_logger("worker").info("settled", settled=8)
    get_logger("worker").debug("too quiet to be heard")
    line = json.loads(capsys.readouterr().err)
    assert {
        "part": "worker",
        "event": "settled",
        "run_id": "r1",
        "oracle": "count",
        "settled": 8,
    }.items() <= line.items()
    with pytest.raises(ValueError, match="colour"), about(colour="red"):
        pass


def test_lines_are_json_unless_somebody_reads_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> str:
        configure_logging()
        get_logger("worker").info("settled")
        return capsys.readouterr().err

    monkeypatch.delenv(FORMAT, raising=False)
    assert json.loads(said())["event"] == "settled"  # no terminal
    monkeypatch.setenv(FORMAT, "text")
    assert not said().startswith("{")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv(FORMAT)
    assert not said().startswith("{")
    monkeypatch.setenv(FORMAT, "json")
    assert json.loads(said())["event"] == "settled"


def test_what_libraries_log_has_the_same_form() -> None:
    code = """
import logging
from rewardmesh.wire.telemetry import configure_logging
configure_logging()
logging.getLogger("httpx").info("too quiet to be heard")
logging.getLogger("asyncio").warning("slow: %d", 3, extra={"oracle": "count"})
try: 1 / 0
except ZeroDivisionError: logging.getLogger("kit").exception("oracle.failed")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(json.loads, ended.stderr.splitlines())
    assert {"part": "asyncio", "event": "slow: 3", "level": "warning", "oracle": "count"}.items() <= first.items()
    assert second["part"] == "kit"
    assert "ZeroDivisionError" in second["exception"]


@pytest.mark.parametrize("json_lines", [True, False])
def test_what_looks_like_a_secret_is_struck_out(json_lines: bool, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json_lines=json_lines)
    token = "rmt_0123456789ab_" + 43 * "x"
    fault = ValueError(f"redis://user:hunter2@buffer:6379/0 did not take {token}")
    headers = {"Authorization": "Bearer hunter2hunter2"}
    get_logger("worker").error("it.broke", url="https://hunter2@host/v1", headers=headers, exc_info=fault)
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert token not in said
    for kept in ("redis://***@buffer:6379/0", "https://***@host/v1", "rmt_0123456789ab_***", "Bearer ***"):
        assert kept in said
