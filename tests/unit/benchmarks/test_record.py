"""What benchmarks make of the values that they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.record import Figure, report


def test_a_figure_is_the_median_and_the_whole_spread() -> None:
    figure = Figure("a", "ms", [30.0, 1.0, 2.0])
    assert (figure.median, figure.spread) == (2.0, "1 – 30")
    assert Figure("a", "ms", [1.0, 2.0]).median == 1.5
    assert Figure("a", "ms", [3.0]).spread == "one run"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.00336, "0.00336"), (0.6131, "0.613"), (99.94, "99.9"), (626693.4, "626693"), (-4.56, "-4.56")],
)
def test_values_have_three_digits_and_no_exponents(value: float, shown: str) -> None:
    assert Figure("a", "ms", [value, value]).spread == f"{shown} – {shown}"


def test_the_json_file_holds_keys_values_and_what_they_hold_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "file.json"
    figures = [Figure("a / b", "ratio", [0.5, 0.7, 0.6], "aim: 0.8", {"pictures": 8})]
    report("name", figures, json_file=file, keys={"ratio": {"constant": 0.6}})
    written = json.loads(file.read_text())
    assert (written["benchmark"], written["ratio"]) == ("name", {"constant": 0.6})
    (row,) = written["figures"]
    assert row == {
        "what": "a / b",
        "unit": "ratio",
        "median": 0.6,
        "values": [0.5, 0.7, 0.6],
        "note": "aim: 0.8",
        "pictures": 8,
    }
    assert written["machine"]["cores"] >= 1
    said = capsys.readouterr().out
    assert "0.5 – 0.7" in said
    assert written["commit"] in said
