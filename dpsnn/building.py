"""From a spec to what it describes: classifiers with their defences, and attacks of them, untrained."""

import inspect
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from dpsnn.attacks import AttackModule, Need
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS
from dpsnn.defences import CutInfo, Defence, DefenceList, DefenceModule
from dpsnn.errors import UsageError, choose
from dpsnn.networks import NETWORKS, SplitNetwork
from dpsnn.specs import AttackerSpec, ClassifierSpec, parts_with
from dpsnn.target import Target
from dpsnn.training import seeded


def cut_info(network: SplitNetwork) -> CutInfo:
    """What is known of the place where a network is cut."""
    return CutInfo(
        tuple(network.cut_shape), network.image_shape, network.num_classes, network.bound
    )


def built(part: Any, cut: CutInfo) -> Any:
    """The module of a defence, if it has one, which remembers its settings."""
    module = part.build(cut)
    if module is not None:
        module.part = part
    return module


def defences_of(spec: ClassifierSpec, network: SplitNetwork) -> list[DefenceModule]:
    """What acts on the wire, in the order in which it does."""
    made = (built(part, cut_info(network)) for part in spec.active)
    return sorted((module for module in made if module is not None), key=lambda m: m.place)


def build_classifier(spec: ClassifierSpec) -> SplitClassifier:
    """An untrained classifier; its weights depend on the spec's seed alone."""
    data = choose(DATASETS, spec.dataset, "dataset")
    network = choose(NETWORKS, data.judge_network if spec.validator else spec.network, "network")
    choices = {"cut": spec.cut or None, "norm": spec.norm or None, "dropout": spec.dropout}
    given = {name: value for name, value in choices.items() if value is not None}
    for name in given.keys() - inspect.signature(network).parameters.keys():
        raise UsageError(f"network {spec.network} leaves no choice of {name}; leave out --{name}")
    with seeded(spec.seed, 3):
        built = network(data.image_shape, data.num_classes, data.mean, data.std, **given)
        defences = defences_of(spec, built)
    return SplitClassifier(
        built, defences, spec.learning_rate, spec.sgd_momentum, spec.constant_rate
    )


def callbacks_of(spec: ClassifierSpec, resumable: bool = False) -> list[tuple[Defence, Callback]]:
    """The defences that change the training, each with the callback that does so.

    Args:
        spec: What to train.
        resumable: Whether a callback's state may hold secrets: only where it goes into a private file that is deleted
            at the end.
    """
    made = ((part, part.callback(spec, resumable)) for part in spec.active)
    return [(part, callback) for part, callback in made if callback is not None]


def set_afterwards(classifier: SplitClassifier, **changes: Any) -> None:
    """Change what may be changed after training, such as the noise; all other modules stay, state and all.

    Args:
        classifier: On whose wire defences act.
        changes: Settings by flat name, for instance `noise_scale`; strength 0 takes a defence away.
    """
    cut = cut_info(classifier.network)
    modules: list[Any] = list(classifier.defences)
    there = {module.part.key: module for module in modules if module.part}
    for key, part in parts_with(changes, [module.part for module in there.values()]).items():
        modules = [each for each in modules if each is not there.get(key)]
        modules += [built(part, cut)] if part.on else []
        classifier.defences = DefenceList(sorted(modules, key=lambda module: module.place))


def recut(classifier: SplitClassifier, cut: str) -> None:
    """Let the wire be at another of the network's cuts; an empty name leaves it where it is.

    Without a defence on the wire training does not depend on where that is.

    Raises:
        UsageError: If there is no such cut, or a defence was trained at the classifier's own.
    """
    if not cut or cut == classifier.network.cut:
        return
    network = classifier.network.at(cut)
    modules: list[Any] = list(classifier.defences)
    there = [module.part for module in modules if module.part]
    if tied := " and ".join(dict.fromkeys(part.label or part.key for part in there)):
        raise UsageError(
            f"the classifier was trained with {tied} at its own cut, {classifier.network.cut}, and says nothing about"
            f" {cut}; leave out --cut, or train one with --cut {cut}"
        )
    classifier.network = network


def build_attack(
    spec: AttackerSpec, target: Target, surrogate: Tensor | None = None
) -> AttackModule:
    """An attack of the target as it stands, handed exactly what it needs; its weights depend on the spec's seed alone.

    Args:
        spec: Which attack, with which settings.
        target: What is attacked.
        surrogate: The attacker's own images: to prepare it, not to reconstruct.

    Raises:
        UsageError: If the target has not what the attack needs, or the attack listens to one transmission only.
    """
    method = spec.method
    if spec.queries > 1 and Need.TRANSMISSIONS not in method.needs:
        raise UsageError(
            f"the attack {spec.attack} listens to a single transmission; leave out --queries"
        )
    own = torch.zeros(0, *target.image_shape, dtype=torch.uint8) if surrogate is None else surrogate
    with seeded(spec.seed, 3):
        return method.build(target.knowledge(own, method.needs), spec.queries, spec.seed)
