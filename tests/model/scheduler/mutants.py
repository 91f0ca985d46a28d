"""Takes one guard out of the production code at a time.

A guard is a question that one function of a domain module asks another one ("may this
be?"). Removing it means to answer that question by the constant that lets everything
pass, at this one place. An effect is one field that a step sets; removing it means that
the step leaves the field as it was. The mutant is compiled from the source that runs in
production, so that nothing has to be written twice and no guard can be forgotten.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Guard:
    """A question that `function` asks; `passes` is the answer that lets everything through."""

    function: str
    question: str
    passes: bool = True

    def __str__(self) -> str:
        return f"{self.function} asks {self.question}"


@dataclass(frozen=True, slots=True)
class Effect:
    """A field that `function` sets by `replace`."""

    function: str
    field: str

    def __str__(self) -> str:
        return f"{self.function} sets {self.field}"


Removal = Guard | Effect


def questions(module: ModuleType) -> set[tuple[str, str]]:
    """Each (function, question): calls of predicates of this module from its other functions."""
    functions = list(_functions(_parse(module)))
    predicates = {function.name for function in functions if _answers_bool(function)}
    return {
        (function.name, call.func.id)
        for function in functions
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in predicates
    }


def without(module: ModuleType, removal: Removal) -> ModuleType:
    """A copy of the module that lacks this one guard or effect."""
    tree = _parse(module)
    remover = _Remover(removal)
    for function in _functions(tree):
        if function.name == removal.function:
            remover.visit(function)
    if not remover.removed:
        raise LookupError(f"{module.__name__}: {removal} no longer")
    mutant = ModuleType(f"{module.__name__} without: {removal}")
    exec(compile(ast.fix_missing_locations(tree), inspect.getfile(module), "exec"), mutant.__dict__)
    return mutant


class _Remover(ast.NodeTransformer):
    def __init__(self, removal: Removal) -> None:
        self._removal = removal
        self.removed = 0

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name):
            return node
        if isinstance(self._removal, Guard):
            return self._answer(node, node.func.id, self._removal)
        if node.func.id == "replace":
            kept = [keyword for keyword in node.keywords if keyword.arg != self._removal.field]
            self.removed += len(node.keywords) - len(kept)
            node.keywords = kept
        return node

    def _answer(self, node: ast.Call, name: str, guard: Guard) -> ast.expr:
        if name != guard.question:
            return node
        self.removed += 1
        return ast.Constant(guard.passes)


def _parse(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in tree.body if isinstance(node, ast.FunctionDef))


def _answers_bool(function: ast.FunctionDef) -> bool:
    return isinstance(function.returns, ast.Name) and function.returns.id == "bool"
