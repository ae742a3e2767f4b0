"""Options made from the fields of dataclasses, and dataclasses made from options; nothing here imports torch."""

import argparse
import types
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, TypeVar, get_args

from dpsnn import source
from dpsnn.errors import one_of
from dpsnn.federated.spec import FederatedSpec
from dpsnn.folders import Folders
from dpsnn.specs import (
    ACCOUNTANTS,
    ATTACKS,
    DECODERS,
    NORMS,
    PRECISIONS,
    AttackerSpec,
    ClassifierSpec,
)

Spec = TypeVar("Spec", ClassifierSpec, AttackerSpec, FederatedSpec, Folders)

CHOICES = {
    "dataset": sorted(source.keys("dpsnn.data", "DATASETS")),
    "surrogate": sorted(source.keys("dpsnn.data", "DATASETS")),
    "network": sorted(source.keys("dpsnn.networks", "NETWORKS")),
    "attack": list(ATTACKS),
    "decoder": list(DECODERS),
    "precision": list(PRECISIONS),
    "norm": [name for name in NORMS if name],
    "dp_accountant": list(ACCOUNTANTS),
}


def _value_type(field: Field[Any]) -> Any:
    """int, float or str, also for an optional field."""
    if isinstance(field.type, types.UnionType):
        return next(t for t in get_args(field.type) if t is not type(None))
    return field.type


def add_options(parser: argparse.ArgumentParser, spec: type, only: Sequence[str] = ()) -> None:
    """Make an option of each field of a dataclass: the default, the type and the help stand there."""
    for field in fields(spec):
        if only and field.name not in only:
            continue
        text = field.metadata["help"].replace("%", "%%")
        if field.type is bool:
            parser.add_argument(f"--{field.name}", action="store_true", help=text)
            continue
        if field.name in CHOICES:
            text += f": {', '.join(CHOICES[field.name])}"
        default = "" if field.default in (None, "") else " [%(default)s]"
        parser.add_argument(
            f"--{field.name}",
            type=_value_type(field),
            default=field.default,
            metavar=field.name.split("_")[-1].upper(),
            help=f"{text}{default}",
        )


def check_choices(options: argparse.Namespace) -> None:
    """Raise UsageError unless every value that comes from a list is on it."""
    for name, allowed in CHOICES.items():
        if value := getattr(options, name, None):
            one_of(value, allowed, name)


def spec_from(spec: type[Spec], options: argparse.Namespace, **override: Any) -> Spec:
    """Build a spec from the options of the same names; its own checks apply."""
    given = {f.name: getattr(options, f.name) for f in fields(spec) if hasattr(options, f.name)}
    return spec(**{**given, **override})
