"""What every tracked file keeps to: size, names, and things that must not be in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.repository import PACKAGES, ROOT, read, tracked, tracked_files

MAX_LINES = 400
REASON = "Longer than 400 lines because"
CODE = {".py", ".lua", ".sh"}
TEXT = CODE | {".cfg", ".lock", ".md", ".toml", ".txt", ".yaml", ".yml", ""}

# Written in two halves, so that this file does not hold what it looks for.
HOSTS = re.compile(
    "|".join([r"py" + r"pi\.org", r"python" + r"hosted\.org", r"download\.py" + r"torch\.org", r"conda\." + "anaconda"])
)
INDEX_OPTION = re.compile(r"--(?:extra-)?index" + r"-url|--find" + r"-links|--trusted" + r"-host")
# /home/rewardmesh is a container's own.
MACHINE_PATHS = re.compile(r"(?<![\w./{}$-])/(?:" + "home|root|Users|" + "work" + r")/(?!rewardmesh\b)[\w.-]+")
UNSAFE_IMPORTS = re.compile(
    r"^\s*(?:from|import)\s+(?:pickle|_pickle|cloudpickle|dill|joblib|marshal|shelve)\b", re.MULTILINE
)
UNSAFE_LOADS = re.compile(
    r"allow_pickle\s*=\s*True|weights_only\s*=\s*False|yaml\.unsafe_load|yaml\.(?:Unsafe|Full)?Loader\b"
)
EMPTY_NAMES = {"common", "helper", "helpers", "misc", "shared", "util", "utils"}


def text_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix in TEXT]


def too_long(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) > MAX_LINES and REASON not in "\n".join(lines[:25])


def test_no_long_file_without_a_reason() -> None:
    assert [str(path) for path in text_files() if path.suffix in CODE and too_long(read(path))] == []


def test_a_long_file_is_noticed() -> None:
    assert too_long("x = 1\n" * 401)
    assert not too_long("x = 1\n" * 400)
    assert not too_long(f'"""Tables. {REASON} they are read side by side."""\n' + "x = 1\n" * 401)


def test_no_module_is_named_for_nothing() -> None:
    assert [str(path) for path in tracked(".py") if EMPTY_NAMES & {*path.parts, path.stem}] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_with_code_is_a_package(package: str) -> None:
    """The wheel takes packages only: a folder without __init__.py would be left out of it."""
    folders = {path.parent for path in tracked(".py") if path.parts[0] == package}
    assert folders
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


FORBIDDEN = {
    "a package host": (HOSTS, "https://files.python" + "hosted.org/packages", "https://example.org/python"),
    "an index option": (INDEX_OPTION, "pip install --index" + "-url x", "--no-emit-index-url"),
    "a path of one machine": (MACHINE_PATHS, "open('/ho" + "me/ada/x.pt')", "runs/home/ada"),
    "an unsafe loader": (UNSAFE_LOADS, "torch.load(f, weights_only" + "=False)", "yaml.safe_load(f)"),
    "an unsafe import": (UNSAFE_IMPORTS, "import " + "pickle", "import picklejar"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what: str) -> None:
    pattern, example, harmless = FORBIDDEN[what]
    assert pattern.search(example)
    assert not pattern.search(harmless)
    found = {str(path): hit.group() for path in text_files() if (hit := pattern.search(read(path)))}
    assert found == {}


def test_this_clone_s_own_path_is_nowhere() -> None:
    if len(ROOT.parts) < 3:
        pytest.skip("the repository lies in a folder of the root, whose name may be any word")
    assert [str(path) for path in text_files() if f"{ROOT}/" in read(path)] == []
