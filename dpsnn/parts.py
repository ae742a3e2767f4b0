"""What a part is: one file that describes itself, from which options, checks, names, columns and tables follow.

A part is a class with a `key` (a defence, an attack, a data set), or a function marked by its kind (a network, a
decoder). Parts are found by walking the files of their package; those of others by the entry points `dpsnn.parts`, or
as plug-ins that a user names. What `--help` shows is read from the source, so that nobody waits for torch; a part is
imported when it is used, and one whose own dependency is missing is listed with the reason and breaks nothing.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args

from dpsnn.errors import UsageError, choose
from dpsnn.numbers import Number

PACKAGES = {
    "dataset": "dpsnn.data",
    "network": "dpsnn.networks",
    "decoder": "dpsnn.networks",
    "defence": "dpsnn.defences",
    "attack": "dpsnn.attacks",
    "study": "dpsnn.studies",
}
"""Kind of part → the package whose files are walked for it."""

BASES = {"Defence": "defence", "Attack": "attack", "ImageDataModule": "dataset"}
"""What a class that is a part derives from → its kind."""

PLUGINS = "DPSNN_PLUGINS"
"""Environment variable with the plug-ins that the user named, for the processes that this one starts."""

GROUP = "dpsnn.parts"
"""Entry points by which an installed package offers the parts in one of its modules."""

LARGEST = 2**31 - 1
"""Of whole numbers: beyond it some of torch's generators and loops overflow."""

Made = TypeVar("Made", bound=Callable[..., Any])

# ---------------------------------------------------------------- fields


def option(
    default: Any,
    text: str,
    wanted: str = "",
    *,
    name: str = "",
    column: str = "",
    check: str = "",
    least: int = 0,
    after: str = "",
) -> Any:
    """A dataclass field with what follows from it; in a part all arguments are literals, read from the source.

    Args:
        default: Of the field, and of the option.
        text: A line for `--help`.
        wanted: What is said to who gives no number of the right kind.
        name: Of the option, where it is not the part's key with the field's name.
        column: Of tables, where it is not the option's name in CamelCase.
        check: Of numbers: `positive`, `share` (from 0 to below 1) or `free`; the usual is finite and not negative.
        least: Smallest whole number.
        after: Option of an attacker, `model_...`, by which the value may differ from that of training.
    """
    about = dict(
        help=text,
        wanted=wanted,
        name=name,
        column=column,
        check=check,
        least=least,
        after=after,
    )
    return field(default=default, metadata=about)


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


def check_number(value: Number, name: str, check: str = "") -> None:
    """Raise UsageError unless a number is finite and not negative, `positive`, or a `share` below 1."""
    if check == "free":
        return
    if check == "share":
        if not 0 <= value < 1:
            percent = f": {value:g} % is {value / 100:g}" if 1 < value < 100 else ""
            raise UsageError(f"{name} is {value}; it must be from 0 to below 1, a share{percent}")
        return
    positive = check == "positive"
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        bound = "greater than 0" if positive else "0 or greater"
        raise UsageError(f"{name} is {value}; it must be a finite number, {bound}")


def check_count(value: Any, name: str, least: int) -> None:
    """Raise UsageError unless this is a whole number of at least `least` that generators and loops can take."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
        raise UsageError(
            f"{name} is {value!r}; it must be a whole number from {least} to {LARGEST}"
        )


def spell(number: Number) -> str:
    """A number without its decimal point: 0.5 → `05`, 1.0 → `10`, 0.05 → `005`, 0 → `00`."""
    digits = format(Decimal(repr(float(number) + 0.0)), "f")  # + 0.0: -0.0 is 0 too
    return digits.replace(".", "") if "." in digits else f"{digits}0"


def camel(name: str) -> str:
    """`noise_scale` → `NoiseScale`."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


