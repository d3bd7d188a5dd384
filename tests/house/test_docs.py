"""The pages agree with the project, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_files_resolve(files: list[Path], root: Path) -> None:
    broken = []
    for page in (file for file in files if file.suffix == ".md"):
        for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if re.match(r"[a-z]+:", link):
                continue
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(root)}: {link}")
    assert broken == []


def test_the_dependencies_page_lists_what_the_project_asks_for(root: Path, pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    asked = {Requirement(line).name for line in lines} - {project["name"]}
    rows = re.findall(r"^\| \[([\w.-]+)\]\(", (root / "docs/dependencies.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(asked)


def test_the_changelog_speaks_of_this_version(root: Path, pyproject: dict[str, Any]) -> None:
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert pyproject["project"]["version"] in headings[0]
