"""docs/equations.md and the docstrings of trainer/ cite the same numbers, and what the page names exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "equations.md"
NUMBER = re.compile(r"\bE\d+[ab]?\b")


def documented() -> set[str]:
    return set(re.findall(r"^### (E\d+[ab]?) ", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def documentation_of(path: Path) -> str:
    """All docstrings of a module, and the strings that document its attributes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return "\n".join(strings)


def cited() -> dict[str, set[str]]:
    numbers: dict[str, set[str]] = {}
    for path in sorted((ROOT / "trainer").rglob("*.py")):
        for number in NUMBER.findall(documentation_of(path)):
            numbers.setdefault(number, set()).add(str(path.relative_to(ROOT)))
    return numbers


def test_every_number_that_is_cited_is_documented() -> None:
    assert {number: paths for number, paths in cited().items() if number not in documented()} == {}


def test_every_number_that_is_documented_is_cited() -> None:
    assert documented() - set(cited()) == set()


def test_every_number_that_the_page_mentions_has_its_section() -> None:
    assert set(NUMBER.findall(PAGE.read_text(encoding="utf-8"))) == documented()


def test_what_the_page_names_exists() -> None:
    named = re.findall(r"`(trainer\.[\w.]+):(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [f"{module}:{name}" for module, name in named if not hasattr(importlib.import_module(module), name)] == []


def test_what_the_page_names_cites_the_equation_it_stands_under() -> None:
    sections = re.split(r"^### (E\d+[ab]?) ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    missing = []
    for number, text in zip(sections[1::2], sections[2::2], strict=True):
        modules = set(re.findall(r"`(trainer\.[\w.]+):\w+`", text))
        assert modules, f"{number} says nowhere where it is computed"
        texts = [documentation_of(ROOT / (module.replace(".", "/") + ".py")) for module in modules]
        if not any(number in NUMBER.findall(text) for text in texts):
            missing.append(number)
    assert missing == []
