"""Names, saving and safe loading of checkpoints: the only place that spells paths.

A checkpoint is a dict of plain values and tensors, so that a file from a stranger cannot run code, with a digest of it
all. Names are made from its arguments and never parsed back for values.
"""

import dataclasses
import glob
import hashlib
import inspect
import re
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpsnn import sealed
from dpsnn.attacks import (
    DecoderAttack,
    FeatureInversion,
    Inversion,
    Knowledge,
    SignDescent,
    WhiteBox,
)
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS
from dpsnn.defences import Defence, GaussianNoise, LaplaceNoise, NoPeek
from dpsnn.defences.dp_sgd import DPSGD
from dpsnn.defences.suppression import Suppression
from dpsnn.errors import UsageError, choose
from dpsnn.folders import Folders
from dpsnn.networks import NETWORKS
from dpsnn.networks.decoder import DECODERS
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain
from dpsnn.stored import (  # noqa: F401  what stands in a checkpoint belongs to this door as well
    ATTACKER,
    CLASSIFIER,
    DEVICE,
    FORMAT,
    Stored,
    digest,
    read_whole,
)
from dpsnn.tensors import Number
from dpsnn.training import seeded

# ---------------------------------------------------------------- names


def spell(number: Number) -> str:
    """A number without its decimal point: 0.5 → `05`, 1.0 → `10`, 0.05 → `005`, 0 → `00`."""
    digits = format(Decimal(repr(float(number) + 0.0)), "f")  # + 0.0: -0.0 is 0 too
    return digits.replace(".", "") if "." in digits else f"{digits}0"


def classifier_name(spec: ClassifierSpec) -> str:
    """File name without `_epoch=XX.ckpt`; anything that is not the default adds a token."""
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
    if spec.seed:
        parts.append(f"_seed{spec.seed}")
    return "".join(parts)


def federated_name(spec: ClassifierSpec, clients: int, mode: str, skew: Number, drop: int) -> str:
    """File name, without `_epoch=XX.ckpt`, of a classifier that several clients trained; the usual mode is `secure`."""
    parts = [classifier_name(spec), f"_federated{clients}"]
    if mode != "secure":
        parts.append(mode)
    if skew:
        parts.append(f"_{spell(skew)}skew")
    if drop:
        parts.append(f"_{drop}dropped")
    return "".join(parts)


def names_of(
    kind: type[ClassifierSpec] | type[AttackerSpec], arguments: Mapping[str, Any]
) -> list[str]:
    """Every name that these arguments have had, newest first; classifiers' without `_epoch=XX`.

    Args:
        kind: The spec whose fields they are.
        arguments: As in a checkpoint; of a federated classifier also the fields `federated_...`.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    spec: Any = kind(**{key: value for key, value in arguments.items() if key in fields})
    if kind is AttackerSpec:
        return [attacker_name(spec)]
    if "federated_clients" not in arguments:
        return [classifier_name(spec)]
    among = (arguments[f"federated_{name}"] for name in ("clients", "mode", "skew", "drop"))
    return [federated_name(spec, *among)]


def attacker_name(spec: AttackerSpec) -> str:
    """File name without `.ckpt`; `spec.model` is the classifier's with its epoch."""
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
    if spec.seed:
        parts.append(f"_seed{spec.seed}")
    parts.append(f"_model<{spec.model}>")
    if spec.model_noise is not None:
        parts.append(f"_set{spell(spec.model_noise)}noise")
    return "".join(parts)


def classifiers_dir(models_dir: str | Path) -> Path:
    return Folders(models_dir=str(models_dir)).classifiers


def attackers_dir(models_dir: str | Path) -> Path:
    return Folders(models_dir=str(models_dir)).attackers


def devices_dir(models_dir: str | Path) -> Path:
    return Path(models_dir) / "devices"


