"""The published groups of experiments, as lists of plain values."""

from collections.abc import Callable
from typing import Any

from dpsnn.runner.experiment import Experiment
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace

NOISES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
WEIGHTS = (0.05, 0.1, 0.25, 0.5, 1.0)
POST_NOISES = (0.1, 0.5, 1.0, 2.0, 5.0)
SHARES = (2, 5, 10, 25, 50, 75, 100)
SURROGATES = ("emnist", "omniglot28")
QUERIES = (1, 4, 16, 64)


def _experiment(base: ClassifierSpec, attacker: AttackerSpec, **defence: Any) -> Experiment:
    """A classifier with three attackers: adaptive, naive (ignores the noise), and linear (the published kind)."""
    attackers = (attacker, replace(attacker, naive=True), replace(attacker, decoder="linear"))
    return Experiment(replace(base, **defence), attackers)


def plain(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """No defence at all."""
    return [_experiment(base, attacker)]


def noise(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Six scales of Laplace noise on the wire."""
    return [_experiment(base, attacker, noise_scale=scale) for scale in NOISES]


def nopeek(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """The NoPeek loss, five weights."""
    return [_experiment(base, attacker, nopeek_weight=weight) for weight in WEIGHTS]


def combo(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Noise and NoPeek together, four scales by three weights."""
    return [
        _experiment(base, attacker, noise_scale=scale, nopeek_weight=weight)
        for scale in (0.1, 0.2, 0.5, 1.0)
        for weight in (0.1, 0.25, 0.5)
    ]


def headline(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """The five rows of the README: plain, two scales of noise, NoPeek, both."""
    return [
        _experiment(base, attacker),
        _experiment(base, attacker, noise_scale=0.5),
        _experiment(base, attacker, noise_scale=1.0),
        _experiment(base, attacker, nopeek_weight=0.5),
        _experiment(base, attacker, noise_scale=1.0, nopeek_weight=0.5),
    ]


def post_noise(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Noise set on the plain model after training, five scales, attackers naive and adaptive."""
    attackers = (
        replace(attacker, model_noise=scale, naive=naive)
        for scale in POST_NOISES
        for naive in (False, True)
    )
    return [Experiment(base, tuple(attackers))]


def volume(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Attackers of the plain model with 2 to 100 % of their images."""
    return [Experiment(base, tuple(replace(attacker, data_pct=share) for share in SHARES))]


def shift(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Attackers of the plain model whose own images are of another kind: letters of EMNIST and of Omniglot."""
    others = (name for name in SURROGATES if name != base.dataset)
    return [Experiment(base, tuple(replace(attacker, surrogate=name) for name in others))]


def queries(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Attackers that average 1 to 64 transmissions of an image under noise 1.0, trained clean or on such averages."""
    attackers = (
        replace(attacker, queries=count, naive=naive)
        for count in QUERIES
        for naive in (False, True)
    )
    return [Experiment(replace(base, noise_scale=1.0), tuple(attackers))]


def everything(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """All groups of the paper and beyond: 24 classifiers and all their attackers."""
    groups = (plain, noise, nopeek, combo, post_noise, volume, shift, queries)
    return [experiment for group in groups for experiment in group(base, attacker)]


GROUPS: dict[str, Callable[[ClassifierSpec, AttackerSpec], list[Experiment]]] = {
    "plain": plain,
    "noise": noise,
    "nopeek": nopeek,
    "combo": combo,
    "post_noise": post_noise,
    "volume": volume,
    "shift": shift,
    "queries": queries,
    "headline": headline,
    "all": everything,
}
