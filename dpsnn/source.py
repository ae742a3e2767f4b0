"""What sources say, read without importing them: parts, their options and first lines for `--help`, at no cost.

Importing torch takes seconds, which nobody should wait for who mistyped an option.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
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
    check: str = ""
    least: int = 0


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
    decides: bool
    """Whether it says itself when it is on."""
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


class Base(NamedTuple):
    """What a part may derive from, and what it then inherits."""

    kind: str
    key: str = ""
    options: tuple[Option, ...] = ()
    said: Mapping[str, Any] = MappingProxyType({})
    """Attribute → plain value."""


KINDS = {"float": float, "Number": float, "int": int, "bool": bool, "str": str}
"""Types of options, as sources spell them."""

SAID: dict[str, type] = {
    "text": str,
    "wanted": str,
    "name": str,
    "column": str,
    "check": str,
    "least": int,
    "after": str,
    "whole": bool,
}
"""What `option(...)` takes besides the default, and its type."""


def _called(node: ast.AST | None) -> str:
    """The last word of a name, whatever module stands before it."""
    return str(getattr(node, "id", "") or getattr(node, "attr", ""))


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Name in this file → the name where it was imported from."""
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {name.asname: name.name for node in imports for name in node.names if name.asname}


def _flat(key: str, field: str) -> str:
    return f"{key}_{field}" if key else field


def _inherited(made: Option, old: str, new: str) -> Option:
    """An option of a part `old` as one of a part `new` that derives from it."""
    if made.name != _flat(old, made.field):
        return made
    name = _flat(new, made.field)
    column = camel(name) if made.column == camel(made.name) else made.column
    return made._replace(name=name, column=column)


def _option(node: ast.stmt, key: str, aliases: Mapping[str, str]) -> Option | None:
    """The option that a line of a class makes, if it makes one.

    Raises:
        UsageError: If what it is does not stand there plainly.
    """
    call = getattr(node, "value", None)
    name = _called(call.func) if isinstance(call, ast.Call) else ""
    if not isinstance(call, ast.Call) or aliases.get(name, name) != "option":
        return None
    field = _target(node)
    where = f"the option {field} of {key}"
    if not isinstance(node, ast.AnnAssign):
        raise UsageError(f"{where} has no type; write {field}: float = option(...)")
    try:
        values = [ast.literal_eval(argument) for argument in call.args]
        said = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{where} cannot be read from its source; give it a plain type and plain values"
        ) from error
    said |= zip(("default", "text", "wanted"), values)
    default = said.pop("default", ...)
    if unknown := sorted(said.keys() - SAID.keys()):
        raise UsageError(f"{where} says {unknown[0]}, which no option has; leave it out")
    for name, value in said.items():
        if type(value) is not SAID[name]:
            raise UsageError(
                f"{where} has {name}={value!r}; it must be of type {SAID[name].__name__}"
            )
    if len(values) > 3 or default is ... or not said.get("text"):
        raise UsageError(
            f"{where} needs a default and a line for --help: option(0.0, 'what it is')"
        )
    words = [word.strip("'\" ") for word in ast.unparse(node.annotation).split("|")]
    kinds = {KINDS.get(word) for word in words if word != "None"}
    kind = float if kinds == {float, int} else kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise UsageError(
            f"{where} is of type {ast.unparse(node.annotation)}; an option is a float, an int, a bool or a str, with"
            " | None where it may be left open"
        )
    flat = said.pop("name", "") or _flat(key, field)
    column = said.pop("column", "") or camel(flat)
    text = said.pop("text")
    return Option(flat, field, kind, "None" in words, default, text, column=column, **said)


def _target(node: ast.stmt) -> str:
    """The name that a line gives a value; empty where it gives none."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return ""
    return _called(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _literals(body: Sequence[ast.stmt]) -> dict[str, Any]:
    """Names that a class body gives a plain value; None where it is another."""
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and (name := _target(node)):
            try:
                found[name] = ast.literal_eval(node.value)
            except (ValueError, TypeError):
                found[name] = None
    return found


def _class(
    node: ast.ClassDef, bases: Sequence[Base], kind: str, aliases: Mapping[str, str]
) -> Base:
    """A class with what it inherits, from its first base rather than from others."""
    own = _literals(node.body)
    key = own.get("key", "")
    if not isinstance(key, str):
        raise UsageError(f"the key of the class {node.name} is no plain text; write it out")
    said: dict[str, Any] = {}
    options: dict[str, Option] = {}
    for base in reversed(bases):
        said |= base.said
        options |= {made.field: _inherited(made, base.key, key) for made in base.options}
    made_here = (_option(line, key, aliases) for line in node.body)
    options |= {made.field: made for made in made_here if made}
    # Since when it is there is its own affair.
    said = {name: value for name, value in said.items() if name not in ("key", "since")} | own
    if any(isinstance(line, ast.FunctionDef) and line.name == "on" for line in node.body):
        said["decides"] = True
    return Base(kind or bases[0].kind, key, tuple(options.values()), said)


def declarations(
    text: str, module: str, kind: str, base_of: Callable[[str], Base | None]
) -> Iterator[Declared]:
    """Parts in a source.

    Args:
        text: The source.
        module: Where it is imported from; of a plug-in its file.
        kind: Of its package; empty in a plug-in.
        base_of: Name of a class → what it is; None where it is none that parts derive from.

    Raises:
        SyntaxError: If it is no Python.
        UsageError: If a part says what only running it would tell, or derives from what is not known.
    """
    tree = ast.parse(text)
    aliases = _aliases(tree)
    classes: dict[str, Base] = {}
    for node in tree.body:
        made = Base("")
        documented: Any = node
        if isinstance(node, ast.ClassDef):
            names = [aliases.get(name, name) for name in map(_called, node.bases)]
            bases = [base for name in names if (base := classes.get(name) or base_of(name))]
            has_key = "key" in _literals(node.body)
            if has_key and not (kind or bases):
                raise UsageError(
                    f"the class {node.name} has a key but derives from {' and '.join(names) or 'nothing'}, which is no"
                    " base or part of dpsnn, nor in this file; derive from one, or give the attribute another name"
                )
            if bases or has_key:
                classes[node.name] = made = _class(node, bases, kind, aliases)
            if not has_key:
                continue
        elif isinstance(node, ast.FunctionDef):
            marks = {aliases.get(name, name) for name in map(_called, node.decorator_list)}
            made = Base(next(iter(marks & {"network", "decoder"}), ""), node.name)
        elif _target(node) == "STUDY":
            # Of a folder or a file, whose name it has.
            key, documented = re.split(r"[./]", module.removesuffix(".py"))[-1], tree
            order = re.search(r"\border=(\d+)", ast.unparse(node))
            made = Base("study", key, said={"order": int(order[1])} if order else {})
        if not made.kind:
            continue
        doc = ast.get_docstring(documented) or ""
        yield Declared(
            made.kind,
            made.key,
            getattr(node, "name", "STUDY"),
            " ".join(doc.split("\n\n")[0].split()),
            ", ".join(dict.fromkeys(re.findall(r"arXiv [\w./-]+\d", doc))),
            made.options,
            made.said.get("version", 1),
            made.said.get("since", 3),
            made.said.get("heading") or made.key,
            made.said.get("order", 50),
            made.said.get("always", False),
            made.said.get("decides", False),
            module,
        )
