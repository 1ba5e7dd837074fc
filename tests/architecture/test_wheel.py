"""The wheel: built from tracked files alone, installed into an empty environment, used beside a decoy `services/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.architecture.repository import PACKAGES, ROOT, tracked_files

pytestmark = pytest.mark.timeout(300)  # builds, and makes an environment, in the first test that asks for them

DECOY = "raise SystemExit('the decoy was imported')\n"


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with what is installed, in a copy: nothing is fetched and the tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        (folder / "tree" / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / "tree" / path)
    for stray in ("stray", "tests/stray"):  # importable, and nobody's to ship
        (folder / "tree" / stray).mkdir()
        (folder / "tree" / stray / "__init__.py").touch()
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", folder / "dist")
    run(sys.executable, "-m", "pip", "wheel", *options, folder / "tree", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel in it. Its dependencies are this environment's, seen through a path file.

    Path files below a folder that is itself named in one are not read, so the editable installation stays unseen.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet")
    run(sys.executable, *install, wheel, cwd=folder)
    paths = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    (Path(paths.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_what_is_tracked_and_nothing_else(wheel: Path) -> None:
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {str(path) for path in tracked_files() if path.parts[0] in PACKAGES}
    assert shipped == tracked
    assert {name.partition("/")[0] for name in shipped} == set(PACKAGES)
    assert any(name.endswith(".lua") for name in shipped)
    assert any(name.startswith("trainer/recipes/") for name in shipped)


def test_the_wheel_says_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_command_works_beside_a_decoy(environment: Path, tmp_path: Path) -> None:
    for name in (*PACKAGES, "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(DECOY)
    output = run(environment / "bin" / "rewardmesh", "--help", cwd=tmp_path)
    for command in ("demo", "up", "train", "evaluate", "doctor", "status"):
        assert command in output


def test_strangers_import_rewardmesh_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    """Beside folders named as our roles: a stranger's own code wins, and `rewardmesh` does not need ours."""
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("mine = True\n")
    code = (
        "import services, rewardmesh, rewardmesh.wire.messages, rewardmesh.kit.oracle\n"
        "assert services.mine\n"
        "print(rewardmesh.__file__)\n"
    )
    output = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert Path(output.strip()).is_relative_to(environment)
