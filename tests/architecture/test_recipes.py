"""Every recipe that ships loads, says its own name, and reads back equal from its resolved form."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewardmesh.wire.errors import RecipeError
from tests.architecture.repository import ROOT, read, tracked_files
from trainer.recipe import dump_recipe, load_recipe, parse_recipe, shipped_recipes

TRACKED = [path for path in tracked_files() if path.parent == Path("trainer/recipes") and path.suffix == ".yaml"]


def test_what_ships_is_what_is_tracked() -> None:
    assert {"demo", "every_boundary"} <= set(shipped_recipes())
    assert sorted(shipped_recipes().values()) == sorted(ROOT / path for path in TRACKED)


@pytest.mark.parametrize("path", TRACKED, ids=lambda path: path.stem)
def test_shipped_recipe_loads(path: Path) -> None:
    recipe = load_recipe(ROOT / path)
    assert recipe.name == path.stem
    assert recipe.description
    assert parse_recipe(dump_recipe(recipe), which=path.name) == recipe


@pytest.mark.parametrize("path", TRACKED, ids=lambda path: path.stem)
def test_shipped_recipe_with_one_key_more_does_not(path: Path) -> None:
    with pytest.raises(RecipeError, match="no_such_key"):
        parse_recipe(read(path) + "\nno_such_key: 1\n", which=path.name)
