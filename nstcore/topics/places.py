"""Where a name stands: the file and the lines of a function, a class, a method or a constant, without importing it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]  # the folder nstcore, in a checkout or installed


@dataclass(frozen=True)
class Place:
    """Lines of a file.

    Attributes
    ----------
    name : str
        "gram_forward", "Vectors.adam".
    path : Path
    line : int
        That of `def`, of `class`, or of an assignment; counted from 1.
    first, last : int
        The same, with decorators; the last line of its body.
    """

    name: str
    path: Path
    line: int
    first: int
    last: int

    @property
    def text(self) -> str:
        """The source, moved to the left margin where it is a method's."""
        lines = self.path.read_text(encoding="utf-8").splitlines()[self.first - 1 : self.last]
        margin = len(lines[0]) - len(lines[0].lstrip())
        return "\n".join(line[margin:] if not line[:margin].strip() else line for line in lines)

    @property
    def signature(self) -> str:
        """What stands above the docstring: `def f(x: int) -> int:`, on as many lines as it has."""
        body = getattr(self._node, "body", None)
        lines = self.text.splitlines()
        return "\n".join(lines[self.line - self.first : body[0].lineno - 1] if body else lines[:1])

    @property
    def summary(self) -> str:
        """The first line of the docstring; empty without one."""
        node = self._node
        text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
        return (text or "").partition("\n")[0]

    @property
    def _node(self) -> ast.stmt:
        return ast.parse(self.text).body[0]


@cache
def where(name: str) -> Place:
    """Find `nstcore.ops.gram_forward`, `nstcore.optim.vectors.Vectors.adam`, also through a package that imports it.

    Raises
    ------
    LookupError
        If there is nothing of that name.
    """
    first, *rest = name.split(".")
    if first != PACKAGE.name:
        raise LookupError(f"{name}: expected a name in {PACKAGE.name}")
    folder = PACKAGE
    while rest and (folder / rest[0]).is_dir():
        folder /= rest.pop(0)
    if rest and (folder / f"{rest[0]}.py").is_file():
        path = folder / f"{rest.pop(0)}.py"
    else:
        path = folder / "__init__.py"
    if not rest:
        raise LookupError(f"{name}: expected a function or a class, got a module")
    body: list[ast.stmt] = _module(path).body
    for i, word in enumerate(rest):
        for node in body:
            if isinstance(node, ast.ImportFrom) and i == 0:
                taken = [alias.name for alias in node.names if (alias.asname or alias.name) == word]
                if taken and node.module and node.level:
                    package = [PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1]]
                    home = package[: len(package) - node.level + 1]
                    return where(".".join([*home, node.module, taken[0], *rest[1:]]))
            if word in _names(node):
                break
        else:
            raise LookupError(f"{name}: there is no {word} in {path.relative_to(PACKAGE.parent)}")
        body = getattr(node, "body", [])
    first_line = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return Place(".".join(rest), path, node.lineno, first_line, node.end_lineno or node.lineno)


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


@cache
def _module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
