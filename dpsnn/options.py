"""Options made from the fields of dataclasses, and dataclasses made from options; nothing here imports torch.

Also how the command line speaks: under which heading an option stands, and what is said of a mistyped one.
"""

import argparse
import contextlib
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dpsnn import parts
from dpsnn.devices import STRATEGIES, Devices
from dpsnn.errors import UsageError, meant, one_of
from dpsnn.federated.spec import FederatedSpec
from dpsnn.folders import Folders
from dpsnn.parts import Option
from dpsnn.specs import (
    ACCOUNTANTS,
    NORMS,
    PRECISIONS,
    AttackerSpec,
    ClassifierSpec,
    afterwards,
    settings,
)

Spec = TypeVar("Spec", ClassifierSpec, AttackerSpec, FederatedSpec, Folders, Devices)


def choices() -> dict[str, list[str]]:
    """Option → what may be chosen."""
    found = {
        name: sorted(each.key for each in parts.declared(kind))
        for name, kind in (
            ("dataset", "dataset"),
            ("surrogate", "dataset"),
            ("network", "network"),
            ("decoder", "decoder"),
        )
    }
    return {
        **found,
        "attack": [each.key for each in parts.declared("attack")],
        "precision": list(PRECISIONS),
        "strategy": list(STRATEGIES),
        "norm": [name for name in NORMS if name],
        "dp_accountant": list(ACCOUNTANTS),
    }


SECTIONS = {
    "data and model": ("model", "dataset", "network", "cut", "norm", "dropout", "validator"),
    "attack": (
        "attack",
        "surrogate",
        "data_pct",
        "decoder",
        "naive",
        "queries",
        "steps",
        "restarts",
        "iterations",
    ),
    "clients": ("clients", "rounds", "local_epochs", "skew", "drop", "timeout", "secure", "plain"),
    # Above and below the training those of the defences, under headings of their own.
    "training": (
        "max_epochs",
        "attacker_epochs",
        "learning_rate",
        "batch_size",
        "seed",
        "seeds",
        "precision",
        "sgd_momentum",
        "constant_rate",
        "fixed_order",
    ),
    "where it runs": (
        "jobs",
        "engine",
        "threads",
        "gpus_per_job",
        "ray_address",
        "slurm",
        "devices",
        "strategy",
    ),
    "files that fill options in": ("plugin", "config", "like"),
    "folders and logs": ("data_dir", "models_dir", "results_dir", "wandb"),
}
"""Headings of `--help` and the options below them, most used first; all others stand above."""


IN_TRAINING = 40
"""Order from which on defences act in the training: their headings stand below its own."""


def _extend(found: dict[str, list[str]], group: Iterable[parts.Declared]) -> None:
    """Put the options of parts that have no place above below the headings of their own."""
    known = {name for names in SECTIONS.values() for name in names}
    for each in group:
        names = [made.name for made in each.options if made.name not in known]
        if names:
            found.setdefault(each.heading, []).extend(names)


def sections() -> dict[str, list[str]]:
    """All headings with the options below them, those of the defences above and below the training."""
    found: dict[str, list[str]] = {}
    defences = parts.declared("defence")
    for title, names in SECTIONS.items():
        if title == "training":
            _extend(found, parts.declared("attack"))
            _extend(found, [each for each in defences if each.order < IN_TRAINING])
        found[title] = list(names)
        if title == "training":
            _extend(found, [each for each in defences if each.order >= IN_TRAINING])
        if title == "attack":
            found[title] += afterwards()
    return found


