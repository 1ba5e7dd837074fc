"""Imports run one way, and `import rewardmesh` stays light. The rules themselves are in pyproject.toml."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.repository import PACKAGES, ROOT, read, tracked

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

# One line that breaks each contract, and where it would stand.
VIOLATIONS = {
    "one-way": ("services/violation.py", "import trainer"),
    "algorithms-are-plain-torch": ("trainer/losses/violation.py", "import ray"),
    "oracles-are-plain-classes": ("services/oracles/violation.py", "import httpx"),
    "wire-is-light": ("rewardmesh/wire/violation.py", "import fastapi"),
    "rewardmesh-is-light": ("rewardmesh/violation.py", "import torch"),
    "independent-evaluator": ("benchmarks/independent/violation.py", "import services.oracles.geneval"),
}

# What `import rewardmesh` and the parts that a stranger uses may pull in, besides the standard library.
LIGHT = {
    "import rewardmesh": set(),
    "import rewardmesh.wire.errors": set(),
    "import rewardmesh.wire.messages": {
        "annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection",
    },
    "import rewardmesh.kit.oracle": {
        "annotated_types", "numpy", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection",
    },
    "from rewardmesh import Oracle, oracle": {
        "PIL", "annotated_types", "numpy", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection",
    },
}  # fmt: skip


def contracts() -> list[dict[str, object]]:
    return tomllib.loads(read(Path("pyproject.toml")))["tool"]["importlinter"]["contracts"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT_IMPORTS), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_run_one_way() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(contracts())} kept, 0 broken" in result.stdout


def test_each_rule_notices_what_it_forbids(tmp_path: Path) -> None:
    """The same rules, in a copy of the tree with one forbidden import for each."""
    assert set(VIOLATIONS) == {contract["id"] for contract in contracts()}
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in tracked(".py"):
        (tmp_path / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for name, line in VIOLATIONS.values():
        (tmp_path / name).write_text(line + "\n")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    assert f"0 kept, {len(VIOLATIONS)} broken" in result.stdout, result.stdout + result.stderr
    for name, _ in VIOLATIONS.values():
        assert name.removesuffix(".py").replace("/", ".") in result.stdout


def test_no_oracle_and_no_recipe_can_name_the_independent_evaluator() -> None:
    """It is above every role (the rule `one-way`) and in no wheel; so nobody below it says its name either."""
    assert "benchmarks" not in PACKAGES
    below = [path for path in (*tracked(".py"), *tracked(".yaml")) if path.parts[0] in PACKAGES]
    assert len(below) > 100
    assert [str(path) for path in below if "benchmarks.independent" in read(path)] == []


@pytest.mark.parametrize("statement", LIGHT)
def test_what_strangers_import_is_light(statement: str) -> None:
    code = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(names - set(sys.stdlib_module_names))))\n"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    pulled_in = {name for name in json.loads(output) if not name.startswith("_")}
    assert "rewardmesh" in pulled_in
    assert pulled_in - {"rewardmesh"} <= LIGHT[statement]