def progress_path(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    """Where an unfinished training keeps its state: a file for each set of arguments, so none resumes another's."""
    mark = hashlib.sha256(repr(sorted(arguments.items())).encode()).hexdigest()[:8]
    return folder / ".progress" / f"{name}_{mark}.ckpt"


def _epochs_of(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{glob.escape(name)}_epoch=*.ckpt"))


def find(folder: Path, name: str, kind: str) -> Path:
    """The checkpoint called `name`: with or without `.ckpt`, and without `_epoch=XX` where one file alone fits.

    Raises:
        UsageError: If there is none or more than one.
    """
    stem = Path(name).name.removesuffix(".ckpt")
    given = Path(name) if Path(name).parent != Path(".") else folder / f"{stem}.ckpt"
    given = given if given.name.endswith(".ckpt") else given.with_name(f"{given.name}.ckpt")
    if given.is_file():
        return given
    fitting = _epochs_of(given.parent, stem)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{kind} {name!r} is ambiguous; name one of {[p.stem for p in fitting]}")
    present = sorted(p.name.removesuffix(".ckpt") for p in folder.glob("*.ckpt"))
    shown = f"{present[:8]}{' and more' if len(present) > 8 else ''}" if present else "nothing yet"
    script = "train_model" if kind == CLASSIFIER else "train_attacker"
    raise UsageError(
        f"unknown {kind} {name!r}; {folder} holds {shown}: train it with scripts/{script}.py"
    )


def all_in(folder: Path) -> list[Path]:
    """Every checkpoint of a folder, by name."""
    return sorted(folder.glob("*.ckpt"))


# ---------------------------------------------------------------- files


def ensure_writable(*folders: Path) -> None:
    """Prove that files can be written to `folders`, before any work is spent; those not there yet are made afterwards.

    Raises:
        UsageError: If not; then none was made.
    """
    for folder in folders:
        try:
            there = next(place for place in (folder, *folder.parents) if place.exists())
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise UsageError(
                f"cannot write to {folder} ({error.strerror}); name another folder"
            ) from error
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def save(
    path: Path,
    kind: str,
    arguments: dict[str, Any],
    record: dict[str, Any],
    weights: dict[str, Tensor],
) -> None:
    """Write a checkpoint under a temporary name, then rename; an existing file is never replaced.

    Raises:
        UsageError: If the file exists, or a weight is not finite.
    """
    if path.exists():
        raise UsageError(f"{path} exists; move it away first: checkpoints are never overwritten")
    ensure_writable(path.parent)
    _require_finite(Stored(path, arguments, record, weights))
    content = dict(
        dpsnn=kind, format=FORMAT, arguments=arguments, record=record, state_dict=weights
    )
    sealed.write(path, content)


def read(path: Path, kind: str) -> Stored:
    """Read a checkpoint of the given kind without running anything that it may contain.

    Raises:
        UsageError: If it is missing, damaged, not plain tensors and values, not finite, of another kind or version, or
            does not have the name that its arguments spell.
    """
    stored = read_whole(path, kind)
    _require_finite(stored)
    _check_name(stored, kind)
    return stored


def _require_finite(stored: Stored) -> None:
    """A broken model sends the same for every image, hence would seem to leak nothing."""
    tensors = {**stored.record, **stored.weights}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and not bool(tensor.isfinite().all()):
            raise UsageError(
                f"{stored.path} has values in {name} that are not finite; train it again"
            )


_SPELLED = re.compile(r"\d+noise_\d+nopeek")
"""Stands in the name of every classifier, and hence of its attackers and its client half."""


def _check_name(stored: Stored, kind: str) -> None:
    """A file in a folder of models, or with a name like theirs, is called what its arguments spell.

    Tables, figures and people go by names: under another's a model would be taken for it. Elsewhere users may call a
    file what they like.
    """
    folders = [folder("").name for folder in (classifiers_dir, attackers_dir, devices_dir)]
    if stored.path.parent.name not in folders and not _SPELLED.search(stored.path.name):
        return
    spec = AttackerSpec if kind == ATTACKER else ClassifierSpec
    _spec_from(stored, spec)  # in range
    names = names_of(spec, stored.arguments)
    if kind == CLASSIFIER:
        names = [f"{name}_epoch={stored.record['epoch']:02d}" for name in names]
    elif kind == DEVICE:  # it does not say of which epoch it is
        epoch = re.search(r"_epoch=\d+", stored.stem)
        names = [f"{name}{epoch[0] if epoch else '_epoch=XX'}_device" for name in names]
    if stored.stem not in names:
        raise UsageError(
            f"{stored.path} holds the {kind} {names[0]}, which is not what it is called; rename it {names[0]}.ckpt"
        )


def already(folder: Path, name: str, kind: str, arguments: dict[str, Any]) -> Path | None:
    """The finished checkpoint of exactly these arguments, if there is one.

    Raises:
        UsageError: If the name is taken by other arguments (1.05 and 10.5 are both spelled `105`).
    """
    candidates = _epochs_of(folder, name) if kind == CLASSIFIER else [folder / f"{name}.ckpt"]
    for path in candidates:
        if not path.exists():
            continue
        # An option that the file does not know yet had its default.
        defaults = plain(ClassifierSpec() if kind == CLASSIFIER else AttackerSpec())
        stored = {**defaults, **read(path, kind).arguments}
        differing = sorted(
            key for key in {**stored, **arguments} if stored.get(key) != arguments.get(key)
        )
        if not differing:
            return path
        key = differing[0]
        raise UsageError(
            f"{path} exists with {key}={stored.get(key)!r}, not {arguments.get(key)!r}"
            f"{f' (and {len(differing) - 1} more)' if len(differing) > 1 else ''};"
            " name another --models_dir or move it away: it is not overwritten"
        )
    return None


# ---------------------------------------------------------------- models


def defences_of(spec: ClassifierSpec) -> list[Defence]:
    """The defences that a spec asks for, in the order in which they act."""
    noise: list[Defence] = [LaplaceNoise(spec.noise_scale)]
    if spec.gaussian_std:
        noise.append(GaussianNoise(spec.gaussian_std))
    if not spec.nopeek_weight:
        return noise
    nopeek = NoPeek(spec.nopeek_weight, spec.nopeek_exponent)
    return [nopeek, *noise] if spec.nopeek_clean else [*noise, nopeek]


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
    return SplitClassifier(
        built, defences_of(spec), spec.learning_rate, spec.sgd_momentum, spec.constant_rate
    )


def private_training(spec: ClassifierSpec) -> DPSGD | None:
    """The callback that trains privately, if the spec asks for it."""
    if not spec.private:
        return None
    return DPSGD(
        spec.dp_noise_multiplier or None,
        spec.dp_target_epsilon or None,
        spec.dp_max_grad_norm,
        spec.dp_delta,
        spec.dp_accountant,
        coupled=spec.dp_coupled,
    )


def suppression(spec: ClassifierSpec) -> Suppression | None:
    """The callback that silences weights while training, if the spec asks for it."""
    if not spec.suppress_sparsity:
        return None
    return Suppression(
        spec.suppress_sparsity,
        spec.suppress_start_epoch,
        spec.suppressed_from,
        spec.suppress_mask_times,
        weight_noise=spec.suppress_noise,
        seed=spec.seed,
    )


def set_noise(classifier: SplitClassifier, scale: Number) -> None:
    """Change the Laplace noise after training; 0 takes it away."""
    for position, defence in enumerate(classifier.defences):
        if isinstance(defence, LaplaceNoise):
            classifier.defences[position] = LaplaceNoise(scale)
            return
    classifier.defences.insert(0, LaplaceNoise(scale))


def recut(classifier: SplitClassifier, spec: ClassifierSpec, cut: str) -> None:
    """Let the wire be at another of the network's cuts; an empty name leaves it where it is.

    Without a defence on the wire training does not depend on where that is.

    Raises:
        UsageError: If there is no such cut, or a defence was trained at the classifier's own.
    """
    if not cut or cut == classifier.network.cut:
        return
    network = classifier.network.at(cut)
    strengths = {
        "noise": spec.noise_scale or spec.gaussian_std,
        "NoPeek": spec.nopeek_weight,
    }
    if tied := " and ".join(name for name, strength in strengths.items() if strength):
        raise UsageError(
            f"the classifier was trained with {tied} at its own cut, {classifier.network.cut}, and says nothing about"
            f" {cut}; leave out --cut, or train one with --cut {cut}"
        )
    classifier.network = network


def _spec_from(stored: Stored, kind: type[ClassifierSpec] | type[AttackerSpec]) -> Any:
    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(kind)}
    values = {key: value for key, value in stored.arguments.items() if key in types}
    for key, value in values.items():
        if type(value) is int and isinstance(0.0, types[key]):
            values[key] = float(value)
        # True is an int in Python, but no number here.
        elif not isinstance(value, types[key]) or isinstance(value, bool) != (types[key] is bool):
            raise UsageError(
                f"{stored.path} has {key}={value!r}, of the wrong type; train it again"
            )
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{stored.path}: {error}") from error


def load_weights(module: torch.nn.Module, stored: Stored) -> None:
    """Put the weights of a checkpoint into the module that they belong to, in evaluation mode.

    Raises:
        UsageError: If they do not fit.
    """
    if not sealed.fits(module, stored.weights):
        raise UsageError(
            f"{stored.path} does not fit the network that its arguments name; train it again"
        )
    module.load_state_dict(stored.weights)
    module.eval()


def classifier_spec(stored: Stored) -> ClassifierSpec:
    """What a classifier, or its client half, was trained as.

    Raises:
        UsageError: If an argument is of the wrong type or out of range.
    """
    spec = _spec_from(stored, ClassifierSpec)
    assert isinstance(spec, ClassifierSpec)
    return spec


def load_classifier(path: Path) -> tuple[SplitClassifier, ClassifierSpec, Stored]:
    """A trained classifier in evaluation mode, rebuilt from its file alone."""
    stored = read(path, CLASSIFIER)
    spec = classifier_spec(stored)
    classifier = build_classifier(spec)
    load_weights(classifier, stored)
    return classifier, spec, stored


def build_attack(
    spec: AttackerSpec, target: SplitClassifier, knowledge: Knowledge | None = None
) -> DecoderAttack:
    """An untrained decoder that fits the target's cut; its weights depend on the spec's seed alone."""
    network = target.network
    with seeded(spec.seed, 3):
        decoder = DECODERS[spec.decoder](network.cut_shape, network.image_shape)
    attack = DecoderAttack(
        decoder, knowledge, spec.naive, spec.queries, batch_size=spec.batch_size, seed=spec.seed
    )
    if spec.learning_rate is not None:
        attack.learning_rate = spec.learning_rate
    return attack


def white_box(target: SplitClassifier, surrogate: Tensor) -> WhiteBox:
    """What an attacker knows who has the client's weights, of the target as it stands: its cut and its noise."""
    target.eval().requires_grad_(False)
    laplace = [d.scale for d in target.defences if isinstance(d, LaplaceNoise)]
    gaussian = [d.std for d in target.defences if isinstance(d, GaussianNoise)]
    return WhiteBox(
        target.encode,
        target.defences,
        surrogate,
        laplace=sum(laplace),
        gaussian=sum(s**2 for s in gaussian) ** 0.5,
    )


def build_inversion(
    spec: AttackerSpec, target: SplitClassifier, surrogate: Tensor | None = None
) -> Inversion:
    """An inversion of the target as it stands; own images are needed to tune it, not to reconstruct."""
    shape = target.network.image_shape
    own = torch.zeros(0, *shape, dtype=torch.uint8) if surrogate is None else surrogate
    knowledge = white_box(target, own)
    chosen: dict[str, Any] = {
        name: value
        for name, value in (("steps", spec.steps), ("restarts", spec.restarts))
        if value is not None
    }
    if spec.attack == "sign":
        if spec.learning_rate is not None:
            chosen["step_size"] = spec.learning_rate
        return SignDescent(knowledge, **chosen)
    return FeatureInversion(
        knowledge,
        **chosen,
        rate=spec.learning_rate,
        naive=spec.naive,
        queries=spec.queries,
        seed=spec.seed,
    )


def load_attacker(
    path: Path, target: SplitClassifier
) -> tuple[DecoderAttack | Inversion, AttackerSpec, Stored]:
    """A trained attacker in evaluation mode, for the target it was trained on, cut and noise as it met them."""
    stored = read(path, ATTACKER)
    spec = _spec_from(stored, AttackerSpec)
    build = build_attack if spec.attack == "decoder" else build_inversion
    attack = build(spec, target)
    load_weights(attack, stored)
    if (shape := stored.record["mean_image"].shape) != target.network.image_shape:
        raise UsageError(
            f"{stored.path} has a mean image of shape {tuple(shape)}, but its target takes images of shape"
            f" {tuple(target.network.image_shape)}; train it again"
        )
    return attack, spec, stored


def attacker_arguments(spec: AttackerSpec, target: Stored) -> dict[str, Any]:
    """What an attacker's checkpoint is compared by: its spec and the very weights it attacks."""
    return {**plain(spec), "target": target.digest}
