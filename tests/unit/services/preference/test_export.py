"""The export: read back by pyarrow alone, with the columns of Pick-a-Pic's own card."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from services.preference import export as module
from services.preference.export import export
from services.preference.memory_queue import MemoryQueue
from services.preference.model import QueueSettings
from tests.unit.services.preference.asking import NOW, accept, choose, picture, rater

#: `dataset_info.features` of huggingface.co/datasets/yuvalkirstain/pickapic_v1, but for pandas' own index column.
CARD = """
are_different bool, best_image_uid string, caption string, created_at timestamp[ns], has_label bool,
image_0_uid string, image_0_url string, image_1_uid string, image_1_url string, jpg_0 binary, jpg_1 binary,
label_0 float64, label_1 float64, model_0 string, model_1 string, ranking_id int64, user_id int64,
num_example_per_prompt int64
"""


async def settled_queue() -> MemoryQueue:
    """Two groups of one prompt, settled; one more that is not."""
    settings = QueueSettings(raters_per_comparison=2, gold_share=0, repeat_share=0)
    queue = MemoryQueue(settings, clock=lambda: NOW + 0.5)
    first, second = await accept(queue, 3), await accept(queue, 2, group_id="g2")
    ada, bo = await rater(queue, "ada"), await rater(queue, "bo")
    for choice in (None, None, "tie", "skip"):
        await choose(queue, ada, choice)
        await choose(queue, bo, choice)
    await accept(queue, 2, group_id="g3")
    await choose(queue, ada)
    for group in await queue.close_due():
        await queue.settled(group.key)
    assert [group.key for group in await queue.settled_groups()] == [first.key, second.key]
    return queue


async def whole(parts: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in parts])


async def test_parquet_has_the_columns_of_the_card_and_one_row_a_choice() -> None:
    table = pq.read_table(io.BytesIO(await whole(export(await settled_queue(), "parquet"))))
    arrow = {"float64": pa.float64(), "timestamp[ns]": pa.timestamp("ns"), "bool": pa.bool_()}
    wanted = [field.split() for field in CARD.replace("\n", " ").split(",")]
    assert [(one.name, one.type) for one in table.schema][: len(wanted)] == [
        (name, arrow.get(kind) or getattr(pa, kind)()) for name, kind in wanted
    ]
    rows = table.to_pylist()
    assert len(rows) == 8
    assert {row["num_example_per_prompt"] for row in rows} == {8}  # both groups are of one prompt
    assert [row["ranking_id"] for row in rows] == list(range(1, 9))
    assert {row["user_id"] for row in rows} == {1, 2}
    assert {row["caption"] for row in rows} == {"two red circles"}
    assert {row["model_0"] for row in rows} == {"run@7"}


async def test_a_row_says_what_was_seen_and_chosen() -> None:
    rows = pq.read_table(io.BytesIO(await whole(export(await settled_queue(), "parquet")))).to_pylist()
    for row in rows:
        shades = [np.asarray(Image.open(io.BytesIO(row[f"jpg_{side}"])))[0, 0, 0] for side in (0, 1)]
        assert row["are_different"]
        assert row["has_label"] == (row["choice"] != "skip")
        if row["choice"] in {"left", "right"}:  # the brighter one was chosen
            brighter = int(np.argmax(shades))
            assert (row[f"label_{brighter}"], row[f"label_{1 - brighter}"]) == (1.0, 0.0)
            assert row["best_image_uid"] == row[f"image_{brighter}_uid"]
            assert row["choice"] == ("left", "right")[brighter]
        else:
            assert (row["label_0"], row["label_1"], row["best_image_uid"]) == (0.5, 0.5, "")
    assert {row["choice"] for row in rows} >= {"tie", "skip"}


async def test_json_lines_hold_the_same(tmp_path: object) -> None:
    queue = await settled_queue()
    lines = (await whole(export(queue, "jsonl"))).splitlines()
    rows = pq.read_table(io.BytesIO(await whole(export(queue, "parquet")))).to_pylist()
    for line, row in zip(lines, rows, strict=True):
        said = json.loads(line)
        assert said.pop("created_at") == row.pop("created_at").isoformat()
        for side in ("jpg_0", "jpg_1"):
            assert base64.b64decode(said.pop(side)) == row.pop(side)
        assert said == row


async def test_without_pictures_the_columns_are_those_of_no_images() -> None:
    queue = await settled_queue()
    table = pq.read_table(io.BytesIO(await whole(export(queue, "parquet", pictures=False))))
    assert table.num_rows == 8
    assert "jpg_0" not in table.column_names
    assert "jpg_0" not in json.loads((await whole(export(queue, "jsonl", pictures=False))).splitlines()[0])


async def test_it_is_written_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts come while rows are read, each row group on its own; together they are one file."""
    monkeypatch.setattr(module, "_FLUSH_ROWS", 3)
    parts = [part async for part in export(await settled_queue(), "parquet")]
    assert len(parts) == 3
    assert pq.ParquetFile(io.BytesIO(b"".join(parts))).num_row_groups == 3


async def test_pictures_of_one_row_group_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_BYTES", 1)
    data = await whole(export(await settled_queue(), "parquet"))
    assert pq.ParquetFile(io.BytesIO(data)).num_row_groups >= 8


async def test_nothing_settled_is_an_empty_file_with_the_columns() -> None:
    queue = MemoryQueue(QueueSettings())
    assert pq.read_table(io.BytesIO(await whole(export(queue, "parquet")))).num_rows == 0
    assert await whole(export(queue, "jsonl")) == b""


async def test_single_pictures_have_no_other_side() -> None:
    queue = MemoryQueue(QueueSettings(mode="singles", gold_share=0, repeat_share=0), clock=lambda: NOW)
    await accept(queue, 1, [(0, None)])
    await choose(queue, await rater(queue, "ada"), "like")
    for group in await queue.close_due():
        await queue.settled(group.key)
    (row,) = pq.read_table(io.BytesIO(await whole(export(queue, "parquet")))).to_pylist()
    assert (row["choice"], row["label_0"], row["has_label"], row["are_different"]) == ("like", 1.0, False, False)
    assert (row["image_1_uid"], row["jpg_1"], row["model_1"]) == (None, None, None)
    assert np.asarray(Image.open(io.BytesIO(row["jpg_0"]))).tolist() == picture(0).tolist()
