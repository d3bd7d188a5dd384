"""A package that a list forgets is checked by nobody."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

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
    assert set(tool["importlinter"]["root_packages"]) == names
    assert set(tool["coverage"]["run"]["source"]) == names
    assert set(tool["mypy"]["files"]) == {*paths, "tests", "scripts"}
    assert set(tool["vulture"]["paths"]) >= paths
    assert set(tool["pytest"]["ini_options"]["testpaths"]) == {*paths, "tests"}
    assert {name.rstrip("*") for name in tool["setuptools"]["packages"]["find"]["include"]} == set(rooms)
    assert tool["setuptools"]["py-modules"] == ["fedlag"]


def test_the_contracts_of_all_lead_to_all_rooms(rooms: list[str], pyproject: dict[str, Any]) -> None:
    contracts = {contract["id"]: contract for contract in pyproject["tool"]["importlinter"]["contracts"]}
    layers = {name.strip() for layer in contracts["rooms"]["layers"] for name in layer.split("|")}
    assert layers == {"fedlag", *rooms}
    for name in ("mqtt", "test-tools"):
        assert set(contracts[name]["source_modules"]) == {"fedlag", *rooms}


def test_the_tests_check_types_in_every_room(rooms: list[str], root: Path) -> None:
    spec = importlib.util.spec_from_file_location("shared_conftest", root / "tests/conftest.py")
    loaded = [
        vars(module) for module in sys.modules.values() if getattr(module, "__file__", None) == (spec and spec.origin)
    ]
    assert [set(module["ROOMS"]) for module in loaded] == [set(rooms)]