class Parser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line, and what was meant; options stand under their headings."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._sections: dict[str, Any] = {}
        self._names: list[str] = []
        super().__init__(*args, **{"allow_abbrev": False, **more})

    def _section(self, name: str) -> Any:
        """The heading that an option stands under, or None; all are made with the first option, in their order."""
        if not self._sections:
            for title, names in sections().items():
                group = self.add_argument_group(title)
                self._sections |= dict.fromkeys(names, group)
        return self._sections.get(name)

    def add_argument(self, *names: Any, **more: Any) -> argparse.Action:
        self._names += names
        # Help, its first, belongs to no heading.
        section = self._section(str(names[0]).lstrip("-")) if names and names[0] != "-h" else None
        if section is None:
            return super().add_argument(*names, **more)
        action: argparse.Action = section.add_argument(*names, **more)
        return action

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but what is unknown is said here, by the command that does not know it."""
        first = next(iter(sys.argv[1:] if args is None else args), "")
        name = first.partition("=")[0]
        # What follows it would be taken for the command.
        if self._subparsers and name.startswith("-") and name not in self._names:
            hint = meant(name, self._names) or "; options stand after the command"
            self.error(f"unrecognized arguments: {first}{hint}")
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            word = next((word for word in rest if word.startswith("-")), rest[0])
            hint = meant(word.partition("=")[0], self._names) if word.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        return namespace, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = meant(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from error

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def listed(said: Mapping[str, str], sections: Mapping[str, Sequence[str]]) -> str:
    """Commands under their headings with a line or two each.

    Args:
        said: What each command does.
        sections: Heading → commands.
    """
    indent = 4 + max(map(len, said))
    width = max(indent + 20, shutil.get_terminal_size().columns - 2)
    lines: list[str] = []
    for title, names in sections.items():
        lines += ["", f"{title}:"] if lines else [f"{title}:"]
        for name in names:
            head = f"  {name}".ljust(indent)
            lines += textwrap.wrap(
                said[name], width, initial_indent=head, subsequent_indent=" " * indent
            )
    return "\n".join(lines)


class Version(argparse.Action):
    """Say which versions are installed, and end."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        said = [f"Python {platform.python_version()}"]
        for name in ("pytorch-lightning", "torch", "dpsnn"):
            with contextlib.suppress(metadata.PackageNotFoundError):
                said.insert(0, f"{name} {metadata.version(name)}")
        print(", ".join(said))
        raise SystemExit(0)


class WholeNumbers(argparse.Action):
    """Whole numbers with blanks between them, or commas."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        parts = [part for word in values for part in word.strip(",").split(",")]
        try:
            setattr(namespace, self.dest, [int(part) for part in parts])
        except ValueError:
            wrong = f"invalid int value: {' '.join(values)!r}; name whole numbers: {option_string} 0 1 2"
            raise argparse.ArgumentError(self, wrong) from None


def _reader(made: Option) -> Callable[[str], Any]:
    """Makes the value out of what was typed; of some options it says what is wanted where that does not work."""
    if not made.wanted:
        return made.kind

    def read(text: str) -> Any:
        try:
            return made.kind(text)
        except ValueError as error:
            wrong = f"invalid {made.kind.__name__} value: {text!r}; it must be {made.wanted}"
            raise argparse.ArgumentTypeError(wrong) from error

    return read


def add_options(parser: argparse.ArgumentParser, spec: type, only: Sequence[str] = ()) -> None:
    """Make an option of each setting of a spec: the default, the type and the help stand there."""
    order = {name: at for at, name in enumerate(n for names in sections().values() for n in names)}
    allowed = choices()
    for made in sorted(settings(spec), key=lambda made: order.get(made.name, -1)):
        if only and made.name not in only:
            continue
        text = made.text.replace("%", "%%")
        if made.kind is bool:
            parser.add_argument(f"--{made.name}", action="store_true", help=text)
            continue
        if made.name in allowed:
            text += f": {', '.join(allowed[made.name])}"
        default = "" if made.default in (None, "") else " [%(default)s]"
        parser.add_argument(
            f"--{made.name}",
            type=_reader(made),
            default=made.default,
            metavar=made.name.split("_")[-1].upper(),
            help=f"{text}{default}",
        )


def check_choices(options: argparse.Namespace) -> None:
    """Raise UsageError unless every value that comes from a list is on it."""
    for name, allowed in choices().items():
        if value := getattr(options, name, None):
            one_of(value, allowed, name)


def check_data_dir(options: argparse.Namespace) -> None:
    """Raise UsageError where the mirror would silently stand in for a data folder that was named and is not there."""
    folder = getattr(options, "data_dir", Folders.data_dir)
    mirror = os.environ.get("DPSNN_DATA_MIRROR")
    if mirror and folder != Folders.data_dir and not Path(folder).is_dir():
        raise UsageError(
            f"there is no data folder {folder}, and the mirror {mirror} would silently take its place; correct"
            " --data_dir, make the folder, or leave the option out to read from the mirror"
        )


def spec_from(spec: type[Spec], options: argparse.Namespace, **override: Any) -> Spec:
    """Build a spec from the options of the same names; its own checks apply."""
    every = (made.name for made in settings(spec))
    given = {name: getattr(options, name) for name in every if hasattr(options, name)}
    return spec(**{**given, **override})
