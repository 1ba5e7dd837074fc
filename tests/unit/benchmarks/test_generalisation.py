"""`benchmarks.generalisation`: training and held-out prompts, each judged for itself, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import generalisation
from benchmarks.networks import Network
from trainer.evaluate import HeldoutPrompt, Pictures
from trainer.worlds.shapes.prompts import train_prompts


class Drawing:
    """Networks that draw nothing."""

    def find(self, name: str) -> Network:
        return Network(name, lambda prompts, seeds: np.zeros((len(prompts), 1, 1, 3), np.uint8), 4)


class Knowing:
    """Passes what training saw, and counting."""

    seen = frozenset(spec.key for spec in train_prompts())

    def judge(self, pictures: Pictures, prompts: Sequence[HeldoutPrompt]) -> tuple[list[bool], list[Mapping[str, Any]]]:
        return [one.key in self.seen or one.kind == "counting" for one in prompts], [{} for _ in pictures]


def test_each_set_is_judged_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generalisation, "Networks", Drawing)
    monkeypatch.setattr(generalisation, "OraclesInProcess", Knowing)
    file = tmp_path / "found.json"
    assert generalisation.main(["--networks", "one,two", "--per-kind", "30", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["networks"]
    assert set(found) == {"one", "two"}
    training, held_out = found["one"]["training"], found["one"]["held out"]
    assert training["strict"] == 1.0
    assert held_out["strict"] == pytest.approx(2 / 7)  # counting, and the prompts that stand in both sets
    assert (training["prompts"]["colors"], held_out["prompts"]["colors"]) == (27, 9)
    assert held_out["by_kind"] == {kind: float(kind in ("single_object", "counting")) for kind in held_out["by_kind"]}
    assert "colors (27 / 9 prompts)" in capsys.readouterr().out
