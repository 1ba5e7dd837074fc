"""Oracles that a run took on while it trained: the trainer's rulings, in the run folder.

Amendments are asked for elsewhere (`rewardmesh.wire.amendments`: the gateway, `rewardmesh amend`) and come with the
feedback. Between two iterations the trainer rules on each, once, and writes the ruling to `amendments.jsonl`, an
append-only file of one `Amendment` a line, before anybody acts on it. An oracle is asked about the rollouts that are
made from then on: rollout r is what iteration r + 1 learns from, so `from_iteration` says the same after any resume.

Does not know where an oracle is; that is the registry's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rewardmesh.wire.amendments import Amendment
from rewardmesh.wire.strict_json import load_json
from rewardmesh.wire.telemetry import get_logger
from trainer.recipe import Recipe

__all__ = ["AmendmentLog", "read_amendments", "show_amendments"]

FILE: Final = "amendments.jsonl"


def read_amendments(run_folder: Path) -> list[Amendment]:
    """All that were ruled on, in that order. A line that a crash tore is passed over: its ruling is made again."""
    path = run_folder / FILE
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(Amendment.model_validate(load_json(line)))
        except ValueError:
            continue
    return found


def show_amendments(run_folder: Path) -> list[dict[str, Any]]:
    """For people and status.json."""
    return [
        {
            "oracle": one.use.name,
            "weight": one.use.weight,
            "normalisation": one.use.normalisation,
            "on_missing": one.use.on_missing.then,
            "requested_by": one.requested_by,
            "from_iteration": one.from_iteration,
            "refused": one.refused,
        }
        for one in read_amendments(run_folder)
    ]


class AmendmentLog:
    """The rulings of one run, made and read on rank 0."""

    def __init__(self, run_folder: Path, recipe: Recipe) -> None:
        self._folder = run_folder
        self._recipe = recipe
        self._in_recipe = {oracle.name for oracle in recipe.feedback.oracles}
        self._log = get_logger("amendments")

    def held(self) -> list[Amendment]:
        """Those that the run has taken, in the order in which it took them."""
        return [one for one in read_amendments(self._folder) if one.from_iteration is not None]

    def rule(self, asked: Sequence[Amendment], *, from_iteration: int, knows: Callable[[str], bool]) -> list[Amendment]:
        """The rulings on what is asked, each on the disk when this returns; one that was made before is the same again.

        `from_iteration`: what learns from the next rollout. Raises what `knows` raises; what could not be ruled on then
        is asked again.
        """
        ruled = {one.amendment_id: one for one in read_amendments(self._folder)} if asked else {}
        taken = self._in_recipe | {one.use.name for one in ruled.values() if one.from_iteration is not None}
        for one in asked:
            if one.amendment_id in ruled:
                continue
            name = one.use.name
            if name in taken:
                ruling = one.model_copy(update={"refused": f"the run learns from {name} already"})
            elif not knows(name):
                refused = f"no oracle {name} is registered: register it, then ask again"
                ruling = one.model_copy(update={"refused": refused})
            elif (refusal := self._recipe.refusal(one.use)) is not None:
                ruling = one.model_copy(update={"refused": refusal})
            else:
                ruling = one.model_copy(update={"from_iteration": from_iteration})
                taken.add(name)
            _append(self._folder, ruling)
            self._log.info(
                "an amendment is ruled on", oracle=name, from_iteration=ruling.from_iteration, refused=ruling.refused
            )
            ruled[one.amendment_id] = ruling
        return [ruled[one.amendment_id] for one in asked]


def _append(run_folder: Path, amendment: Amendment) -> None:
    """One write of one whole line, on the disk when it returns; a line that a crash tore is ended first."""
    line = (amendment.to_json() + "\n").encode()
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
