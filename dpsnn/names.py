"""What a model is called: made from its arguments alone, and never parsed back for values.

Whatever shapes a model and is not at its default adds a token, so that another value is another model. Left out is what
a machine decides (`precision`: refused where a file has another) and what says nothing beside the other arguments
(`settled`).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from dpsnn.numbers import Number
from dpsnn.specs import AttackerSpec, ClassifierSpec, as_written, plain

Spec = TypeVar("Spec", ClassifierSpec, AttackerSpec)
Kind = type[ClassifierSpec] | type[AttackerSpec]

TRAINING_TOKENS = {"max_epochs": "{}epochs", "learning_rate": "{n}rate", "batch_size": "{}batch"}

LATER_TOKENS: dict[type, dict[str, str]] = {
    ClassifierSpec: {
        "dp_max_grad_norm": "{n}clip",
        "dp_delta": "{n}delta",
        "dp_accountant": "{}",
        "suppress_start_epoch": "from{}",
        "suppress_end_epoch": "to{}",
        "suppress_mask_times": "{}rounds",
        "suppress_noise": "{n}masknoise",
        **TRAINING_TOKENS,
    },
    AttackerSpec: TRAINING_TOKENS,
}
"""Tokens of what names did not say once, by field: `{}` is the value, `{n}` the number spelled."""


def spell(number: Number) -> str:
    """A number without its decimal point: 0.5 → `05`, 1.0 → `10`, 0.05 → `005`, 0 → `00`."""
    digits = format(Decimal(repr(float(number) + 0.0)), "f")  # + 0.0: -0.0 is 0 too
    return digits.replace(".", "") if "." in digits else f"{digits}0"


def _silent(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields that say nothing beside the others."""
    if "attack" in arguments:
        # An inversion learns nothing, and computes in float32.
        learned = arguments["attack"] == AttackerSpec.attack
        return () if learned else ("decoder", "max_epochs", "batch_size", "precision")
    fields: tuple[str, ...] = ()
    if not arguments["nopeek_weight"]:
        fields += ("nopeek_exponent", "nopeek_clean")
    if not arguments["dp_noise_multiplier"] and not arguments["dp_target_epsilon"]:
        fields += ("dp_max_grad_norm", "dp_delta", "dp_coupled", "dp_accountant")
        fields += ("repeatable_noise",)
    if not arguments["suppress_sparsity"]:
        fields += ("suppress_noise",)
    if arguments["validator"]:
        # It has the network with which its data set is judged.
        fields += ("network",)
    return fields


def settled(kind: Kind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments, those that say nothing beside the others at their defaults: of equal ones models are equal.

    Args:
        kind: The spec whose fields they are.
        arguments: As in a checkpoint; what it does not know yet had its default.
    """
    defaults = plain(kind())
    written = as_written(arguments) if kind is ClassifierSpec else arguments
    full = {**defaults, **written}
    return {**full, **{name: defaults[name] for name in _silent(full)}}


def _settled_spec(spec: Spec) -> Spec:
    arguments = plain(spec)
    changed = {k: v for k, v in settled(type(spec), arguments).items() if v != arguments[k]}
    return replace(spec, **changed)


def _later(spec: ClassifierSpec | AttackerSpec) -> str:
    tokens = ""
    for name, token in LATER_TOKENS[type(spec)].items():
        value = getattr(spec, name)
        if value != getattr(type(spec), name):
            spelled = spell(value) if isinstance(value, int | float) else ""
            tokens += f"_{token.format(value, n=spelled)}"
    return tokens


def classifier_name(spec: ClassifierSpec) -> str:
    """File name without `_epoch=XX.ckpt`; anything that is not the default adds a token."""
    spec = _settled_spec(spec)
    return _classifier_name(spec, _later(spec))


def _classifier_name(spec: ClassifierSpec, later: str) -> str:
    parts = [
        "attack_validation_" if spec.validator else "",
        f"{spec.dataset}_{spell(spec.noise_scale)}noise_{spell(spec.nopeek_weight)}nopeek",
    ]
    if spec.nopeek_weight and spec.nopeek_exponent != 1:
        parts.append(f"_exp{format(Decimal(repr(spec.nopeek_exponent)).normalize(), 'f')}")
    if spec.nopeek_weight and spec.nopeek_clean:
        parts.append("_clean")
    if spec.gaussian_std:
        parts.append(f"_{spell(spec.gaussian_std)}gaussian")
    if spec.dp_noise_multiplier:
        parts.append(f"_{spell(spec.dp_noise_multiplier)}dpsgd")
    elif spec.private:
        parts.append("_dpsgd")
    if spec.dp_coupled:
        parts.append("_coupled")
    if spec.dp_target_epsilon:
        parts.append(f"_eps{spell(spec.dp_target_epsilon)}")
    if spec.repeatable_noise:
        parts.append("_repeatable")
    if spec.suppress_sparsity:
        parts.append(f"_suppress{spell(spec.suppress_sparsity)}")
    if spec.network != ClassifierSpec.network and not spec.validator:
        parts.append(f"_{spec.network}")
    if spec.cut:
        parts.append(f"_{spec.cut}cut")
    if spec.norm:
        parts.append(f"_{spec.norm}norm")
    if spec.dropout is not None:
        parts.append(f"_{spell(spec.dropout)}dropout")
    if spec.sgd_momentum is not None:
        parts.append(f"_{spell(spec.sgd_momentum)}sgd")
    if spec.constant_rate:
        parts.append("_constantrate")
    if spec.fixed_order:
        parts.append("_fixedorder")
    parts.append(later)
    if spec.seed:
        parts.append(f"_seed{spec.seed}")
    return "".join(parts)


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
    return _attacker_name(spec, _later(spec))


def _attacker_name(spec: AttackerSpec, later: str) -> str:
    parts = [f"{spec.surrogate}_attacker"]
    if spec.attack != AttackerSpec.attack:
        parts.append(f"_{spec.attack}")
    if spec.naive:
        parts.append("_naive")
    if spec.decoder != AttackerSpec.decoder:
        parts.append(f"_{spec.decoder}")
    if spec.cut:
        parts.append(f"_{spec.cut}cut")
    if spec.steps is not None:
        parts.append(f"_{spec.steps}steps")
    if spec.restarts is not None:
        parts.append(f"_{spec.restarts}restarts")
    if spec.queries != 1:
        parts.append(f"_{spec.queries}queries")
    if spec.data_pct != 100:
        parts.append(f"_{spec.data_pct}datapct")
    parts.append(later)
    if spec.seed:
        parts.append(f"_seed{spec.seed}")
    parts.append(f"_model<{spec.model}>")
    if spec.model_noise is not None:
        parts.append(f"_set{spell(spec.model_noise)}noise")
    return "".join(parts)


def names_of(kind: Kind, arguments: Mapping[str, Any]) -> list[str]:
    """Every name that these arguments have had, newest first; classifiers' without `_epoch=XX`.

    Names did not say epochs, step size, batch size and some settings of defences once.

    Args:
        kind: The spec whose fields they are.
        arguments: As in a checkpoint; of a federated classifier also the fields `federated_...`.

    Raises:
        UsageError: If an argument is out of range.
    """
    whole = settled(kind, arguments)
    spec = kind(**{name: whole[name] for name in plain(kind())})
    if isinstance(spec, AttackerSpec):
        names = [attacker_name(spec), _attacker_name(spec, "")]
    else:
        # Nor that noise was repeatable, as it always was.
        unmarked = replace(spec, repeatable_noise=False)
        names = [classifier_name(each) for each in (spec, unmarked)]
        names.append(_classifier_name(unmarked, ""))
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