# ---------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class Part:
    """Settings of one part, plain values; what they mean for names, tables and texts follows from the fields.

    Attributes:
        key: Unique among parts of the kind; options are `--key_field`.
        version: Raised when behaviour changes; stored in checkpoints and part of equality.
        since: Format of checkpoints whose files always say its settings; of later ones only where it is on.
        earlier: Versions before it whose behaviour is still there.
        heading: Of its options in `--help`; the key where empty.
        label: In legends; the key where empty.
        order: Where it stands among others: in names, tables and, for defences, on the wire.
        always: Whether names and tables say its first field also where that is 0, as published.
        tabled: Whether tables do.

    Raises:
        UsageError: If a value is out of range.
    """

    kind: ClassVar[str]
    key: ClassVar[str]
    version: ClassVar[int] = 1
    since: ClassVar[int] = 3
    earlier: ClassVar[tuple[int, ...]] = ()
    heading: ClassVar[str] = ""
    label: ClassVar[str] = ""
    order: ClassVar[int] = 50
    always: ClassVar[bool] = False
    tabled: ClassVar[bool] = False

    was: int = 0
    """An earlier version, whose behaviour this is; 0 is the present one."""

    def __post_init__(self) -> None:
        for each in self.own_fields():
            value, about, name = getattr(self, each.name), each.metadata, self.flat(each.name)
            if value is None or isinstance(value, str | bool):
                continue
            if float in types_of(each):
                check_number(value, name, about["check"])
            else:
                check_count(value, name, about["least"])

    @classmethod
    def own_fields(cls) -> list[dataclasses.Field[Any]]:
        """Those that are options."""
        return [each for each in fields(cls) if "help" in each.metadata]

    @classmethod
    def flat(cls, name: str) -> str:
        """The option of a field."""
        (about,) = (each.metadata for each in fields(cls) if each.name == name)
        return about["name"] or f"{cls.key}_{name}"

    @classmethod
    def column(cls, name: str) -> str:
        """The column of a field."""
        (about,) = (each.metadata for each in fields(cls) if each.name == name)
        return about["column"] or camel(cls.flat(name))

    @property
    def on(self) -> bool:
        """Whether it does anything: by default, whether its first field is neither 0 nor empty."""
        own = self.own_fields()
        return not own or bool(getattr(self, own[0].name))

    @property
    def present(self) -> int:
        """The version whose behaviour this is."""
        return self.was or self.version

    def aged(self, version: int) -> "Part":
        """The same settings as they were in an earlier version.

        Raises:
            UsageError: If there was none, or what it did can no longer be done.
        """
        if version == self.version:
            return dataclasses.replace(self, was=0)
        if version not in self.earlier:
            raise UsageError(
                f"version {version} of the {self.kind} {self.key} is not known here, only"
                f" {', '.join(map(str, (*self.earlier, self.version)))}; use the dpsnn that wrote it, or train again"
            )
        return dataclasses.replace(self, was=version)

    def flattened(self) -> dict[str, Any]:
        """Option → value."""
        return {self.flat(each.name): getattr(self, each.name) for each in self.own_fields()}

    def token(self) -> str:
        """Its part of a checkpoint's name: the first field's value with the key, then others off their defaults."""
        own = self.own_fields()
        tokens = [f"_{self._spelled(own[0])}{self.key}" if own else f"_{self.key}"]
        tokens += [
            f"_{self._spelled(each)}{each.name.replace('_', '')}"
            for each in own[1:]
            if getattr(self, each.name) != each.default
        ]
        return "".join(tokens if self.on else tokens[:1] if self.always else [])

    def _spelled(self, each: dataclasses.Field[Any]) -> str:
        """A setting as it stands in a name."""
        value = getattr(self, each.name)
        if isinstance(value, bool):
            return ""
        return spell(value) if float in types_of(each) else str(value)

    def later_token(self) -> str:
        """What names did not say once, behind what they always said."""
        return ""

    def once(self) -> "Part":
        """Settings of the same name in the time when names said less."""
        return self

    @classmethod
    def as_then(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What an older file that lacks these options meant, where that is not today's default.

        Args:
            arguments: Of the file, by flat name.
        """
        return {}

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Column → value for tables; None where it says nothing.

        Args:
            record: What came of the training, as in the checkpoint.
        """
        cells = {}
        for each in self.own_fields():
            value = getattr(self, each.name)
            first = each.name == self.own_fields()[0].name
            said = self.on or (first and (self.always or self.tabled))
            cells[self.column(each.name)] = value if said and value is not False else None
        return cells

    def legend(self) -> str:
        """A word and a number for legends and tables; empty where it is off."""
        first = self.own_fields()[0] if self.own_fields() else None
        value = getattr(self, first.name) if first else True
        named = self.label or self.key
        return "" if not self.on else named if value is True else f"{named} {value:g}"

    def __reduce__(self) -> Any:
        # By key: what a process started by this one must find anew is not the module of a plug-in.
        return _remade, (self.kind, self.key, dataclasses.asdict(self))


def _remade(kind: str, key: str, values: dict[str, Any]) -> Part:
    made: Part = find(kind, key)(**values)
    return made


def types_of(each: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """What a field may hold, by type."""
    return get_args(each.type) or (each.type,)


# ---------------------------------------------------------------- what the source says


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


def _declarations(text: str, module: str, kind: str) -> Iterator[Declared]:
    """Parts in a source; `kind` is that of its package, empty in a plug-in."""
    tree = ast.parse(text)
    for node in tree.body:
        documented: Any = node
        said = _literals(node.body) if isinstance(node, ast.ClassDef) else {}
        if isinstance(node, ast.ClassDef) and isinstance(said.get("key"), str):
            bases = [getattr(base, "id", getattr(base, "attr", "")) for base in node.bases]
            of = kind or next((BASES[b] for b in bases if b in BASES), "") or _kind_of(bases)
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


def _kind_of(bases: Sequence[str]) -> str:
    """Of a class that derives from a part of ours."""
    return next((d.kind for kind in PACKAGES for d in _own(kind) if d.name in bases), "")


@functools.cache
def _own(kind: str) -> tuple[Declared, ...]:
    """Parts of this package."""
    package = PACKAGES[kind]
    folder = Path(__file__).parent / package.split(".")[1]
    found = []
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
        text = path.read_text(encoding="utf-8")
        name = path.stem if path.parent == folder else path.parent.name
        if "key = " in text or "@" in text or "STUDY = " in text:
            for declared in _declarations(text, f"{package}.{name}", kind):
                if declared.kind == kind:
                    found.append(declared)
    return tuple(sorted(found, key=lambda each: (each.order, each.key)))


def plugins() -> list[str]:
    """Files that the user named."""
    return [path for path in os.environ.get(PLUGINS, "").split(os.pathsep) if path]


def use(path: str | Path) -> None:
    """Let the parts in a file be known to this process and to those that it starts.

    Raises:
        UsageError: If it cannot be read, holds no part, or one with a name that is taken.
    """
    file = Path(path).resolve()
    if str(file) in plugins():
        return
    before = {(each.kind, each.key) for kind in PACKAGES for each in declared(kind)}
    for each in _read(str(file)):
        if (each.kind, each.key) in before:
            raise UsageError(
                f"{path} brings the {each.kind} {each.key}, which there is already; give it another key"
            )
    os.environ[PLUGINS] = os.pathsep.join([*plugins(), str(file)])


@functools.cache
def _read(path: str) -> tuple[Declared, ...]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = tuple(_declarations(text, path, ""))
    except OSError as error:
        raise UsageError(
            f"cannot read the plug-in {path} ({error.strerror}); name a Python file"
        ) from error
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"the plug-in {path} is no Python: {error}; mend it") from error
    if not found:
        raise UsageError(
            f"the plug-in {path} holds no part: no class with a key that derives from one of {sorted(BASES)}, no"
            " function marked @network or @decoder, and no STUDY"
        )
    return found


@functools.cache
def _installed() -> tuple[Declared, ...]:
    """Parts of other packages, by their entry points."""
    found: list[Declared] = []
    for point in metadata.entry_points(group=GROUP):
        try:
            spec = importlib.util.find_spec(point.module)
            text = Path(str(spec.origin)).read_text(encoding="utf-8") if spec else ""
            found += _declarations(text, point.module, "")
        except (ImportError, OSError, SyntaxError, ValueError):
            continue  # a package of others that is broken breaks nothing of ours
    return tuple(found)


def declared(kind: str) -> list[Declared]:
    """All parts of a kind: our own in their order, then those of packages and plug-ins."""
    others = [*_installed(), *(each for path in plugins() for each in _read(path))]
    return [*_own(kind), *(each for each in others if each.kind == kind)]


# ---------------------------------------------------------------- what is imported


@functools.cache
def _module(name: str) -> Any:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"dpsnn_plugin_{Path(name).stem}", name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def find(kind: str, key: str) -> Any:
    """The class or function of a part, imported now.

    Raises:
        UsageError: If there is none, or what it needs is missing.
    """
    known = {each.key: each for each in declared(kind)}
    each = choose(known, key, kind)
    try:
        return getattr(_module(each.module), each.name)
    except ImportError as error:
        raise UsageError(
            f"the {kind} {key} cannot be used here: {error}; install what it needs"
        ) from error


def located(kind: str, name: str) -> tuple[Declared, Option] | None:
    """The part and the option of a flat name."""
    for each in declared(kind):
        for made in each.options:
            if made.name == name:
                return each, made
    return None


class Registry(Mapping[str, Any]):
    """Parts of a kind by key; each is imported when it is asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getitem__(self, key: str) -> Any:
        if not any(each.key == key for each in declared(self.kind)):
            raise KeyError(key)
        return find(self.kind, key)

    def __iter__(self) -> Iterator[str]:
        return iter([each.key for each in declared(self.kind)])

    def __len__(self) -> int:
        return len(declared(self.kind))


def marker(kind: str) -> Callable[[Made], Made]:
    """A decorator that makes a part of a function; its name is the key.

    Args:
        kind: `network` or `decoder`.
    """

    def mark(function: Made) -> Made:
        function.__dict__["kind"] = kind
        return function

    return mark


network, decoder = marker("network"), marker("decoder")

__all__ = [
    "Declared",
    "Option",
    "Part",
    "Registry",
    "declared",
    "decoder",
    "find",
    "network",
    "option",
    "use",
]
