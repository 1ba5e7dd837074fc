"""What was rolled out, on disk: every boundary of every group in half precision, and its rewards as they arrive.

One store a worker, append-only (`segment_log`), bounded in bytes and age; what rollouts in flight need stays whatever
the bounds. Two readers: the replay bank, and late rewards. Rewards are records of their own, so that an answer that
comes hours later is one append. Boundaries are rounded to half precision once, on the way in, and every learner reads
them from here: a run that resumes then learns from exactly the numbers that an uninterrupted one does.

    record `trajectory`:  u32 length of the JSON, JSON (who, which prompt, shape, levels), float16 bytes
    record `rewards`:     JSON (group, oracle, version, boundary indices, one list of rewards a boundary, null = failed)

Axis legend: G group size, K steps, C/H/W latent, P scored boundaries.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rewardmesh.wire.errors import CheckpointCorrupt
from rewardmesh.wire.strict_json import dump_json, load_json
from trainer.recipe_sections import StoreSettings
from trainer.segment_log import Location, SegmentLog

__all__ = ["GroupHeader", "OracleRewards", "StoredGroup", "TrajectoryStore"]

_TRAJECTORY: Final = 1
_REWARDS: Final = 2
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class GroupHeader:
    """Which group this is; all of it is kept in memory."""

    group_id: str
    rollout_index: int
    policy_version: int
    prompt: str
    kind: str
    checks: Mapping[str, Any]
    """GenEval's metadata, plus `text`."""
    sigmas: tuple[float, ...]
    """K+1 levels."""
    group_size: int
    """G."""
    traceparent: str | None = None
    """The span of its rollout, if traces are exported: what becomes of it later belongs to the same trace."""
    unix_s: float = 0.0
    """When it was stored; 0 where that was not kept."""


@dataclass(frozen=True, kw_only=True)
class StoredGroup:
    """A group with its boundaries."""

    header: GroupHeader
    boundaries: NDArray[np.float16]
    """[G, K+1, C, H, W]."""


