"""Every file is small, says what it offers, is finished, and names nobody's machine."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

MAX_LINES = 300
TEXTS = {
    "",
    *[".cfg", ".cpp", ".css", ".hpp", ".html", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"],
}


def test_no_python_file_is_longer_than_300_lines(files: list[Path]) -> None:
    lengths = {str(file): len(file.read_text().splitlines()) for file in files if file.suffix == ".py"}
    assert {file: length for file, length in lengths.items() if length > MAX_LINES} == {}


def offered(tree: ast.Module) -> set[str]:
    """The names in ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(it, ast.Name) and it.id == "__all__" for it in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def test_all_names_every_public_function_and_class(product: list[Path], root: Path) -> None:
    missing = {}
    for file in product:
        tree = ast.parse(file.read_text())
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        public = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}
        if file.name == "commands.py":  # its functions are verbs of the command line
            public &= {"main"}
        if public - offered(tree):
            missing[str(file.relative_to(root))] = sorted(public - offered(tree))
    assert missing == {}


def test_nothing_is_left_for_later(files: list[Path], root: Path) -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    texts = [file for file in files if file.suffix in TEXTS]
    found = [str(it.relative_to(root)) for it in texts if any(mark in it.read_text(errors="ignore") for mark in marks)]
    assert found == []


def test_no_file_names_a_path_of_this_machine(files: list[Path], root: Path) -> None:
    temporary = [] if root.is_relative_to("/tmp") else [f"{root}{os.sep}"]  # noqa: S108 - a checkout may lie there
    paths = [*temporary, f"{Path.home()}{os.sep}", f"{sys.base_prefix}{os.sep}lib"]
    if sys.base_prefix == "/usr":  # a path of every machine
        paths.pop()
    texts = [file for file in files if file.suffix in TEXTS]
    found = [str(it.relative_to(root)) for it in texts if any(path in it.read_text(errors="ignore") for path in paths)]
    assert found == []


def test_every_room_has_types(rooms: list[str], root: Path) -> None:
    assert [room for room in rooms if not (root / room / "py.typed").exists()] == []
