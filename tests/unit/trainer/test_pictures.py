from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.unit.trainer.heldout_world import grey_evaluation
from trainer.evaluate import Evaluation
from trainer.pictures import comparison_rows, draw_grid, png_bytes, write_comparison


def test_rows_take_the_first_prompts_and_seeds_of_every_kind() -> None:
    before, after = grey_evaluation("before", 0.0), grey_evaluation("after", 0.3)
    rows = comparison_rows([before, after], rows_per_kind=2, pictures_per_row=3)
    assert [row.kind for row in rows] == ["many", "many", "one"]
    assert [len(column.pictures) for row in rows for column in row.columns] == [3] * 6
    first = [i for i, outcome in enumerate(before.outcomes) if outcome.prompt == rows[0].prompt][:3]
    for column, evaluation in zip(rows[0].columns, (before, after), strict=True):
        assert np.array_equal(column.pictures, evaluation.pictures[first])
        assert list(column.passed) == [evaluation.outcomes[i].passed for i in first]


def test_the_grid_holds_the_pictures_enlarged_and_unchanged() -> None:
    evaluation = grey_evaluation("student", 0.0)
    rows = comparison_rows([evaluation], rows_per_kind=1, pictures_per_row=2)
    pixels = np.asarray(draw_grid(rows, headings=["student"], scale=3))
    for row in rows:
        for picture in row.columns[0].pictures:
            block = np.repeat(np.repeat(picture, 3, axis=0), 3, axis=1)
            found = [
                (y, x)
                for y, x in np.argwhere((pixels == block[0, 0]).all(axis=2))
                if pixels[y : y + 48, x : x + 48].shape == block.shape
                and np.array_equal(pixels[y : y + 48, x : x + 48], block)
            ]
            assert found


def test_marks_say_passed_and_failed_in_words_and_colour() -> None:
    evaluation = grey_evaluation("student", 0.1)
    picture = draw_grid(comparison_rows([evaluation], rows_per_kind=4, pictures_per_row=5), headings=["student"])
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert {(0x1A, 0x7F, 0x37), (0xB4, 0x23, 0x18)} <= colours


def test_a_png_is_written_and_opens(tmp_path) -> None:
    before, after = grey_evaluation("before", 0.0), grey_evaluation("after", 0.3)
    path = write_comparison(tmp_path / "pictures" / "grid.png", [before, after], title="the same seeds")
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 300
    assert Image.open(io.BytesIO(png_bytes(Image.new("RGB", (2, 2))))).size == (2, 2)


def test_what_cannot_stand_side_by_side_is_refused() -> None:
    evaluation = grey_evaluation("before", 0.0)
    from_file = Evaluation("file", 4, evaluation.outcomes, 1.0, 1.0)
    with pytest.raises(ValueError, match="has no pictures"):
        comparison_rows([evaluation, from_file])
    fewer = Evaluation("fewer", 4, evaluation.outcomes[:3], 1.0, 1.0, evaluation.pictures[:3])
    with pytest.raises(ValueError, match="same prompts and seeds"):
        comparison_rows([evaluation, fewer])
    with pytest.raises(ValueError, match="one column for each"):
        draw_grid(comparison_rows([evaluation]), headings=["before", "after"])
