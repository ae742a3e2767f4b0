"""What the package's own source says, read without importing it: names and first lines for `--help`, at no cost.

Importing torch takes seconds, which nobody should wait for who mistyped an option.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def _parsed(module: str) -> ast.Module:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise LookupError(f"there is no module {module}")
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))


def summary(module: str, function: str) -> str:
    """The first paragraph of a function's docstring, in one line.

    Raises:
        LookupError: If there is no such function, or it says nothing.
    """
    for node in _parsed(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            if text := ast.get_docstring(node):
                return " ".join(text.split("\n\n")[0].split())
    raise LookupError(f"{module} has no documented function {function}")
