"""The oracles that this project brings, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from rewardmesh.kit.oracle import Oracle
from rewardmesh.wire.errors import RecipeError

__all__ = ["ORACLES", "make_oracle"]

ORACLES = ("object_count", "ocr_spelling")

SettingsT = TypeVar("SettingsT")


def make_oracle(name: str, options: Mapping[str, Any]) -> Oracle:
    """An oracle by name, with the settings of its class (ObjectCountSettings, OcrSettings).

    Raises: RecipeError for an unknown name or setting, WeightsMissing if its weights are not there.
    """
    # Oracles import torch, and each its own large library: only when made, and only its own.
    if name == "object_count":
        from services.oracles.object_count import ObjectCount, ObjectCountSettings  # noqa: PLC0415

        return ObjectCount(_settings(ObjectCountSettings, name, options))
    if name == "ocr_spelling":
        from services.oracles.ocr_spelling import OcrSettings, OcrSpelling  # noqa: PLC0415

        return OcrSpelling(_settings(OcrSettings, name, options))
    raise RecipeError("no such oracle", name, f"choose among {', '.join(ORACLES)}")


def _settings(kind: type[SettingsT], name: str, options: Mapping[str, Any]) -> SettingsT:
    try:
        return kind(**options)
    except TypeError as error:
        raise RecipeError(f"setting of oracle is not known: {error}", name, f"see {kind.__name__}") from error