@dataclass(frozen=True, kw_only=True)
class OracleRewards:
    """What one oracle said of a group."""

    oracle: str
    oracle_version: str
    policy_version: int
    """The trainer's version when the answer came; less the group's own, it is the staleness."""
    boundary_indices: tuple[int, ...]
    rewards: tuple[tuple[float | None, ...], ...]
    """P rows of G rewards; None where the oracle gave none."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Pictures without a reward, by failure code."""
    unix_s: float = 0.0
    """When it was stored."""

    @property
    def num_scored(self) -> int:
        return sum(reward is not None for row in self.rewards for reward in row)

    def table(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rewards [P, G] (0 where there is none) and whether there is one [P, G]."""
        known = np.array([[reward is not None for reward in row] for row in self.rewards], dtype=np.bool_)
        values = np.array([[reward or 0.0 for reward in row] for row in self.rewards], dtype=np.float32)
        return values, known


@dataclass
class _Entry:
    location: Location
    header: GroupHeader
    rewards: dict[str, OracleRewards] = field(default_factory=dict)


class TrajectoryStore:
    """One worker's store."""

    def __init__(self, folder: Path, settings: StoreSettings, *, clock: Callable[[], float] = time.time) -> None:
        """Opens or creates it; a torn tail is cut off, and nothing else goes before the first `release`.

        Raises CheckpointCorrupt if the files are of another format.
        """
        self._clock = clock
        self._held_from = 0
        self._entries: dict[str, _Entry] = {}
        self._log = SegmentLog(
            folder,
            segment_bytes=settings.segment_bytes,
            max_bytes=settings.max_bytes,
            max_age_s=settings.max_age_s,
            clock=clock,
        )
        self._log.keep_from = 0
        for location, kind, payload in self._log.scan():
            self._index(location, kind, payload)

    @property
    def recovered_bytes(self) -> int:
        """Bytes of a torn record that opening cut off."""
        return self._log.recovered_bytes

    @property
    def size_bytes(self) -> int:
        return self._log.size_bytes

    def __contains__(self, group_id: object) -> bool:
        return group_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def header(self, group_id: str) -> GroupHeader:
        return self._entries[group_id].header

    def group_ids(self) -> list[str]:
        """All groups held, oldest first."""
        return list(self._entries)

    def rewards(self, group_id: str) -> Mapping[str, OracleRewards]:
        """What is known of the group, by oracle."""
        return self._entries[group_id].rewards

    def add_group(self, group: StoredGroup) -> None:
        """Appends a group. A group that is there already is kept as it is: what was scored is what is learnt from."""
        if group.header.group_id in self._entries:
            return
        header = replace(group.header, unix_s=self._clock())
        head = dump_json(
            {
                "group_id": header.group_id,
                "rollout_index": header.rollout_index,
                "policy_version": header.policy_version,
                "prompt": header.prompt,
                "kind": header.kind,
                "checks": dict(header.checks),
                "sigmas": list(header.sigmas),
                "group_size": header.group_size,
                **({"traceparent": header.traceparent} if header.traceparent else {}),
                "unix_s": header.unix_s,
                "shape": list(group.boundaries.shape),
            }
        ).encode()
        latents = np.ascontiguousarray(group.boundaries, dtype=np.dtype("<f2"))
        location = self._log.append(_TRAJECTORY, _LENGTH.pack(len(head)) + head + latents.tobytes())
        self._entries[header.group_id] = _Entry(location, header)
        if self._log.keep_from is None and header.rollout_index >= self._held_from:
            self._log.keep_from = location.segment
        self._drop_pruned()

    def release(self, *, before_rollout: int) -> None:
        """Groups of rollouts before this one may go from now on, as the bounds want it; others stay whatever they want.

        What is in flight must be there when its turn comes, and again after a restart.
        """
        self._held_from = before_rollout
        held = [one.location.segment for one in self._entries.values() if one.header.rollout_index >= before_rollout]
        self._log.keep_from = min(held, default=None)
        self._log.prune()
        self._drop_pruned()

    def add_rewards(self, group_id: str, rewards: OracleRewards) -> bool:
        """Appends one oracle's answer; False if the group is gone, or there is an answer with as many rewards already.

        One with more (a failed sample was asked about again) takes the place of the other.
        """
        entry = self._entries.get(group_id)
        present = entry.rewards.get(rewards.oracle) if entry is not None else None
        if entry is None or (present is not None and present.num_scored >= rewards.num_scored):
            return False
        record = {
            "group_id": group_id,
            "oracle": rewards.oracle,
            "oracle_version": rewards.oracle_version,
            "policy_version": rewards.policy_version,
            "boundary_indices": list(rewards.boundary_indices),
            "rewards": [list(row) for row in rewards.rewards],
            "failures": dict(rewards.failures),
            "unix_s": self._clock(),
        }
        self._log.append(_REWARDS, dump_json(record).encode())
        entry.rewards[rewards.oracle] = rewards
        self._drop_pruned()
        return True

    def boundaries(self, group_id: str) -> NDArray[np.float16]:
        """[G, K+1, C, H, W]. Raises CheckpointCorrupt if the record fails its checksum, KeyError if unknown."""
        _, payload = self._log.read(self._entries[group_id].location)
        head, latents = _split(payload)
        return np.frombuffer(latents, dtype=np.dtype("<f2")).reshape(head["shape"]).astype(np.float16)

    def position(self) -> dict[str, int]:
        """Where the log ends; a checkpoint keeps it."""
        end = self._log.end
        return {"segment": end.segment, "offset": end.offset}

    def require(self, position: Mapping[str, int]) -> None:
        """Raises CheckpointCorrupt if the log ends before a position that a checkpoint was given."""
        end = self._log.end
        if end < Location(position["segment"], position["offset"]):
            raise CheckpointCorrupt(
                "the trajectory store ends before the checkpoint's position in it",
                f"segment {end.segment} at byte {end.offset}, expected {position['segment']} at {position['offset']}",
                "restore the store folder that belongs to the checkpoint, or remove both to begin anew",
            )

    def sync(self) -> None:
        """Puts all on the disk itself; asked for before a checkpoint is made."""
        self._log.sync()

    def close(self) -> None:
        self._log.close()

    def _index(self, location: Location, kind: int, payload: bytes) -> None:
        if kind == _TRAJECTORY:
            head, _ = _split(payload)
            head.pop("shape")
            header = GroupHeader(**{**head, "sigmas": tuple(head["sigmas"])})
            self._entries[header.group_id] = _Entry(location, header)
        elif kind == _REWARDS:
            record = load_json(payload)
            entry = self._entries.get(record.pop("group_id"))
            if entry is not None:
                record["boundary_indices"] = tuple(record["boundary_indices"])
                record["rewards"] = tuple(tuple(row) for row in record["rewards"])
                entry.rewards[record["oracle"]] = OracleRewards(**record)

    def _drop_pruned(self) -> None:
        if self._log.pruned:
            gone = set(self._log.pruned)
            self._log.pruned.clear()
            self._entries = {key: entry for key, entry in self._entries.items() if entry.location.segment not in gone}


def _split(payload: bytes) -> tuple[dict[str, Any], memoryview]:
    (length,) = _LENGTH.unpack_from(payload)
    head: dict[str, Any] = load_json(payload[_LENGTH.size : _LENGTH.size + length])
    return head, memoryview(payload)[_LENGTH.size + length :]
