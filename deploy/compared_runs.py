"""Two runs held side by side: what their recipes differ in, and what came of it.

Reads what runs leave behind (`recipe.yaml`, `metrics.jsonl`, `heldout.json`, `summary.json`); what is not there yet is
left out, so that runs can be compared while they go on. Owns the figures; `deploy.comparison` shows them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.strict_json import load_json
from trainer.evaluate import Evaluation
from trainer.evaluation_files import read_evaluation, read_heldout
from trainer.iteration_record import OUTCOMES, add_counts
from trainer.paired import Interval, PairedDifference, overall_interval, paired_difference
from trainer.report import read_metrics

__all__ = ["Heldout", "Run", "figures", "heldout_of", "outcomes", "read_run", "recipe_differences"]

_LAST = 4  # the last quarter of the iterations is what a figure of rewards is the mean of
NOTHING = "–"

Content = TypeVar("Content")


@dataclass(frozen=True)
class Run:
    """What a run has left behind."""

    name: str
    recipe: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    after: Evaluation | None
    """Its held-out evaluation; None before it is evaluated."""
    wall_s: float | None


@dataclass(frozen=True)
class Heldout:
    """Held-out accuracy of both, and of the second less the first."""

    intervals: tuple[Interval, Interval]
    evaluations: tuple[Evaluation, Evaluation]
    difference: PairedDifference | None
    """None if they were not asked for the same prompts with the same seeds."""


def read_run(folder: Path, *, name: str | None = None) -> Run:
    """Reads a run folder; the run is called as the folder is, or `name`.

    Raises: RecipeError if one of its files cannot be read.
    """
    heldout = _read(folder / "heldout.json", lambda _: read_heldout(folder))
    after = _read(folder / "heldout.json", lambda _: read_evaluation(heldout["after"]) if heldout else None)
    summary = _read(folder / "summary.json", lambda file: dict(load_json(file.read_bytes())) if file.exists() else {})
    recipe = _read(folder / "recipe.yaml", lambda file: dict(yaml.safe_load(file.read_text(encoding="utf-8"))))
    return Run(name or folder.resolve().name, recipe, read_metrics(folder), after, summary.get("wall_s"))


def _read(file: Path, reading: Callable[[Path], Content]) -> Content:
    try:
        return reading(file)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        what_to_do = "restore it, or evaluate the run anew"
        raise RecipeError(f"a file of the run cannot be read: {reason}", str(file), what_to_do) from error


def recipe_differences(one: Run, other: Run) -> list[tuple[str, str, str]]:
    """Every key that says something else, or stands in one of the recipes only: key, and what each says."""
    left, right = (dict(_flat(run.recipe)) for run in (one, other))
    keys = dict.fromkeys([*left, *right])
    told = ((key, left.get(key, NOTHING), right.get(key, NOTHING)) for key in keys)
    return [row for row in told if row[1] != row[2]]


def figures(one: Run, other: Run) -> list[tuple[str, str, str]]:
    """What was done, what it took and what it brought: name, and each run's value."""
    columns = [dict(_figures(run)) for run in (one, other)]
    names = dict.fromkeys([*columns[0], *columns[1]])
    return [(name, columns[0].get(name, NOTHING), columns[1].get(name, NOTHING)) for name in names]


def outcomes(one: Run, other: Run) -> list[tuple[str, ...]]:
    """What became of the pictures that each oracle was asked about: oracle, run, and a count an outcome."""
    rows = []
    for run in (one, other):
        counts = add_counts(line.get("outcomes", {}) for line in run.metrics)
        for oracle, by_name in sorted(counts.items()):
            rows.append((oracle, run.name, *(str(by_name.get(name, 0)) for name in OUTCOMES)))
    return sorted(rows, key=lambda row: row[0])


def heldout_of(one: Run, other: Run) -> Heldout | None:
    """Held-out accuracy where both runs have been evaluated; the difference is paired where it can be."""
    if one.after is None or other.after is None:
        return None
    try:
        difference = paired_difference(one.after, other.after)
    except ValueError:
        difference = None
    return Heldout((overall_interval(one.after), overall_interval(other.after)), (one.after, other.after), difference)


def _figures(run: Run) -> Iterable[tuple[str, str]]:
    lines = run.metrics
    if run.wall_s is not None:
        yield "wall time, s", f"{run.wall_s:.0f}"
    if not lines:
        return
    yield "iterations", str(lines[-1]["iteration"])
    yield "training time, s", f"{float(lines[-1].get('elapsed_s', 0)):.0f}"
    yield "samples scored", str(sum(int(line.get("samples", {}).get("scored", 0)) for line in lines))
    seconds = dict.fromkeys(name for line in lines for name in line.get("seconds", {}))
    for name in seconds:
        values = [float(line["seconds"][name]) for line in lines if name in line.get("seconds", {})]
        what = "whole" if name == "iteration" else name.replace("_", " ")
        yield f"seconds an iteration, {what} (median)", f"{statistics.median(values):.2f}"
    recent = lines[-max(1, len(lines) // _LAST) :]
    for name in sorted({oracle for line in recent for oracle in line.get("rewards", {})}):
        yield f"mean reward, {name} (last quarter)", _mean(line.get("rewards", {}).get(name) for line in recent)
    for key, what in (("strict_share", "strict share of training pictures"), ("spread", "spread inside groups")):
        yield f"{what} (last quarter)", _mean(line.get(key) for line in recent)
    yield "staleness, versions (mean)", _mean(line.get("staleness") for line in lines)


def _mean(values: Iterable[float | None]) -> str:
    there = [float(value) for value in values if value is not None]
    return f"{statistics.fmean(there):.3f}" if there else NOTHING


def _flat(content: Mapping[str, Any], at: str = "") -> Iterable[tuple[str, str]]:
    """Keys with dots, and values; entries of a list that have a name (oracles) stand under it."""
    for key, value in content.items():
        under = _by_name(value)
        if under:
            yield from _flat(under, f"{at}{key}.")
        else:
            yield f"{at}{key}", str(value)


def _by_name(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and all(isinstance(one, Mapping) and "name" in one for one in value):
        return {str(one["name"]): {key: of for key, of in one.items() if key != "name"} for one in value}
    return None
