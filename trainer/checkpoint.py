"""Checkpoints: folders that are there whole or not at all, checked before they are believed.

    checkpoints/
        latest                      the name of the newest one
        iteration-00000010/
            manifest.json           format, iteration, sha256 of every other file
            recipe.yaml             the resolved recipe
            loop.json               the loop's own state: version, rollouts in flight, replay bank, store positions
            networks/NAME.safetensors
            state.pt                optimisers, random states and the rest: tensors and plain values, no code

A folder is written under another name, flushed, and renamed. Reading tries the newest first; one that fails its
checksums is reported and passed over, and the one before is taken.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewardmesh.wire.errors import CheckpointCorrupt
from rewardmesh.wire.strict_json import dump_json, load_json
from rewardmesh.wire.telemetry import get_logger

__all__ = ["Checkpoint", "CheckpointFolder"]

FORMAT: Final = 2
_NAME = re.compile(r"iteration-(\d{8,})")
_WHAT_TO_DO = "restore the folder from a copy, or remove it to begin from the one before"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What learning goes on from."""

    iteration: int
    """Iterations done."""
    recipe_yaml: str
    loop: Mapping[str, Any]
    """Strict JSON."""
    networks: Mapping[str, Mapping[str, Tensor]]
    """By name: parameters and buffers."""
    state: Mapping[str, Any]
    """Nested dictionaries and lists of tensors, numbers, strings and None."""


class CheckpointFolder:
    """All checkpoints of a run. One writer."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """`keep`: the newest so many stay."""
        self._folder = folder
        self._keep = keep
        self._log = get_logger("checkpoint")

    def write(self, checkpoint: Checkpoint) -> Path:
        """Writes the checkpoint and makes it the latest; returns its folder."""
        final = self._folder / f"iteration-{checkpoint.iteration:08d}"
        partial = self._folder / f"{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "networks").mkdir(parents=True)
        (partial / "recipe.yaml").write_text(checkpoint.recipe_yaml, encoding="utf-8")
        (partial / "loop.json").write_text(dump_json(dict(checkpoint.loop)), encoding="utf-8")
        for name, tensors in checkpoint.networks.items():
            # safetensors refuses tensors that share memory, and keeps only what is contiguous: so, plain copies.
            plain = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
            save_file(plain, partial / "networks" / f"{name}.safetensors")
        _require_plain(checkpoint.state, "state")
        torch.save(dict(checkpoint.state), partial / "state.pt")
        manifest = {"format": FORMAT, "iteration": checkpoint.iteration, "sha256": _checksums(partial)}
        (partial / "manifest.json").write_text(dump_json(manifest), encoding="utf-8")
        _flush(partial)
        if final.exists():  # left by a run that was resumed from an earlier one
            shutil.rmtree(final)
        partial.rename(final)
        _write_atomically(self._folder / "latest", final.name)
        self._remove_old()
        return final

    def read_latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, None if there never was one. Raises CheckpointCorrupt if none is."""
        faults = []
        for folder in self._newest_first():
            try:
                return read_checkpoint(folder)
            except CheckpointCorrupt as error:
                faults.append(error)
                self._log.warning("passing over a damaged checkpoint", error=str(error))
        if faults:
            raise faults[0]
        return None

    def _newest_first(self) -> list[Path]:
        found = [path for path in self._folder.glob("iteration-*") if _NAME.fullmatch(path.name) and path.is_dir()]
        found.sort(key=lambda path: int(path.name.removeprefix("iteration-")), reverse=True)
        latest = self._folder / "latest"
        if latest.is_file():
            name = latest.read_text(encoding="utf-8").strip()
            found.sort(key=lambda path: path.name != name)  # stable: the named one first, the others as they were
        return found

    def _remove_old(self) -> None:
        for folder in self._newest_first()[self._keep :]:
            shutil.rmtree(folder, ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """One checkpoint, its checksums checked first. Raises CheckpointCorrupt."""
    try:
        manifest = load_json((folder / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            raise CheckpointCorrupt("a checkpoint of another version", str(folder), "use the version that wrote it")
        actual = _checksums(folder)
        for name, expected in manifest["sha256"].items():
            if actual.get(name) != expected:
                fault = "is missing" if name not in actual else "does not match its checksum"
                raise CheckpointCorrupt(f"a file of a checkpoint {fault}", str(folder / name), _WHAT_TO_DO)
        return Checkpoint(
            iteration=manifest["iteration"],
            recipe_yaml=(folder / "recipe.yaml").read_text(encoding="utf-8"),
            loop=load_json((folder / "loop.json").read_bytes()),
            networks={path.stem: load_file(path) for path in sorted((folder / "networks").glob("*.safetensors"))},
            state=torch.load(folder / "state.pt", map_location="cpu", weights_only=True),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointCorrupt("a checkpoint cannot be read", f"{folder}: {error}", _WHAT_TO_DO) from error


def _require_plain(value: Any, at: str) -> None:
    """Raises TypeError for anything that loading without running code would refuse."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _require_plain(key, f"{at} key")
            _require_plain(inner, f"{at}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _require_plain(inner, f"{at}.{index}")
    elif not isinstance(value, (Tensor, int, float, str, bool, type(None))):
        raise TypeError(f"{at} is a {type(value).__name__}: a checkpoint holds tensors and plain values only")


def _checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file but the manifest, by its path in the folder."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            with path.open("rb") as file:
                sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
