"""docs/operations.md names every setting and every metric, and none that do not exist."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_settings import BaseSettings

from deploy.settings import Settings
from reward_workers.settings import WorkerSettings
from rewardmesh.wire.names import METRICS, labels_of
from tests.architecture.repository import read, tracked

DOCUMENT = read(Path("docs/operations.md"))
JOINED = {"REDIS_URL", "RAY_ADDRESS"}


def variables(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config["env_prefix"]
    return {f"{prefix}{name}".upper() for name in settings.model_fields}


def described(pattern: str) -> set[str]:
    return set(re.findall(rf"^\| `({pattern})` \|", DOCUMENT, re.MULTILINE))


def test_every_setting_is_described() -> None:
    own = variables(Settings) - {f"REWARDMESH_{name}" for name in JOINED}
    workers = variables(WorkerSettings)
    assert len(own) > 5
    assert len(workers) > 5
    assert described(r"[A-Z][A-Z_]+") == own | workers | JOINED | {"REWARDMESH_DEBUG"}


def test_every_metric_is_described_with_its_labels() -> None:
    rows = re.findall(r"^\| `(rewardmesh_[a-z_]+)`(?: \*)? \| .* \| ([a-z, ]+) \|$", DOCUMENT, re.MULTILINE)
    assert {name: set(labels.split(", ")) for name, labels in rows} == {name: labels_of(name) for name in METRICS}


def test_every_metric_is_measured_somewhere() -> None:
    code = "".join(read(path) for path in tracked(".py") if path.parts[0] in {"reward_workers", "trainer"})
    assert [name for name in METRICS if f'"{name}"' not in code] == []
