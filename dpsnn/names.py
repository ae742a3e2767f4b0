"""What a model is called: made from its arguments alone, and never parsed back for values.

Whatever shapes a model and is not at its default adds a token, so that another value is another model. Left out is what
a machine decides (`precision`: refused where a file has another) and what says nothing beside the other arguments
(`settled`).
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from dpsnn import parts
from dpsnn.numbers import Number
from dpsnn.parts import Part, spell
from dpsnn.specs import (
    AttackerSpec,
    ClassifierSpec,
    as_written,
    default_of,
    of_attacks,
    of_versions,
    plain,
    replace,
    settings,
)

Spec = TypeVar("Spec", ClassifierSpec, AttackerSpec)
Kind = type[ClassifierSpec] | type[AttackerSpec]

TRAINING_TOKENS = {"max_epochs": "{}epochs", "learning_rate": "{n}rate", "batch_size": "{}batch"}
"""Tokens of what names did not say once, by field: `{}` is the value, `{n}` the number spelled."""

PUBLISHED = re.compile(r"\d+noise_\d+nopeek")
"""Stands in the name of every classifier, and hence of its attackers and its client half, as it was published."""


def _silent(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of its own that say nothing beside the others."""
    if "attack" in arguments:
        others = [n for n, (_, keys) in of_attacks().items() if arguments["attack"] not in keys]
        # What does not learn computes in float32.
        learns = parts.find("attack", arguments["attack"]).learns
        return tuple(others) if learns else (*others, "precision")
    # A validator has the network with which its data set is judged.
    return ("network",) if arguments["validator"] else ()


