"""docs/preference.md names every setting of the queue with its default, every column of the export, every detail."""

from __future__ import annotations

import re
from pathlib import Path

from services.preference.export import SCHEMA
from services.preference.model import Group, QueueSettings
from services.preference.rewards import GroupRewards, PictureReward
from services.preference.settling import results_of
from tests.architecture.repository import read
from tests.unit.services.preference.asking import group_of

DOCUMENT = read(Path("docs/preference.md"))


def rows(heading: str) -> list[tuple[set[str], str]]:
    """What the rows of the first table after a heading name, and their second cell."""
    table = DOCUMENT.partition(heading)[2].partition("|---|")[2].partition("\n\n")[0].splitlines()[1:]
    cells = [line.strip("|").split("|") for line in table]
    return [(set(re.findall(r"`([a-z0-9_…]+)`", first)), second.strip()) for first, second, *_ in cells]


def test_every_setting_of_the_queue_is_described_with_its_default() -> None:
    described = rows("`REWARDMESH_PREFERENCE_QUEUE`")
    assert set().union(*(names for names, _ in described)) == set(QueueSettings.model_fields)
    for names, default in described:
        for name in names:
            assert shown(name, QueueSettings.model_fields[name].default) in re.split(r", |`", default), name


def shown(name: str, value: float | str) -> str:
    """A default as the table has it."""
    if name.endswith("_bytes"):
        return f"{int(value) // 2**20} MiB" if int(value) < 2**30 else f"{int(value) // 2**30} GiB"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_column_of_the_export_is_described() -> None:
    described = set().union(*(names for names, _ in rows("## The export")))
    prefixes = tuple(name.removesuffix("…") for name in described if name.endswith("…"))
    assert [name for name in SCHEMA.names if name not in described and not name.startswith(prefixes)] == []
    assert [name for name in described if not name.endswith("…") and name not in SCHEMA.names] == []


def test_every_detail_of_a_reward_is_described() -> None:
    group: Group = group_of(1)[0]
    one = PictureReward(reward=0.5, num_answers=1, num_raters=1)
    ((_, result),) = results_of(group, GroupRewards(pictures=(one,), num_answers=1, num_raters=1, alpha=None))
    described = rows("Each reward's `detail`")
    assert set().union(*(names for names, _ in described)) == set(result.detail)
