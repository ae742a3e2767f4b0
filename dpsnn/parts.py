"""What a part is: one file that describes itself, from which options, checks, names, columns and tables follow.

A part is a class with a `key` (a defence, an attack, a data set), or a function marked by its kind (a network, a
decoder). `dpsnn.registry` finds them.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, ClassVar, get_args

from dpsnn.errors import Lacking, UsageError
from dpsnn.numbers import (  # noqa: F401
    LARGEST,
    Number,
    check_count,
    check_number,
)
from dpsnn.registry import (  # noqa: F401  who writes a part needs no other door
    Registry,
    declared,
    decoder,
    find,
    located,
    network,
    plugin_words,
    refused,
    require,
    use,
)
from dpsnn.source import KINDS, Declared, Option, camel  # noqa: F401

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
    whole: bool = False,
) -> Any:
    """A dataclass field with what follows from it; in a part all arguments are literals, read from the source.

    Args:
        default: Of the field, and of the option; of a defence's first option off, of a bool False.
        text: A line for `--help`.
        wanted: What is said to who gives no number of the right kind.
        name: Of the option, where it is not the part's key with the field's name; no other option has it.
        column: Of tables, where it is not the option's name in CamelCase; nothing else has it.
        check: Of floats: `positive`, `share` (from 0 to below 1) or `free`; the usual is finite and not
            negative.
        least: Smallest whole number.
        after: Option of an attacker, `model_...`, by which the value may differ from that of training.
        whole: Whether it needs the whole training in one place, which clients who train together do not have.
    """
    about = dict(
        help=text,
        wanted=wanted,
        name=name,
        column=column,
        check=check,
        least=least,
        after=after,
        whole=whole,
    )
    return field(default=default, metadata=about)


def spell(number: Number) -> str:
    """A number without its decimal point: 0.5 → `05`, 1.0 → `10`, 0.05 → `005`, 0 → `00`."""
    digits = format(Decimal(repr(float(number) + 0.0)), "f")  # + 0.0: -0.0 is 0 too
    return digits.replace(".", "") if "." in digits else f"{digits}0"


# ---------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class Part:
    """Settings of one part, plain values; what they mean for names, tables and texts follows from the fields.

    Attributes:
        key: Small letters, digits and _, unique among parts of the kind; options are `--key_field`.
        version: Raised when behaviour changes; stored in checkpoints and part of equality.
        since: Format of checkpoints whose files always say its settings, for parts of this package; of later ones only
            where it is on.
        earlier: Versions before it whose behaviour is still there.
        unsaid: The last version that names do not say.
        heading: Of its options in `--help`; the key where empty.
        label: In legends; the key where empty.
        order: Where it stands among others: in names, tables and, for defences, on the wire.
        always: Whether names and tables say its first field also where that is 0, as those published do.
        tabled: Whether tables do.

    Raises:
        UsageError: If a value is out of range.
    """

    kind: ClassVar[str]
    key: ClassVar[str]
    version: ClassVar[int] = 1
    since: ClassVar[int] = 3
    earlier: ClassVar[tuple[int, ...]] = ()
    unsaid: ClassVar[int] = 1
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
            if value is None or isinstance(value, bool):
                continue
            if isinstance(value, str):
                if not re.fullmatch(r"[\w.,+-]*", value):
                    raise UsageError(
                        f"{name} is {value!r}; it must be of letters, digits and . , + - _, as names of files are made"
                        " of it"
                    )
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
            Lacking: If there was none, or what it did can no longer be done.
        """
        if version == self.version:
            return dataclasses.replace(self, was=0)
        if version not in self.earlier:
            raise Lacking(
                f"version {version} of the {self.kind} {self.key} is not known here, only"
                f" {', '.join(map(str, (*self.earlier, self.version)))}; use the one that wrote it, or train again"
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
        shown = value if isinstance(value, str) else f"{value:g}"
        return "" if not self.on else named if value is True else f"{named} {shown}"

    def __reduce__(self) -> Any:
        # By key: what a process started by this one must find anew is not the module of a plug-in.
        return _remade, (self.kind, self.key, dataclasses.asdict(self))


def _remade(kind: str, key: str, values: dict[str, Any]) -> Part:
    made: Part = find(kind, key)(**values)
    return made


def types_of(each: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """What a field may hold, by type; what was written as text, as it is under postponed annotations, is read."""
    if isinstance(each.type, str):
        words = (word.strip() for word in each.type.split("|"))
        return tuple(KINDS.get(word, type(None)) for word in words)
    return get_args(each.type) or (each.type,)
