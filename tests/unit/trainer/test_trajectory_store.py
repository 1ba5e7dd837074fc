"""The trajectory store: append-only, checksummed, bounded, and whole again after a torn write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewardmesh.wire.errors import CheckpointCorrupt
from trainer.recipe_sections import StoreSettings
from trainer.replay_bank import ReplayBank
from trainer.trajectory_store import GroupHeader, OracleRewards, StoredGroup, TrajectoryStore

SETTINGS = StoreSettings(max_bytes=1 << 20, segment_bytes=1 << 16)


def group(number: int, *, version: int = 0, size: int = 3) -> StoredGroup:
    latents = np.random.default_rng(number).normal(size=(size, 5, 2, 4, 4)).astype(np.float16)
    header = GroupHeader(
        group_id=f"g{number}",
        rollout_index=number,
        policy_version=version,
        prompt=f"prompt {number} – ✓",
        kind="colors",
        checks={"tag": "colors", "include": [{"class": "circle", "color": "red"}]},
        sigmas=(1.0, 0.9, 0.75, 0.5, 0.0),
        group_size=size,
    )
    return StoredGroup(header=header, boundaries=latents)


def rewards(oracle: str = "a", values: tuple[float | None, ...] = (0.5, None, 1 / 3)) -> OracleRewards:
    return OracleRewards(oracle=oracle, oracle_version="1", policy_version=2, boundary_indices=(4,), rewards=(values,))


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*.log"))


def test_what_is_written_is_read_back_by_another_process_to_the_bit(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS, clock=lambda: 5e9)
    groups = [group(i) for i in range(4)]
    for one in groups:
        store.add_group(one)
    assert store.add_rewards("g1", rewards())
    assert not store.add_rewards("g1", rewards())
    assert not store.add_rewards("unknown", rewards())
    store.close()
    again = TrajectoryStore(tmp_path, SETTINGS)
    assert again.group_ids() == ["g0", "g1", "g2", "g3"]
    assert again.recovered_bytes == 0
    for one in groups:
        assert again.header(one.header.group_id) == replace(one.header, unix_s=5e9)
        np.testing.assert_array_equal(again.boundaries(one.header.group_id), one.boundaries)
    kept = again.rewards("g1")["a"]
    assert (kept.rewards, kept.unix_s) == (rewards().rewards, 5e9)
    values, known = kept.table()
    assert known.tolist() == [[True, False, True]]
    assert values[0].tolist() == [0.5, 0.0, np.float32(1 / 3)]
    again.close()


def test_a_group_that_is_there_is_kept_as_it_is(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS)
    store.add_group(group(1))
    before = store.position()
    store.add_group(group(1, version=7))
    assert store.position() == before
    assert store.header("g1").policy_version == 0
    store.close()


@pytest.mark.parametrize("cut", [1, 3, 20, 200])
def test_a_torn_tail_is_cut_off_and_the_rest_stays(tmp_path: Path, cut: int) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS)
    for i in range(3):
        store.add_group(group(i))
    store.close()
    (segment,) = segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-cut])
    again = TrajectoryStore(tmp_path, SETTINGS)
    assert again.group_ids() == ["g0", "g1"]
    assert again.recovered_bytes > 0
    again.add_group(group(9))
    again.close()
    third = TrajectoryStore(tmp_path, SETTINGS)
    assert third.group_ids() == ["g0", "g1", "g9"]
    assert third.recovered_bytes == 0
    np.testing.assert_array_equal(third.boundaries("g9"), group(9).boundaries)
    third.close()


def test_a_damaged_record_costs_itself_only(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS)
    for i in range(3):
        store.add_group(group(i))
    (segment,) = segments(tmp_path)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="does not match its checksum"):
        store.boundaries("g1")
    store.close()
    again = TrajectoryStore(tmp_path, SETTINGS)
    assert again.group_ids() == ["g0", "g2"]
    again.close()


def test_another_format_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "segment-00000001.log").write_bytes(b"something else entirely")
    with pytest.raises(CheckpointCorrupt, match="segment-00000001"):
        TrajectoryStore(tmp_path, SETTINGS)


def test_the_store_stays_within_its_bytes_and_the_oldest_go_first(tmp_path: Path) -> None:
    settings = StoreSettings(max_bytes=1 << 20, segment_bytes=1 << 17)
    store = TrajectoryStore(tmp_path, settings)
    store.release(before_rollout=1500)
    bank = ReplayBank(store, max_groups=10_000)
    for i in range(1500):
        store.add_group(group(i))
        store.add_rewards(f"g{i}", rewards(values=(0.1, 0.2, 0.3)))
        bank.add(f"g{i}", ["a"])
    assert settings.max_bytes - 2 * settings.segment_bytes <= store.size_bytes <= settings.max_bytes
    assert 200 < len(store) < 1500
    kept = store.group_ids()
    assert kept[-1] == "g1499"
    assert "g0" not in store
    np.testing.assert_array_equal(store.boundaries(kept[0]), group(int(kept[0][1:])).boundaries)
    assert set(bank.sample(2000, rng=np.random.default_rng(0))) == set(kept)
    store.close()
    again = TrajectoryStore(tmp_path, settings)
    assert len(again) == len(kept)
    again.close()


def test_old_segments_go_by_age(tmp_path: Path) -> None:
    settings = StoreSettings(max_bytes=1 << 20, segment_bytes=1 << 16, max_age_s=100)
    store = TrajectoryStore(tmp_path, settings)
    for i in range(200):
        store.add_group(group(i))
    store.close()
    newest = max(path.stat().st_mtime for path in segments(tmp_path))
    later = TrajectoryStore(tmp_path, settings, clock=lambda: newest + 101)
    assert len(later) == 200  # nobody has said yet what is in flight
    later.release(before_rollout=200)
    assert len(segments(tmp_path)) == 1
    assert 0 < len(later) < 200
    later.close()


def test_what_is_in_flight_stays_whatever_the_bounds(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS)
    for i in range(2000):
        if i % 1000 == 0:
            store.release(before_rollout=i)
        store.add_group(group(i))
    assert store.size_bytes > SETTINGS.max_bytes  # the last thousand take more than there should be
    assert set(store.group_ids()) >= {f"g{i}" for i in range(1000, 2000)} and "g0" not in store
    store.close()
    again = TrajectoryStore(tmp_path, SETTINGS)
    again.release(before_rollout=1500)
    assert set(again.group_ids()) >= {f"g{i}" for i in range(1500, 2000)}
    again.release(before_rollout=2000)
    assert again.size_bytes <= SETTINGS.max_bytes and "g1999" in again
    for i in range(2000, 2100):
        again.add_group(group(i))
    assert "g2000" in again
    again.close()


def test_a_checkpoint_beyond_the_end_is_noticed(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS)
    store.add_group(group(0))
    position = store.position()
    store.require(position)
    with pytest.raises(CheckpointCorrupt, match="ends before the checkpoint"):
        store.require({**position, "offset": position["offset"] + 1})
    store.close()


def test_the_bank_is_newest_in_oldest_out_and_minds_staleness(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path, SETTINGS)
    bank = ReplayBank(store, max_groups=3)
    for i in range(5):
        store.add_group(group(i, version=i))
        bank.add(f"g{i}", ["a"])
    rng = np.random.default_rng(0)
    assert sorted(bank.sample(9, rng=rng)) == ["g2", "g3", "g4"]
    assert bank.sample(9, rng=rng, exclude=["g4"], min_policy_version=3) == ["g3"]
    assert len(set(bank.sample(2, rng=rng))) == 2
    bank.add("g2", ["a", "b"])
    other = ReplayBank(store, max_groups=3)
    other.restore([*bank.state(), ["gone", ["a"]]])
    assert other.state() == bank.state() == [["g2", ["a", "b"]], ["g3", ["a"]], ["g4", ["a"]]]
    store.close()
