"""Actions at each place of the package's code at which CPython may run a signal handler.

These places are: the start of a Python function, the return from a call of anything else, and the start of each
iteration of a loop. The package's modules are rewritten when they are imported, so that they call :func:`_at_place`
there. A trace function that raises would be simpler, but CPython 3.11 crashes if such a function raises in a coroutine,
and in CPython 3.12.1 a later garbage collection then never ends.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import _GeneratorContextManager, closing
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType, TracebackType
from typing import Any

_OURS = ("sysmem", "sysmem_protocol")


class AtPlace:
    """Within the with-block, performs an action in the main thread at the place with this number."""

    _now: AtPlace | None = None

    def __init__(self, number: int, act: Callable[[], None], *, raises: bool) -> None:
        self.done = False
        self.raises = raises
        #: The place of the action.
        self.where = ""
        self._left = number
        self._act = act

    def __enter__(self) -> AtPlace:
        AtPlace._now = self
        return self

    def __exit__(self, *_: object) -> None:
        AtPlace._now = None

    def pass_by(self) -> bool:
        """Return whether this is the place."""
        if threading.current_thread() is not threading.main_thread():
            return False
        self._left -= 1
        return self._left < 0

    def do(self) -> None:
        """Do it."""
        AtPlace._now = None
        self.done = True
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename == __file__:
            frame = frame.f_back
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        self._act()


def at_every_place(act: Callable[[], None], *, raises: bool = True) -> Iterator[AtPlace]:
    """Yield a with-block for each place in the code that runs in it, which calls `act` there.

    End after the last place.
    """
    for number in itertools.count():
        at = AtPlace(number, act, raises=raises)
        yield at
        if not at.done:
            return


def _at_place() -> None:
    """Perform the action if this is the place."""
    now = AtPlace._now
    if now is not None and now.pass_by():
        now.do()


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function to call instead of a function. There is a place after a call of a C function.

    A Python function has a place at its start, also if it does not belong to the package.
    """
    if AtPlace._now is None or any(function is each for each in _FIND_THEIR_CALLER):
        return function
    plain = getattr(function, "__func__", function)
    if isinstance(plain, FunctionType):
        if not _ours(plain.__module__):
            _at_place()
        return function

    def call(*arguments: Any, **keywords: Any) -> Any:
        value = function(*arguments, **keywords)
        now = AtPlace._now
        if now is not None and now.pass_by():
            if now.raises:
                # As if the interpreter itself had raised, nothing refers to the result of the call any more.
                value = None
                del arguments, keywords
            now.do()
        return value

    return call


#: These functions behave differently if they are called from another frame.
_FIND_THEIR_CALLER: tuple[Any, ...] = (super, sys._getframe, globals, locals, vars, eval, exec)


def _ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _OURS


class _Within:
    """A with-block that has such places at its end."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        # Code that trio protects from interrupts is not interrupted here either.
        if isinstance(self._inner, closing | _GeneratorContextManager):
            _at_place()
        written_in_c = not isinstance(type(self._inner).__exit__, FunctionType)
        handled = self._inner.__exit__(kind, error, traceback)
        if kind is None and written_in_c:
            _at_place()
        return handled


class _Rewrite(ast.NodeTransformer):
    """Adds the calls. Annotations stay unchanged, because they are read as text."""

    def visit_FunctionDef(self, node: Any) -> Any:  # `ast` requires this
        node.body = self._all(node.body)
        documented = ast.get_docstring(node, clean=False) is not None
        node.body.insert(documented, _place())
        node.decorator_list = self._all(node.decorator_list)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_While(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body.insert(0, _place())
        return node

    visit_For = visit_AsyncFor = visit_While  # noqa: N815

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = _call("_Within", item.context_expr)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        node.func = _call("_called", node.func)
        return node

    def _all(self, nodes: Sequence[Any]) -> list[Any]:
        return [self.visit(node) for node in nodes]


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _place() -> ast.Expr:
    return ast.Expr(_call("_at_place"))


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # Neither reads nor writes compiled files.
        path = self.get_filename(fullname)
        tree = _Rewrite().visit(ast.parse(self.get_data(path), path))
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
        return code


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _ours(fullname):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def rewrite() -> None:
    """Rewrite the package's modules when they are imported. Must be called before the first import."""
    assert not sys.modules.keys() & set(_OURS)
    builtins.__dict__.update(_at_place=_at_place, _called=_called, _Within=_Within)
    sys.meta_path.insert(0, _Finder())
