"""The folder of a run: where everything that it leaves behind lies, and how two of its files are written.

recipe.yaml        the resolved recipe              status.json    what it does right now, replaced atomically
metrics.jsonl      one line an iteration            stop           made by whoever wants it to end
amendments.jsonl, checkpoints/, store/rank-N/, pictures/ and the report are others' business
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.strict_json import dump_json, load_json
from trainer.recipe import Recipe, dump_recipe, parse_recipe

__all__ = ["RunFolder"]

#: What may differ when a run goes on: how long it lasts and what is written about it, not what it learns from.
_MAY_CHANGE: Final = (
    ("description",),
    ("evaluation",),
    ("run", "iterations"),
    ("run", "time_limit_s"),
    ("run", "checkpoint_every"),
    ("run", "checkpoints_kept"),
)


class RunFolder:
    """Paths of a run, and its small files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def run_id(self) -> str:
        """The run's name wherever names are needed; the folder's own."""
        return self.path.resolve().name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def store(self, rank: int) -> Path:
        return self.path / "store" / f"rank-{rank}"

    def adopt(self, recipe: Recipe) -> None:
        """Writes the resolved recipe; one that is there already must say the same about what is learnt.

        Raises: RecipeError if the folder holds another experiment.
        """
        path = self.path / "recipe.yaml"
        if path.exists():
            present = parse_recipe(path.read_text(encoding="utf-8"), which=str(path))
            changed = _differences(_fixed(present), _fixed(recipe))
            if changed:
                raise RecipeError(
                    f"the run folder holds another experiment, different in {', '.join(changed)}",
                    str(self.path),
                    "use another run folder, or the recipe it was begun with",
                )
        _replace(path, dump_recipe(recipe))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(dump_json(dict(line)) + "\n")

    def rewind_metrics(self, iteration: int) -> None:
        """Drops lines after an iteration, and a torn last one: the run goes on from there."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                if load_json(line)["iteration"] <= iteration:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        _replace(self.metrics, "".join(f"{line}\n" for line in kept))

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replaces status.json; readers see the old one or the new one, whole."""
        _replace(self.path / "status.json", dump_json({**status, "updated_unix_s": time.time()}))

    def write_outcome(self, outcome: Mapping[str, Any]) -> None:
        _replace(self.path / "outcome.json", dump_json(dict(outcome)))

    def read_outcome(self) -> dict[str, Any]:
        outcome: dict[str, Any] = load_json((self.path / "outcome.json").read_bytes())
        return outcome

    def write_failure(self, failure: Mapping[str, Any] | None) -> None:
        """Leaves behind what ended training; None takes it back."""
        if failure is None:
            (self.path / "failure.json").unlink(missing_ok=True)
        else:
            _replace(self.path / "failure.json", dump_json(dict(failure)))

    def read_failure(self) -> dict[str, Any] | None:
        path = self.path / "failure.json"
        failure: dict[str, Any] | None = load_json(path.read_bytes()) if path.exists() else None
        return failure

    def stop_asked(self) -> bool:
        return (self.path / "stop").exists()

    def clear_stop(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _fixed(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, less what may change."""
    content = recipe.model_dump(mode="json")
    for *sections, key in _MAY_CHANGE:
        target = content
        for section in sections:
            target = target[section]
        del target[key]
    return content


def _differences(one: Any, other: Any, at: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        return [
            difference
            for key in keys
            for difference in _differences(one.get(key), other.get(key), f"{at}.{key}" if at else key)
        ]
    return [] if one == other else [at]
