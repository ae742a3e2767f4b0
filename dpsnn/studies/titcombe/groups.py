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


WEIGHED = 1.0
"""Noise from which on the likelihood mixture is tried: at less, one own image nearly always takes all the weight."""


def _experiment(base: ClassifierSpec, attacker: AttackerSpec, **defence: Any) -> Experiment:
    """A classifier with its attackers: adaptive, the best linear map, and where there is noise the naive one."""
    classifier = replace(base, **defence)
    attackers = [attacker, _ridge(attacker)]
    if is_noisy(classifier):
        attackers.append(replace(attacker, naive=True))
    return Experiment(classifier, tuple(attackers))


def is_noisy(classifier: ClassifierSpec) -> bool:
    """Whether transmissions differ, without which there is nothing that a naive attacker ignores."""
    return any(part.noisy for part in classifier.active)


def _ridge(attacker: AttackerSpec) -> AttackerSpec:
    return _by(attacker, "ridge")


def _by(attacker: AttackerSpec, attack: str) -> AttackerSpec:
    """Another attack with the same knowledge."""
    return replace(attacker, attack=attack, own=())


def plain(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """No defence at all."""
    return [_experiment(base, attacker)]


def noise(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Six scales of Laplace noise on the wire; from scale 1 on also attacked by likelihood."""
    experiments = [_experiment(base, attacker, noise_scale=scale) for scale in NOISES]
    return [
        Experiment(each.classifier, (*each.attackers, *_weighing(each.classifier, attacker)))
        for each in experiments
    ]


def nopeek(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """The NoPeek loss, five weights."""
    return [_experiment(base, attacker, nopeek_weight=weight) for weight in WEIGHTS]


def combo(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Noise and NoPeek together, four scales by three weights; no naive attackers, which `noise` has."""
    experiments = [
        _experiment(base, attacker, noise_scale=scale, nopeek_weight=weight)
        for scale in (0.1, 0.2, 0.5, 1.0)
        for weight in (0.1, 0.25, 0.5)
    ]
    return [
        Experiment(each.classifier, tuple(a for a in each.attackers if not a.naive))
        for each in experiments
    ]


def headline(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """The five rows of the README: plain, two scales of noise, NoPeek, both; with every attacker that pays.

    Their adaptive decoders and refiners are also trained for twice as long, which tells whether that would have paid.
    """
    experiments = [
        _experiment(base, attacker),
        _experiment(base, attacker, noise_scale=0.5),
        _experiment(base, attacker, noise_scale=1.0),
        _experiment(base, attacker, nopeek_weight=0.5),
        _experiment(base, attacker, noise_scale=1.0, nopeek_weight=0.5),
    ]
    return [
        Experiment(
            each.classifier,
            (
                *(replace(one, doublings=1) if one == attacker else one for one in each.attackers),
                *_strong(each.classifier, attacker),
            ),
        )
        for each in experiments
    ]


def _strong(classifier: ClassifierSpec, attacker: AttackerSpec) -> list[AttackerSpec]:
    """What costs more and often finds more: the refiner; under noise the likelihood mixture, alone and averaged."""
    weighing = _weighing(classifier, attacker)
    averaged = [_by(attacker, "ensemble")] if weighing else []
    refined = replace(_by(attacker, "refiner"), refiner_doublings=1)
    return [refined, *weighing, *averaged]


def _weighing(classifier: ClassifierSpec, attacker: AttackerSpec) -> list[AttackerSpec]:
    return [_by(attacker, "mixture")] if classifier.noise_scale >= WEIGHED else []


def post_noise(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
    """Noise set on the plain model after training, five scales, attackers naive and adaptive, and by likelihood.

    What naive ones learn is the same at every scale, and without noise.
    """
    attackers = [replace(attacker, naive=True)]
    attackers += [
        replace(attacker, model_noise=scale, naive=naive)
        for scale in POST_NOISES
        for naive in (False, True)
    ]
    attackers += [
        replace(_by(attacker, "mixture"), model_noise=scale)
        for scale in POST_NOISES
        if scale >= WEIGHED
    ]
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
    groups = (plain, noise, nopeek, combo, headline, post_noise, volume, shift, queries)
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
