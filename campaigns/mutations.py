"""Small changes of a source file, one by one, by the operators of mutmut."""

import ast
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators


class Mutation(NamedTuple):
    """A change of one place in a file.

    Args:
        line: where it is, from 1.
        column: likewise, from 0.
        code: the line, without indentation.
        change: ``before -> after`` of the smallest piece of code that contains it.
        spans: first and last line of the statement (of a compound one, of the changed expression alone), and
            of the function around it if there is one: tests that execute the former may notice.
        text: makes the text of the whole file with it, or None if that is no Python or the same program.
    """

    line: int
    column: int
    code: str
    change: str
    spans: tuple[tuple[int, int], ...]
    text: Callable[[], str | None]


def mutations(text: str) -> list[Mutation]:
    """List the changes of a file, from the top to the bottom.

    Annotations, names of types, imports, docstrings, what is raised, ``__all__``, decorators, defaults of
    fields of dataclasses and named tuples, and what only type checkers see are left as they are; so are the
    calls of ``len`` and ``isinstance``, which mutmut never changes.
    """
    wrapper = MetadataWrapper(cst.parse_module(text))
    places = _Places(wrapper.resolve(PositionProvider))
    wrapper.visit(places)
    lines = text.splitlines()
    found = []
    for node, spans in places.found:
        start = places.positions[node].start
        code = lines[start.line - 1].strip()
        for kind, operator in mutation_operators:
            for mutated in operator(node) if isinstance(node, kind) else ():
                change = f"{_code(wrapper.module, node)} -> {_code(wrapper.module, mutated)}"
                make = partial(_changed, wrapper.module, node, mutated)
                found.append(Mutation(start.line, start.column, code, change, spans, make))
    return found


def _changed(module: cst.Module, node: cst.CSTNode, mutated: cst.CSTNode) -> str | None:
    text = cst.ensure_type(module.deep_replace(node, mutated), cst.Module).code
    try:
        compile(text, "", "exec")
    except SyntaxError:
        return None
    return None if ast.dump(ast.parse(text)) == ast.dump(ast.parse(module.code)) else text


def _code(module: cst.Module, node: cst.CSTNode) -> str:
    return " ".join(module.code_for_node(node).split())


class _Places(cst.CSTVisitor):
    """Collect the nodes that may be changed, each with its statement's and its function's lines."""

    def __init__(self, positions: Mapping[cst.CSTNode, CodeRange]) -> None:
        super().__init__()
        self.positions = positions
        self.found: list[tuple[cst.CSTNode, tuple[tuple[int, int], ...]]] = []
        self._around: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if self._is_left(node):
            return False
        if node in self.positions:
            self.found.append((node, self._spans(node)))
        self._around.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self._around and self._around[-1] is original_node:
            self._around.pop()

    def _spans(self, node: cst.CSTNode) -> tuple[tuple[int, int], ...]:
        statements = [one for one in (*self._around, node) if isinstance(one, cst.SimpleStatementLine)]
        functions = [one for one in self._around if isinstance(one, cst.FunctionDef)]
        around = [*(statements[-1:] or [node]), *functions[-1:]]
        return tuple((self.positions[one].start.line, self.positions[one].end.line) for one in around)

    def _is_left(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.Annotation() | cst.Import() | cst.ImportFrom() | cst.Raise() | cst.Decorator():
                return True
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name("__all__"))]):
                return True
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(name))]) if name[0].isupper():
                return len(self._around) == 2 and not name.isupper()  # a module's name of a type
            case cst.AnnAssign():
                return self._is_field()
            case cst.If(test=cst.Name("TYPE_CHECKING")):
                return True
            case cst.Call(func=cst.Name("len" | "isinstance")):
                return True
        return False

    def _is_field(self) -> bool:
        """Whether a statement here is in the body of a dataclass or a named tuple."""
        around = [one for one in self._around if isinstance(one, cst.FunctionDef | cst.ClassDef)]
        if not around or not isinstance(around[-1], cst.ClassDef):
            return False
        words = [*(one.decorator for one in around[-1].decorators), *(one.value for one in around[-1].bases)]
        names = {cst.Module([]).code_for_node(one).split("(")[0] for one in words}
        return bool(names & {"dataclass", "NamedTuple"})
