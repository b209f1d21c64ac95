"""What the sources can say: every text of a module, with places for what is filled in, read without running it.

A text is a constant or an f-string. Alternatives (``a if x else b``), local names and looked-up dictionaries are
followed, so that a sentence comes out in every wording that it can have.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import emotion_circuits

PACKAGE = Path(emotion_circuits.__file__).parent
PLACE = "7"
"""What stands for a value: a number, which every place of a translation takes."""
MOST = 64
"""Wordings of one text that are followed."""
UNSHOWN = {"Field", "experiment", "info", "warning", "debug", "progress", "say", "assert_never", "NewType", "Literal"}
"""Calls whose texts are for the command line, the log or the type checker."""

Scope = Mapping[str, list[ast.expr]]


def texts_of(module: Path) -> Iterator[tuple[int, str]]:
    """(line, text) for every text of a module that is no docstring, no error and no help."""
    tree = _tree(module)
    yield from _in(tree, _assigned(tree.body), frozenset())


def labels_of(module: Path) -> Iterator[tuple[int, str]]:
    """(line, text) for every title, caption, description, axis and column heading of a module."""
    tree = _tree(module)
    for function in (f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)):
        scope = {**_assigned(tree.body), **_assigned(ast.walk(function))}
        for call in (c for c in ast.walk(function) if isinstance(c, ast.Call) and _name(c.func) in ("Figure", "Table")):
            # The first argument is the name of a file, and a figure's second one its kind.
            shown = call.args[2:] if _name(call.func) == "Figure" else call.args[1:]
            for value in (*shown, *(k.value for k in call.keywords)):
                yield from ((call.lineno, text) for part in _parts(value, scope) for text in _wordings(part, scope))


def _parts(node: ast.expr, scope: Scope) -> Iterator[ast.expr]:
    """A text itself, or the values of a dictionary; rows of data are neither."""
    if isinstance(node, ast.Name):
        for value in scope.get(node.id, []):
            yield from _parts(value, scope)
    elif isinstance(node, ast.Dict):
        yield from (value for key, value in zip(node.keys, node.values, strict=True) if key is not None)
    elif isinstance(node, ast.IfExp):
        yield from (*_parts(node.body, scope), *_parts(node.orelse, scope))
    elif isinstance(node, ast.JoinedStr | ast.Constant):
        yield node


def _tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def _in(node: ast.AST, scope: Scope, parts: frozenset[str]) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.FunctionDef):
        scope = {**scope, **{a.arg: [] for a in node.args.args}, **_assigned(ast.walk(node))}
        joined = (j for j in ast.walk(node) if isinstance(j, ast.JoinedStr))
        parts = frozenset(n.id for j in joined for n in ast.walk(j) if isinstance(n, ast.Name))
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return
    if isinstance(node, ast.Call) and (_name(node.func) in UNSHOWN or _name(node.func).endswith("Error")):
        return
    if isinstance(node, ast.Assign) and parts & {t.id for t in node.targets if isinstance(t, ast.Name)}:
        return  # it comes out with the text that it is a part of
    if isinstance(node, ast.expr) and (isinstance(node, ast.JoinedStr | ast.Constant) or _is_joined(node)):
        yield from ((node.lineno, text) for text in _wordings(node, scope))
        return
    for child in ast.iter_child_nodes(node):
        yield from _in(child, scope, parts)


def _is_joined(node: ast.AST) -> bool:
    """Whether a sum is one of texts (those of lists are looked into)."""
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) else ()
    return any(isinstance(side, ast.JoinedStr | ast.Constant) or _is_joined(side) for side in sides)


def _wordings(node: ast.expr, scope: Scope) -> list[str]:
    """Every text that an expression can be; a place where nothing is known of it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        found = [_wordings(v.value if isinstance(v, ast.FormattedValue) else v, scope) for v in node.values]
        return ["".join(words) for words in itertools.islice(itertools.product(*found), MOST)]
    if isinstance(node, ast.IfExp):
        return [*_wordings(node.body, scope), *_wordings(node.orelse, scope)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        pairs = itertools.product(_wordings(node.left, scope), _wordings(node.right, scope))
        return [a + b for a, b in itertools.islice(pairs, MOST)]
    if isinstance(node, ast.Name) and scope.get(node.id):
        within = {name: values for name, values in scope.items() if name != node.id}
        return list(dict.fromkeys(text for value in scope[node.id] for text in _wordings(value, within)))
    if isinstance(node, ast.Subscript):
        named = scope.get(node.value.id, []) if isinstance(node.value, ast.Name) else [node.value]
        if len(named) == 1 and isinstance(named[0], ast.Dict):
            return [text for value in named[0].values for text in _wordings(value, scope)]
    return [PLACE]


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """Name → what is assigned to it."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.setdefault(node.target.id, []).append(node.value)
    return found


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
