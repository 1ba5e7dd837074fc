"""What people said of settled groups, one row a choice, with the column names of Pick-a-Pic.

    async for part in export(queue, "parquet"):
        file.write(part)

Columns and their types are those of the data set's own card (`yuvalkirstain/pickapic_v1`, and v2, which is the same);
without pictures they are those of its `…_no_images`. After them come ours, which those readers leave alone. What a
column holds here is in docs/preference.md. Memory is bounded by one group and one row group, however long the export.

Owns the rows and both forms; where they go is the caller's.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rewardmesh.wire.strict_json import dump_json
from services.preference.model import Answer, Group
from services.preference.queue import PreferenceQueue

__all__ = ["SCHEMA", "Form", "export", "schema_of"]

Form = Literal["jsonl", "parquet"]

_PICK_A_PIC: Final = (
    ("are_different", pa.bool_()),
    ("best_image_uid", pa.string()),
    ("caption", pa.string()),
    ("created_at", pa.timestamp("ns")),
    ("has_label", pa.bool_()),
    ("image_0_uid", pa.string()),
    ("image_0_url", pa.string()),
    ("image_1_uid", pa.string()),
    ("image_1_url", pa.string()),
    ("jpg_0", pa.binary()),
    ("jpg_1", pa.binary()),
    ("label_0", pa.float64()),
    ("label_1", pa.float64()),
    ("model_0", pa.string()),
    ("model_1", pa.string()),
    ("ranking_id", pa.int64()),
    ("user_id", pa.int64()),
    ("num_example_per_prompt", pa.int64()),
)
_OURS: Final = (
    ("choice", pa.string()),
    ("kind", pa.string()),
    ("counts", pa.bool_()),
    ("look_s", pa.float64()),
    ("run_id", pa.string()),
    ("group_id", pa.string()),
    ("sample_0_id", pa.string()),
    ("sample_1_id", pa.string()),
)
SCHEMA: Final = pa.schema([*_PICK_A_PIC, *_OURS])
_PICTURES: Final = ("jpg_0", "jpg_1")
_LABELS: Final = {"left": (1.0, 0.0), "right": (0.0, 1.0), "like": (1.0, 0.0), "dislike": (0.0, 1.0)}
_FLUSH_ROWS: Final = 512
_FLUSH_BYTES: Final = 8 * 1024 * 1024

Row = dict[str, Any]


def schema_of(*, pictures: bool) -> pa.Schema:
    """The columns of an export, with or without the pictures' bytes."""
    return SCHEMA if pictures else pa.schema([field for field in SCHEMA if field.name not in _PICTURES])


async def export(queue: PreferenceQueue, form: Form, *, pictures: bool = True) -> AsyncIterator[bytes]:
    """A whole file in parts, of the groups that are settled when it begins. Pictures are there while they are kept.

    Raises: BufferUnavailable, in the middle too: what was written so far is then no whole file.
    """
    rows = _rows(queue, pictures=pictures)
    async for part in _lines(rows) if form == "jsonl" else _parquet(rows, schema_of(pictures=pictures)):
        yield part


async def _lines(rows: AsyncIterator[Row]) -> AsyncIterator[bytes]:
    async for row in rows:
        yield dump_json({name: _in_json(value) for name, value in row.items()}).encode() + b"\n"


def _in_json(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, datetime) else value


async def _parquet(rows: AsyncIterator[Row], schema: pa.Schema) -> AsyncIterator[bytes]:
    sink = _Sink()
    with pq.ParquetWriter(sink, schema) as writer:
        waiting: list[Row] = []
        num_bytes = 0
        async for row in rows:
            waiting.append(row)
            num_bytes += sum(len(row.get(name) or b"") for name in _PICTURES)
            if len(waiting) >= _FLUSH_ROWS or num_bytes >= _FLUSH_BYTES:
                writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
                waiting, num_bytes = [], 0
                yield sink.take()
        writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
    yield sink.take()


async def _rows(queue: PreferenceQueue, *, pictures: bool) -> AsyncIterator[Row]:
    """One row a choice, group by group, oldest first."""
    per_prompt: Counter[str] = Counter()
    async for group in _settled(queue):
        per_prompt[group.prompt] += len(await queue.answers(group.key))
    # The same numbers in every export, for nobody is forgotten; and they tell nothing of who it is.
    raters = {rater.rater_id: number for number, rater in enumerate(await queue.raters(), start=1)}
    num_rows = 0
    async for group in _settled(queue):
        if group.prompt not in per_prompt:
            return  # settled since the export began, and so is all that follows
        kept: dict[str, bytes | None] = {}
        for answer in await queue.answers(group.key):
            row = _row(group, answer)
            num_rows += 1
            row |= {
                "ranking_id": num_rows,
                "user_id": raters.get(answer.rater_id, 0),
                "num_example_per_prompt": per_prompt[group.prompt],
            }
            if pictures:
                for uid in filter(None, (row["image_0_uid"], row["image_1_uid"])):
                    if uid not in kept:
                        kept[uid] = await queue.picture(uid)
                row |= {f"jpg_{side}": kept.get(row[f"image_{side}_uid"]) for side in (0, 1)}
            yield row


async def _settled(queue: PreferenceQueue) -> AsyncIterator[Group]:
    after = ""
    while groups := await queue.settled_groups(after=after):
        for group in groups:
            yield group
        after = groups[-1].key


def _row(group: Group, answer: Answer) -> Row:
    """What one choice says by itself: picture 0 is the one that was shown on the left."""
    shown = (answer.first,) if answer.second is None else (answer.first, answer.second)
    sides = [group.pictures[index] for index in (reversed(shown) if answer.swapped else shown)]
    labels = _LABELS.get(answer.choice, (0.5, 0.5))
    best = sides[labels.index(1.0)].digest if answer.choice in {"left", "right"} else ""
    row: Row = {
        "are_different": len({side.digest for side in sides}) > 1,
        "best_image_uid": best,
        "caption": group.prompt,
        "created_at": datetime.fromtimestamp(answer.at, UTC).replace(tzinfo=None),
        "has_label": answer.second is not None and answer.choice != "skip",
        "label_0": labels[0],
        "label_1": labels[1],
        "choice": answer.choice,
        "kind": answer.kind,
        "counts": answer.counts,
        "look_s": answer.look_s,
        "run_id": group.run_id,
        "group_id": group.group_id,
    }
    for side in (0, 1):
        one = sides[side] if side < len(sides) else None
        row |= {
            f"image_{side}_uid": one and one.digest,
            f"image_{side}_url": one and "",
            f"model_{side}": one and f"{group.run_id}@{one.sample.policy_version}",
            f"sample_{side}_id": one and one.sample.sample_id,
        }
    return row


class _Sink(io.RawIOBase):
    """A file that is written from front to back, and taken away in parts."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._at += len(part)
        return len(part)

    def take(self) -> bytes:
        """What was written since it was last taken."""
        taken, self._parts = b"".join(self._parts), []
        return taken
