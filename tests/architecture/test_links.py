"""Every relative link in a tracked Markdown file leads to a tracked file, and to a heading that exists."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from tests.architecture.repository import ROOT, read, tracked, tracked_files

LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*$", re.MULTILINE)


def anchors(markdown: str) -> set[str]:
    """The names that headings get: lower case, spaces to hyphens, punctuation gone."""
    titles = (match["title"] for match in HEADING.finditer(FENCE.sub("", markdown)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path: Path, markdown: str) -> list[str]:
    known = {str(p) for p in tracked_files()} | {str(parent) for p in tracked_files() for parent in p.parents}
    broken = []
    for match in LINK.finditer(FENCE.sub("", markdown)):
        target = unquote(match["target"])
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path if not name else Path(str((ROOT / path.parent / name).resolve().relative_to(ROOT)))
        exists = str(file) in known
        if not exists or (anchor and file.suffix == ".md" and anchor not in anchors(read(file))):
            broken.append(f"{path}: {target}")
    return broken


def test_every_link_resolves() -> None:
    assert [link for path in tracked(".md") for link in broken_links(path, read(path))] == []


def test_the_readme_links_the_code() -> None:
    targets = {match["target"] for match in LINK.finditer(read(Path("README.md")))}
    assert sum(target.endswith(".py") for target in targets) >= 8


def test_a_broken_link_is_noticed() -> None:
    readme = Path("README.md")
    assert broken_links(readme, "[a](nowhere/at/all.md)") == ["README.md: nowhere/at/all.md"]
    assert broken_links(readme, "[a](README.md#no-such-heading)") == ["README.md: README.md#no-such-heading"]
    assert broken_links(readme, "[a](LICENSE) [b](https://example.org/x)") == []
