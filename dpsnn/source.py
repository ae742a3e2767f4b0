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


def keys(module: str, registry: str) -> list[str]:
    """The keys of a dict that a module spells out at its top level, in order.

    Args:
        module: For instance `dpsnn.data`; its parents are imported, it is not.
        registry: Name of the dict, for instance `DATASETS`.

    Raises:
        LookupError: If there is no such dict, or a key is no plain text.
    """
    for node in _parsed(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == registry for target in targets):
            value = getattr(node, "value", None)
            words = [getattr(key, "value", None) for key in getattr(value, "keys", [None])]
            if all(isinstance(word, str) for word in words):
                return [str(word) for word in words]
    raise LookupError(f"{module} spells no dict {registry} out by names")


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