def settled(kind: Kind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments, those that say nothing beside the others at their defaults: of equal ones models are equal.

    Args:
        kind: The spec whose fields they are.
        arguments: As in a checkpoint; what it does not know yet had its default.
    """
    defaults = plain(kind())
    full = {**defaults, **(as_written(arguments) if kind is ClassifierSpec else arguments)}
    full |= {name: defaults[name] for name in _silent(full) if name in defaults}
    return {**full, **(_without_idle_parts(full) if kind is ClassifierSpec else {})}


def _without_idle_parts(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of defences that do nothing."""
    found: dict[str, Any] = {}
    for each in parts.declared("defence"):
        default = {made.name: made.default for made in each.options}
        own = {made.field: arguments.get(made.name, made.default) for made in each.options}
        if (
            list(own.values()) != list(default.values())
            and not parts.find("defence", each.key)(**own).on
        ):
            found |= default
    return found


def _settled_spec(spec: Spec) -> Spec:
    arguments = plain(spec)
    changed = {k: v for k, v in settled(type(spec), arguments).items() if v != arguments[k]}
    return replace(spec, **changed)


def _trained(spec: ClassifierSpec | AttackerSpec) -> str:
    """What of the training is not at its default."""
    tokens = ""
    for name, token in TRAINING_TOKENS.items():
        value = getattr(spec, name)
        if value != default_of(type(spec), name):
            tokens += f"_{token.format(value, n=spell(value))}"
    return tokens


def _later(*used: Part) -> str:
    """A part of a later version is another part."""
    return "".join(f"_{part.key}v{part.present}" for part in used if part.present > part.unsaid)


def _once(*used: Part) -> str:
    """What a part of a version that names no longer say is called, where a present one has taken its name."""
    return "".join(f"_{part.key}v{part.present}" for part in used if part.present < part.unsaid)


def classifier_name(spec: ClassifierSpec) -> str:
    """File name without `_epoch=XX.ckpt`; anything that is not the default adds a token."""
    spec = _settled_spec(spec)
    later = "".join(part.later_token() for part in spec.defences)
    return _classifier_name(spec, f"{_later(*spec.active)}{later}{_trained(spec)}")


def _classifier_name(spec: ClassifierSpec, later: str) -> str:
    said = {part.key: part for part in spec.defences}
    for each in parts.declared("defence"):
        if each.always and each.key not in said:
            said[each.key] = parts.find("defence", each.key)()
    # Those that every name says stand first.
    ordered = sorted(said.values(), key=lambda part: (not part.always, part.order, part.key))
    tokens = [
        "attack_validation_" if spec.validator else "",
        spec.dataset,
        *(part.token() for part in ordered),
    ]
    if spec.network != ClassifierSpec.network and not spec.validator:
        tokens.append(f"_{spec.network}")
    if spec.cut:
        tokens.append(f"_{spec.cut}cut")
    if spec.norm:
        tokens.append(f"_{spec.norm}norm")
    if spec.dropout is not None:
        tokens.append(f"_{spell(spec.dropout)}dropout")
    if spec.sgd_momentum is not None:
        tokens.append(f"_{spell(spec.sgd_momentum)}sgd")
    if spec.constant_rate:
        tokens.append("_constantrate")
    if spec.fixed_order:
        tokens.append("_fixedorder")
    tokens.append(later)
    if spec.seed:
        tokens.append(f"_seed{spec.seed}")
    return "".join(tokens)


def federated_name(spec: ClassifierSpec, clients: int, mode: str, skew: Number, drop: int) -> str:
    """File name, without `_epoch=XX.ckpt`, of a classifier that several clients trained; the usual mode is `secure`."""
    return classifier_name(spec) + _federated(clients, mode, skew, drop)


def _federated(clients: int, mode: str, skew: Number, drop: int) -> str:
    parts = [f"_federated{clients}"]
    if mode != "secure":
        parts.append(mode)
    if skew:
        parts.append(f"_{spell(skew)}skew")
    if drop:
        parts.append(f"_{drop}dropped")
    return "".join(parts)


def attacker_name(spec: AttackerSpec) -> str:
    """File name without `.ckpt`; `spec.model` is the classifier's with its epoch."""
    spec = _settled_spec(spec)
    return _attacker_name(spec, f"{_later(spec.method)}{_trained(spec)}")


def _attacker_name(spec: AttackerSpec, later: str) -> str:
    tokens = [f"{spec.surrogate}_attacker"]
    if spec.attack != AttackerSpec.attack:
        tokens.append(f"_{spec.attack}")
    tokens.append(spec.method.token())
    if spec.cut:
        tokens.append(f"_{spec.cut}cut")
    tokens.append(spec.method.amounts())
    if spec.queries != 1:
        tokens.append(f"_{spec.queries}queries")
    if spec.data_pct != 100:
        tokens.append(f"_{spec.data_pct}datapct")
    tokens.append(later)
    if spec.seed:
        tokens.append(f"_seed{spec.seed}")
    tokens.append(f"_model<{spec.model}>")
    for name, value in spec.changes:
        place = parts.located("defence", name)
        assert place is not None
        tokens.append(f"_set{spell(value)}{place[0].key}")
    return "".join(tokens)


def names_of(
    kind: Kind, arguments: Mapping[str, Any], versions: Mapping[str, int] | None = None
) -> list[str]:
    """Every name that these arguments have had, newest first; classifiers' without `_epoch=XX`.

    Names did not say epochs, step size, batch size and some settings of defences once. The last name is the one that an
    attacker of an earlier version is given when a present one takes its name.

    Args:
        kind: The spec whose fields they are.
        arguments: As in a checkpoint; of a federated classifier also the fields `federated_...`.
        versions: Of its parts, by key; None: the present ones.

    Raises:
        UsageError: If an argument is out of range.
    """
    whole = settled(kind, arguments)
    known = {made.name for made in settings(kind)}
    spec = kind(**{name: value for name, value in whole.items() if name in known})
    if versions is not None:
        spec = of_versions(spec, versions)
    # What is of a later version never had a name that does not say so.
    if isinstance(spec, AttackerSpec):
        once = [] if _later(spec.method) else [_attacker_name(spec, "")]
        names = [attacker_name(spec), *once]
        if aside := _once(spec.method):
            names.append(_attacker_name(spec, f"{aside}{_trained(spec)}"))
    else:
        unmarked = replace(spec, defences=tuple(part.once() for part in spec.defences))
        names = [classifier_name(each) for each in (spec, unmarked)]
        names.append(_classifier_name(unmarked, _later(*spec.active)))
    if "federated_clients" in whole:
        among = (whole[f"federated_{name}"] for name in ("clients", "mode", "skew", "drop"))
        tail = _federated(*among)
        names = [f"{name}{tail}" for name in names]
    return list(dict.fromkeys(names))


# ---------------------------------------------------------------- names beside one another


def seedless(name: str) -> str:
    """What repetitions with other seeds have in common: the name without seeds and the epochs that were best."""
    return re.sub(r"_seed\d+(?=[_>]|$)|_epoch=\d+(?=>|$)", "", name)


def longest(epochs: Mapping[str, Number]) -> set[str]:
    """Of models that differ in nothing but epochs, step size and batch size the one that was trained for longest.

    Args:
        epochs: By name of a classifier or an attacker, for how many epochs it was trained.
    """
    tokens = r"(_\d+epochs)?(_\d+rate)?(_\d+batch)?(?=(_seed\d+)?(_epoch=\d+)?(_model<.*)?$)"
    alike: dict[str, list[str]] = {}
    for name in epochs:
        family = re.sub(r"_epoch=\d+$", "", re.sub(tokens, "", name, count=1))
        alike.setdefault(family, []).append(name)
    return {max(names, key=lambda name: epochs[name]) for names in alike.values()}
