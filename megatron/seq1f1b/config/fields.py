"""Help texts of a dataclass's fields: the string literal below each field, read from the source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise


@cache
def field_help(options: type) -> dict[str, str]:
    """The docstring of every field of a dataclass, on one line; inherited fields are not looked up."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(options)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    texts = {}
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = _string(following)
            if text is not None:
                texts[statement.target.id] = " ".join(text.split())
    return texts


def _string(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value.value if isinstance(node.value.value, str) else None
    return None
