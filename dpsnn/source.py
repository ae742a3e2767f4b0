"""What sources say, read without importing them: parts, their options and first lines for `--help`, at no cost.

Importing torch takes seconds, which nobody should wait for who mistyped an option.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dpsnn.errors import UsageError


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


class Option(NamedTuple):
    """What is known of an option without importing anything."""

    name: str
    """Flat: of a part its key and the field's name."""
    field: str
    kind: type
    """bool, int, float or str."""
    optional: bool
    """Whether it may be None."""
    default: Any
    text: str
    wanted: str = ""
    column: str = ""
    after: str = ""
    whole: bool = False


def camel(name: str) -> str:
    """`noise_scale` → `NoiseScale`."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


class Declared(NamedTuple):
    """A part as its source describes it."""

    kind: str
    key: str
    name: str
    """Of its class or function."""
    says: str
    """First paragraph of its docstring, in one line."""
    papers: str
    """That its docstring names, as `arXiv 1234.56789`."""
    options: tuple[Option, ...]
    version: int
    since: int
    heading: str
    order: int
    always: bool
    module: str
    """Where to import it from; of a plug-in its file."""

    @property
    def plugin(self) -> str:
        """Name of the plug-in's file; empty for parts of installed packages."""
        return Path(self.module).name if self.module.endswith(".py") else ""

    @property
    def is_own(self) -> bool:
        """Whether it belongs to this package."""
        return self.module.startswith("dpsnn.")


_KINDS = {"float": float, "Number": float, "int": int, "bool": bool, "str": str}


def _option(node: ast.AnnAssign, key: str) -> Option | None:
    call = node.value
    if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "option"):
        return None
    assert isinstance(node.target, ast.Name)
    words = [part.strip() for part in ast.unparse(node.annotation).split("|")]
    try:
        values = [ast.literal_eval(argument) for argument in call.args]
        named = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        kind = _KINDS[words[0]]
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the option {node.target.id} of {key} cannot be read from its source; give it a plain type and plain"
            " values"
        ) from error
    default, text, *wanted = values
    name = named.get("name") or (f"{key}_{node.target.id}" if key else node.target.id)
    return Option(
        name,
        node.target.id,
        kind,
        "None" in words,
        default,
        text,
        wanted[0] if wanted else named.get("wanted", ""),
        named.get("column") or camel(name),
        named.get("after", ""),
        named.get("whole", False),
    )


def _literals(body: Sequence[ast.stmt]) -> dict[str, Any]:
    """Names that a class body gives a plain value."""
    found = {}
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
            found[target.id] = value.value
    return found


def declarations(
    text: str, module: str, kind: str, kind_of: Callable[[Sequence[str]], str]
) -> Iterator[Declared]:
    """Parts in a source.

    Args:
        text: The source.
        module: Where it is imported from; of a plug-in its file.
        kind: Of its package; empty in a plug-in.
        kind_of: Names of the classes that one derives from → its kind; empty where it is no part.

    Raises:
        SyntaxError: If it is no Python.
        UsageError: If an option says what only running it would tell.
    """
    tree = ast.parse(text)
    for node in tree.body:
        documented: Any = node
        said = _literals(node.body) if isinstance(node, ast.ClassDef) else {}
        if isinstance(node, ast.ClassDef) and isinstance(said.get("key"), str):
            bases = [getattr(base, "id", getattr(base, "attr", "")) for base in node.bases]
            of = kind or kind_of(bases)
            key, statements = said["key"], node.body
        elif isinstance(node, ast.FunctionDef):
            marks = {getattr(mark, "id", "") for mark in node.decorator_list}
            of, key = next(iter(marks & {"network", "decoder"}), ""), node.name
            statements = []
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STUDY":
            # Of a folder or a file, whose name it has.
            of, key, documented = "study", re.split(r"[./]", module.removesuffix(".py"))[-1], tree
            statements, order = [], re.search(r"\border=(\d+)", ast.unparse(node.value))
            said = {"order": int(order[1])} if order else {}
        else:
            continue
        if not of:
            continue
        made = [_option(s, key) for s in statements if isinstance(s, ast.AnnAssign)]
        doc = ast.get_docstring(documented) or ""
        yield Declared(
            of,
            key,
            getattr(node, "name", "STUDY"),
            " ".join(doc.split("\n\n")[0].split()),
            ", ".join(dict.fromkeys(re.findall(r"arXiv [\w./-]+\d", doc))),
            tuple(each for each in made if each),
            said.get("version", 1),
            said.get("since", 3),
            said.get("heading", "") or key,
            said.get("order", 50),
            said.get("always", False),
            module,
        )
