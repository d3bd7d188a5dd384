"""A package that a list forgets is checked by nobody."""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOMS = ["aggregator", "broker", "edge_client", "export", "simulations", "wire"]


def test_the_rooms_are_those_of_the_architecture(rooms: list[str]) -> None:
    assert rooms == ROOMS


def test_every_folder_with_modules_is_a_package(product: list[Path]) -> None:
    assert [
        str(file.parent) for file in product if file.name != "fedlag.py" and not file.with_name("__init__.py").exists()
    ] == []


def test_every_check_looks_at_every_room(rooms: list[str], pyproject: dict[str, Any]) -> None:
    tool = pyproject["tool"]
    names, paths = {"fedlag", *rooms}, {"fedlag.py", *rooms}
    assert set(tool["importlinter"]["root_packages"]) == set(rooms)
    assert set(tool["coverage"]["run"]["source"]) == names
    assert set(tool["mypy"]["files"]) == {*paths, "tests", "scripts"}
    assert set(tool["vulture"]["paths"]) >= paths
    assert set(tool["pytest"]["ini_options"]["testpaths"]) == {*paths, "tests"}
    assert {name.rstrip("*") for name in tool["setuptools"]["packages"]["find"]["include"]} == set(rooms)
    assert tool["setuptools"]["py-modules"] == ["fedlag"]


def test_the_contracts_of_all_rooms_name_all_rooms(rooms: list[str], pyproject: dict[str, Any]) -> None:
    contracts = {contract["id"]: contract for contract in pyproject["tool"]["importlinter"]["contracts"]}
    layers = {name.strip() for layer in contracts["rooms"]["layers"] for name in layer.split("|")}
    assert layers == set(rooms)
    for name in ("mqtt", "test-tools"):
        assert set(contracts[name]["source_modules"]) == set(rooms)


def imported(file: Path) -> set[str]:
    """The top-level modules that a file imports, wherever it does."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_no_room_knows_the_front_door(product: list[Path]) -> None:
    assert [file for file in product if "fedlag" in imported(file)] == []


def test_the_front_door_knows_the_rooms_alone(root: Path, rooms: list[str]) -> None:
    assert imported(root / "fedlag.py") - sys.stdlib_module_names <= set(rooms)


def test_what_the_product_imports_is_a_dependency(
    product: list[Path], rooms: list[str], pyproject: dict[str, Any]
) -> None:
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for role, extra in extras.items() if role != "dev" for line in extra)]
    asked = {canonicalize_name(Requirement(line).name) for line in lines}
    owners = packages_distributions()
    outside = set[str]().union(*map(imported, product)) - sys.stdlib_module_names - {*rooms, "jaxtyping"}
    assert {name for name in outside if canonicalize_name(owners.get(name, [name])[0]) not in asked} == set()


def test_the_tests_check_types_in_every_room(rooms: list[str], root: Path) -> None:
    spec = importlib.util.spec_from_file_location("shared_conftest", root / "tests/conftest.py")
    loaded = [
        vars(module) for module in sys.modules.values() if getattr(module, "__file__", None) == (spec and spec.origin)
    ]
    assert [set(module["ROOMS"]) for module in loaded] == [set(rooms)]
