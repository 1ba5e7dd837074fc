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
from rewardmesh.wire.telemetry import about, configure_logging, get_logger

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
