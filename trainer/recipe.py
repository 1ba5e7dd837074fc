"""Reading a recipe: YAML, overrides, and faults as one clear line each. The models are in `trainer.recipe_sections`."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rewardmesh.wire.errors import RecipeError
from rewardmesh.wire.oracle_use import OracleUse
from trainer.algorithm_recipe import AlgorithmRecipe
from trainer.recipe_sections import Recipe

__all__ = [
    "AlgorithmRecipe",
    "InvalidRecipe",
    "Recipe",
    "dump_recipe",
    "load_recipe",
    "parse_oracle_use",
    "parse_recipe",
    "shipped_recipes",
]

_SHIPPED = Path(__file__).parent / "recipes"


class InvalidRecipe(RecipeError):
    """A recipe with one or more faults; `lines` has one for each, and `str` joins them."""

    def __init__(self, which: str, lines: Sequence[str]) -> None:
        super().__init__(" ; ".join(lines), which, "correct the recipe or the --set override")
        self.lines = tuple(f"recipe {which}: {line}" for line in lines)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not the last one's victory."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    mapping: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in mapping:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def shipped_recipes() -> dict[str, Path]:
    """Recipes that ship with the project, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from a YAML file, or a shipped one by its name, and applies overrides such as `run.seed=3`.

    Raises: InvalidRecipe, with one line a fault.
    """
    path = _find(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRecipe(str(path), [f"cannot be read: {_reason(error)}"]) from error
    return parse_recipe(text, which=path.name, overrides=overrides)


def parse_recipe(text: str, *, which: str, overrides: Sequence[str] = ()) -> Recipe:
    """The same, from text; `which` names it in errors."""
    content = _yaml(text, which, "is not YAML")
    if not isinstance(content, dict):
        raise InvalidRecipe(which, ["must be a mapping with keys such as name, feedback and run"])
    for override in overrides:
        _apply(content, override, which)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InvalidRecipe(which, _lines(error)) from None


def parse_oracle_use(name: str, overrides: Sequence[str] = ()) -> OracleUse:
    """How a run uses an oracle: the defaults, changed by settings such as `on_missing.then=mask`.

    Raises: InvalidRecipe, with one line a fault.
    """
    content: dict[str, Any] = {"name": name}
    for override in overrides:
        _apply(content, override, name)
    try:
        return OracleUse.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise InvalidRecipe(
            name, [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in details]
        ) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML: every setting, defaults included; reads back equal."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def _find(path: str | Path) -> Path:
    found = Path(path)
    shipped = shipped_recipes()
    if not found.exists() and str(path) in shipped:
        return shipped[str(path)]
    if not found.is_file():
        raise InvalidRecipe(str(path), [f"no such file, and no shipped recipe: those are {', '.join(shipped)}"])
    return found


def _yaml(text: str, which: str, fault: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InvalidRecipe(which, [f"{fault}: {_reason(error)}"]) from error


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return " ".join(str(error).split())


def _apply(content: dict[str, Any], override: str, which: str) -> None:
    path, equals, value_text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InvalidRecipe(which, [f"override {override!r} must have the form section.key=value"])
    value = _yaml(value_text, which, f"override {override!r} has a value that is not YAML")
    target: Any = content
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(target, list):
            if not key.isdigit() or int(key) >= len(target):
                raise InvalidRecipe(which, [f"override {override!r}: {key!r} is not one of {len(target)} entries"])
            slot: Any = int(key)
        elif isinstance(target, dict):
            slot = key
            if not last and target.get(key) is None:
                target[key] = {}
        else:
            raise InvalidRecipe(which, [f"override {override!r}: {'.'.join(keys[:depth])} holds no keys"])
        if last:
            target[slot] = value
        else:
            target = target[slot]


def _lines(error: ValidationError) -> list[str]:
    details = error.errors(include_url=False)
    faulty = {detail["loc"] for detail in details}
    return [
        _line(detail)
        for detail in details
        # A list whose entries are at fault is reported as too short as well; the entries' own lines say more.
        if not (
            detail["type"] == "too_short" and any(loc[: len(detail["loc"])] == detail["loc"] != loc for loc in faulty)
        )
    ]


def _line(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "the whole"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"unknown key {where}{_suggestion(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{where} is missing"
    given = detail["input"]
    shown = "" if isinstance(given, (dict, list, BaseModel)) else f" is {given!r}"
    return f"{where}{shown}: {message[:1].lower()}{message[1:]}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    known = _keys_at(location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return f": known here are {', '.join(known)}" if known else ""


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section that a location leads to; an index steps into the models of a list."""
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        inner = _section_of(field.annotation) if field else None
        if inner is None:
            return []
        section = inner
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
