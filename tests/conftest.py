"""How the tests run: the same examples every time in CI, and every annotated shape and type of ours checked."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import runtime_checkable

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings

TRACED = {f"simulations.engines.{name}" for name in ("chain_ops", "compiled", "product_ops", "products", "stacked")}
"""Modules through which torch's compiler goes: it does not get through the checks."""
ROOMS = ("aggregator", "broker", "edge_client", "export", "simulations", "wire")

CHECK = jaxtyping.jaxtyped(typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.register_profile("home", deadline=None, max_examples=50)
settings.load_profile("ci" if os.environ.get("CI") else "home")


class Checks(ast.NodeTransformer):
    """Puts jaxtyping's and beartype's check on every function, and imports what only its types name."""

    def __init__(self, is_traced: bool) -> None:
        self.is_traced = is_traced

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.body if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if self.is_traced or node.name == "forward":  # what traces a model hands it stand-ins for tensors
            return node
        return self.decorate(node, "__check__")

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        is_protocol = any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
        return self.decorate(node, *["__checkable__"] * is_protocol)

    def decorate(self, node: ast.FunctionDef | ast.ClassDef, *decorators: str) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list += [ast.copy_location(ast.Name(name, ast.Load()), node) for name in decorators]
        return node


class CheckedLoader(SourceFileLoader):
    """Compiles a module with the checks, past the cache of bytecode that has none."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = Checks(fullname in TRACED).visit(ast.parse(self.get_data(path)))
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(__check__=CHECK, __checkable__=runtime_checkable)
        super().exec_module(module)


class CheckedFinder:
    """Finds our own modules, before anyone else does."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.partition(".")[0] in ROOMS else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = CheckedLoader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, CheckedFinder)

# A checked function is a wrapper from elsewhere; its examples are still its own module's.
_is_from = doctest.DocTestFinder._from_module  # type: ignore[attr-defined]
doctest.DocTestFinder._from_module = (  # type: ignore[attr-defined]
    lambda self, module, thing: _is_from(self, module, inspect.unwrap(thing))
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What a caller meets who hands over shapes against the annotations: our own refusals."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
