"""Oracles that are added to a run while it trains: asked for by whoever sees the run folder, decided by the trainer.

`amendments.jsonl` in the run folder is append-only, one `Amendment` a line, so that nobody can overwrite what another
wrote. Whoever asks appends one; between two iterations the trainer appends it again with its ruling, and the last line
of an id counts. An oracle is asked about the rollouts that are made from then on: rollout r is what iteration r + 1
learns from, so `from_iteration` says the same after any resume.

Does not know where an oracle is; that is the registry's.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.strict_json import dump_json, load_json
from rewardmesh.wire.telemetry import get_logger
from trainer.recipe import Recipe, parse_recipe
from trainer.recipe_sections import OracleUse

__all__ = ["Amendment", "AmendmentLog", "read_amendments", "request_amendment", "show_amendments"]

FILE: Final = "amendments.jsonl"


class Amendment(BaseModel):
    """One oracle, added to a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amendment_id: str = Field(min_length=1, max_length=64)
    use: OracleUse
    """Which oracle, and how the run uses it."""
    requested_by: str = Field(default="", max_length=200)
    requested_unix_s: float
    from_iteration: int | None = Field(default=None, ge=1)
    """The first iteration that learns with it; None until the trainer has decided."""
    refused: str = ""
    """Why the trainer did not take it."""

    @property
    def is_pending(self) -> bool:
        return self.from_iteration is None and not self.refused


def request_amendment(run_folder: Path, use: OracleUse, *, requested_by: str = "") -> Amendment:
    """Asks the run to learn from one more oracle; the trainer decides before its next rollout.

    Idempotent: the same use, asked for again while the first stands, is answered with that one. Waits for nothing; the
    ruling is found with `read_amendments`, and in status.json. What is asked of a run that has ended is decided if it
    goes on.
    Raises: RecipeError if there is no run in the folder, or it learns from an oracle of this name in another way.
    """
    recipe = _recipe_of(run_folder)
    for present in read_amendments(run_folder)[0]:
        if present.use.name == use.name and not present.refused:
            if present.use == use:
                return present
            raise RecipeError("another amendment adds this oracle", use.name, "one oracle is added once")
    if use.name in {oracle.name for oracle in recipe.feedback.oracles}:
        raise RecipeError("the run learns from this oracle already", use.name, "its recipe names it")
    amendment = Amendment(
        amendment_id=uuid.uuid4().hex, use=use, requested_by=requested_by, requested_unix_s=time.time()
    )
    _append(run_folder, amendment)
    return amendment


def read_amendments(run_folder: Path) -> tuple[list[Amendment], dict[int, str]]:
    """All amendments as they now stand, in the order they were asked for; and by line number what is none, and why."""
    path = run_folder / FILE
    found: dict[str, Amendment] = {}
    faults: dict[int, str] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a line without its end is still being written
    for number, line in enumerate(whole.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            amendment = Amendment.model_validate(load_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            faults[number] = f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}"
        except ValueError:
            faults[number] = "the line is not JSON"
        else:
            found[amendment.amendment_id] = amendment
    return list(found.values()), faults


def show_amendments(run_folder: Path) -> list[dict[str, Any]]:
    """For people and status.json: one entry an amendment, and one for each line that is none."""
    amendments, faults = read_amendments(run_folder)
    shown: list[dict[str, Any]] = [
        {
            "oracle": one.use.name,
            "weight": one.use.weight,
            "normalisation": one.use.normalisation,
            "on_missing": one.use.on_missing.then,
            "requested_by": one.requested_by,
            "from_iteration": one.from_iteration,
            "refused": one.refused,
        }
        for one in amendments
    ]
    for number, fault in faults.items():
        shown.append({"oracle": f"line {number}", "from_iteration": None, "refused": fault})
    return shown


class AmendmentLog:
    """The trainer's side, on rank 0."""

    def __init__(self, run_folder: Path, recipe: Recipe) -> None:
        self._folder = run_folder
        self._in_recipe = {oracle.name for oracle in recipe.feedback.oracles}
        self._faults_said: set[int] = set()
        self._log = get_logger("amendments")

    def held(self) -> list[Amendment]:
        """Those that the run has taken, in the order in which it takes them."""
        taken = [one for one in read_amendments(self._folder)[0] if one.from_iteration is not None]
        return sorted(taken, key=lambda one: (one.from_iteration or 0, one.requested_unix_s, one.amendment_id))

    def decide(self, *, from_iteration: int, knows: Callable[[str], bool]) -> list[Amendment]:
        """Rules on what was asked for, and returns all that are held.

        `from_iteration`: what learns from the next rollout. A ruling is on the disk before anybody acts on it, and is
        made once. Raises what `knows` raises; what could not be ruled on then stays pending.
        """
        amendments, faults = read_amendments(self._folder)
        for number in sorted(faults.keys() - self._faults_said):
            self._log.warning("a line of amendments.jsonl is refused", line=number, reason=faults[number])
        self._faults_said |= faults.keys()
        taken = self._in_recipe | {one.use.name for one in amendments if one.from_iteration is not None}
        for one in amendments:
            if not one.is_pending:
                continue
            name = one.use.name
            if name in taken:
                reason = f"the run learns from {name} already"
            elif not knows(name):
                reason = f"no oracle {name} is registered: register it, then ask again"
            else:
                reason = ""
            if reason:
                self._log.warning("an amendment is refused", oracle=name, reason=reason)
                _append(self._folder, one.model_copy(update={"refused": reason}))
                continue
            taken.add(name)
            self._log.info("an amendment is taken", oracle=name, from_iteration=from_iteration)
            _append(self._folder, one.model_copy(update={"from_iteration": from_iteration}))
        return self.held()


def _recipe_of(run_folder: Path) -> Recipe:
    path = run_folder / "recipe.yaml"
    try:
        return parse_recipe(path.read_text(encoding="utf-8"), which=str(path))
    except OSError as error:
        raise RecipeError("there is no run in this folder", str(run_folder), "name the folder of a run") from error


def _append(run_folder: Path, amendment: Amendment) -> None:
    """One write of one whole line, on the disk when it returns; a line that a crash tore is ended first."""
    line = (dump_json(amendment.model_dump(mode="json")) + "\n").encode()
    handle = os.open(run_folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(handle, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written to {run_folder / FILE}")
        os.fsync(handle)
    finally:
        os.close(handle)
