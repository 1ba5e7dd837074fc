"""An append-only log of checksummed records in segment files, bounded in bytes and in age.

    segment-00000007.log =  header  record  record  …        header = magic, number of the segment
                                     └ magic, kind, length, crc32 of the payload, crc32 of these, payload

A record is written by one call, so a process killed at any moment leaves whole records and at most one torn one at the
end of the last segment; opening cuts that off (`recovered_bytes` says how much). Flushing to the disk itself
(`sync`) is asked for at checkpoints only: what a power loss may take is what came after the last one.
Knows nothing of what the payloads mean.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rewardmesh.wire.errors import CheckpointCorrupt

__all__ = ["Location", "SegmentLog"]

_FILE_HEADER = struct.Struct("<8sQ")
_FILE_MAGIC = b"RMSEGM01"
_RECORD = struct.Struct("<4sIQII")  # magic, kind, payload bytes, crc32 of the payload, crc32 of the fields before
_RECORD_MAGIC = b"RMR1"


@dataclass(frozen=True, order=True)
class Location:
    """Where a record begins (or the log ends). Ordered as written."""

    segment: int
    offset: int


class SegmentLog:
    """One writer's log. Not shared between processes."""

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        max_bytes: int,
        max_age_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens or creates the log; cuts a torn tail off. Raises CheckpointCorrupt for a segment of another format."""
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._readers: dict[int, BinaryIO] = {}
        self.recovered_bytes = 0
        self.pruned: list[int] = []
        self.keep_from: int | None = None  # this segment and later ones stay; None: none must
        folder.mkdir(parents=True, exist_ok=True)
        numbers = self.segments()
        self._current = numbers[-1] if numbers else 1
        self._writer = self._open_writer(self._current)

    def segments(self) -> list[int]:
        """Numbers of the segments on disk, oldest first."""
        return sorted(int(path.stem.removeprefix("segment-")) for path in self._folder.glob("segment-*.log"))

    @property
    def end(self) -> Location:
        """Where the next record will begin."""
        return Location(self._current, self._writer.tell())

    @property
    def size_bytes(self) -> int:
        return sum(self._path(number).stat().st_size for number in self.segments())

    def append(self, kind: int, payload: bytes) -> Location:
        """Writes one record and returns where it begins. It has left this process when the call returns."""
        if self._writer.tell() > _FILE_HEADER.size and self._writer.tell() + len(payload) > self._segment_bytes:
            self._roll()
        location = self.end
        fields = struct.pack("<4sIQI", _RECORD_MAGIC, kind, len(payload), zlib.crc32(payload))
        _write_all(self._writer, fields + struct.pack("<I", zlib.crc32(fields)) + payload)
        return location

    def read(self, location: Location) -> tuple[int, bytes]:
        """Kind and payload of the record there. Raises CheckpointCorrupt if it is not whole, KeyError if pruned."""
        reader = self._reader(location.segment)
        reader.seek(location.offset)
        header = _parse(reader.read(_RECORD.size))
        payload = reader.read(header[1]) if header else b""
        if header is None or len(payload) != header[1] or zlib.crc32(payload) != header[2]:
            raise CheckpointCorrupt(
                "a stored record does not match its checksum",
                f"{self._path(location.segment)} at byte {location.offset}",
                "restore the file, or remove the store folder to begin with an empty one",
            )
        return header[0], payload

    def scan(self) -> Iterator[tuple[Location, int, bytes]]:
        """All whole records, oldest first. A damaged one is passed over, and so is what follows a damaged header."""
        for number in self.segments():
            for offset, kind, payload in self._records(number):
                yield Location(number, offset), kind, payload

    def prune(self, *, reserve_bytes: int = 0) -> None:
        """Removes the oldest segments until the bounds hold, and adds their numbers to `pruned`.

        The one being written stays whatever the bounds, and those from `keep_from` on. `reserve_bytes`: room to leave
        below the bound in bytes.
        """
        numbers = self.segments()
        sizes = {number: self._path(number).stat().st_size for number in numbers}
        for number in numbers[:-1]:
            if self.keep_from is not None and number >= self.keep_from:
                break
            age_s = self._clock() - self._path(number).stat().st_mtime
            if sum(sizes.values()) + reserve_bytes <= self._max_bytes and age_s <= self._max_age_s:
                break
            reader = self._readers.pop(number, None)
            if reader is not None:
                reader.close()
            self._path(number).unlink()
            del sizes[number]
            self.pruned.append(number)

    def sync(self) -> None:
        """Asks the system to put everything on the disk."""
        os.fsync(self._writer.fileno())

    def close(self) -> None:
        for handle in (self._writer, *self._readers.values()):
            handle.close()
        self._readers.clear()

    def _path(self, number: int) -> Path:
        return self._folder / f"segment-{number:08d}.log"

    def _reader(self, number: int) -> BinaryIO:
        if number not in self._readers:
            try:
                self._readers[number] = self._path(number).open("rb")
            except FileNotFoundError:
                raise KeyError(f"segment {number} was pruned") from None
        return self._readers[number]

    def _roll(self) -> None:
        self.sync()
        self._writer.close()
        self._current += 1
        self._writer = self._open_writer(self._current)
        self.prune(reserve_bytes=self._segment_bytes)

    def _open_writer(self, number: int) -> BinaryIO:
        path = self._path(number)
        whole = self._whole_bytes(number) if path.exists() else 0
        writer = path.open("r+b" if path.exists() else "w+b", buffering=0)
        if whole == 0:
            self.recovered_bytes += path.stat().st_size
            writer.truncate(0)
            _write_all(writer, _FILE_HEADER.pack(_FILE_MAGIC, number))
        else:
            self.recovered_bytes += path.stat().st_size - whole
            writer.truncate(whole)
        writer.seek(0, os.SEEK_END)
        return writer  # unbuffered: FileIO, which has all of BinaryIO that is used

    def _whole_bytes(self, number: int) -> int:
        """Bytes of the segment up to the end of its last whole record."""
        whole = _FILE_HEADER.size if self._path(number).stat().st_size >= _FILE_HEADER.size else 0
        for offset, _, payload in self._records(number):
            whole = offset + _RECORD.size + len(payload)
        return whole

    def _records(self, number: int) -> Iterator[tuple[int, int, bytes]]:
        """(offset, kind, payload) of each record up to the first that is not whole."""
        with self._path(number).open("rb") as file:
            head = file.read(_FILE_HEADER.size)
            if len(head) < _FILE_HEADER.size:
                return
            if _FILE_HEADER.unpack(head) != (_FILE_MAGIC, number):
                raise CheckpointCorrupt(
                    "not a segment of a trajectory store, or one of another version",
                    str(self._path(number)),
                    "remove the store folder to begin with an empty one",
                )
            while True:
                offset = file.tell()
                header = _parse(file.read(_RECORD.size))
                if header is None:
                    return
                payload = file.read(header[1])
                if len(payload) != header[1]:
                    return
                if zlib.crc32(payload) != header[2]:
                    continue  # damaged, not torn: its length is known, and what follows may be whole
                yield offset, header[0], payload


def _parse(raw: bytes) -> tuple[int, int, int] | None:
    """(kind, payload bytes, crc32 of the payload), or None if this is no whole record header."""
    if len(raw) < _RECORD.size:
        return None
    magic, kind, length, payload_crc, header_crc = _RECORD.unpack(raw)
    if magic != _RECORD_MAGIC or zlib.crc32(raw[: _RECORD.size - 4]) != header_crc:
        return None
    return kind, length, payload_crc


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
