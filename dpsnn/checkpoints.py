"""Finding, saving and safe loading of checkpoints: the only place that spells paths.

A checkpoint is a dict of plain values and tensors, so that a file from a stranger cannot run code, with a digest of it
all. `dpsnn.names` says what it is called.
"""

import contextlib
import glob
import hashlib
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpsnn import names, sealed
from dpsnn.attacks import AttackModule
from dpsnn.building import build_attack, build_classifier
from dpsnn.classifier import SplitClassifier
from dpsnn.errors import Lacking, UsageError
from dpsnn.folders import Folders
from dpsnn.names import (  # noqa: F401  what files are called belongs to this door as well
    Kind,
    attacker_name,
    classifier_name,
    federated_name,
    names_of,
    settled,
    spell,
)
from dpsnn.specs import AttackerSpec, ClassifierSpec, of_versions, plain, settings
from dpsnn.stored import (  # noqa: F401  what stands in a checkpoint belongs to this door as well
    ATTACKER,
    CLASSIFIER,
    DEVICE,
    FORMAT,
    Stored,
    digest,
    read_whole,
    written,
)
from dpsnn.target import Target

PROGRESS = ".progress"
"""The folder, beside finished checkpoints, for the states of unfinished trainings."""

# ---------------------------------------------------------------- places


def classifiers_dir(models_dir: str | Path) -> Path:
    return Folders(models_dir=str(models_dir)).classifiers


def attackers_dir(models_dir: str | Path) -> Path:
    return Folders(models_dir=str(models_dir)).attackers


def devices_dir(models_dir: str | Path) -> Path:
    return Path(models_dir) / "devices"


def progress_path(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    """Where an unfinished training keeps its state: a file for each set of arguments, so none resumes another's."""
    later = {key: said for key, said in written(arguments).items() if said["version"] > 1}
    said = repr(sorted(arguments.items())) + (repr(later) if later else "")
    mark = hashlib.sha256(said.encode()).hexdigest()[:8]
    return folder / PROGRESS / f"{name}_{mark}.ckpt"


def trial_progress(progress: Path, number: int) -> Path:
    """Where a training that only prepares another keeps its state: beside that one's, by its turn."""
    return progress.with_name(f"{progress.stem}.{number}{progress.suffix}")


def all_progress(progress: Path) -> list[Path]:
    """Where the state of a training is kept, and that of all there is that prepares it."""
    trials = progress.parent.glob(f"{glob.escape(progress.stem)}.*{progress.suffix}")
    return [progress, *sorted(trials)]


def _epochs_of(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{glob.escape(name)}_epoch=*.ckpt"))


def _spec_type(kind: str) -> Kind:
    return AttackerSpec if kind == ATTACKER else ClassifierSpec


def _called_once(folder: Path, stem: str, kind: str) -> list[Path]:
    """Files of a folder whose arguments have, or once had, the name `stem`, with or without `_epoch=XX`."""
    said = re.search("_attacker" if kind == ATTACKER else names.PUBLISHED, stem)
    if said is None:
        return []
    found = []
    # Names begin with what they always said, hence only these are read.
    for path in sorted(folder.glob(f"{glob.escape(stem[:said.end()])}*.ckpt")):
        with contextlib.suppress(UsageError):  # what is no checkpoint has no other name
            stored = read(path, kind)
            called = names_of(_spec_type(kind), stored.arguments, stored.versions)
            epoch = re.search(r"(_epoch=\d+)?\.ckpt$", path.name)
            ends = ("", epoch[1] or "") if epoch and kind == CLASSIFIER else ("",)
            if stem in (f"{name}{end}" for name in called for end in ends):
                found.append(path)
    return found


def find(folder: Path, name: str, kind: str) -> Path:
    """The checkpoint called `name`: with or without `.ckpt`, and without `_epoch=XX` where one file alone fits.

    Where there is none, the one whose arguments would have had that name in an earlier version.

    Raises:
        UsageError: If there is none or more than one.
    """
    stem = Path(name).name.removesuffix(".ckpt")
    given = Path(name) if Path(name).parent != Path(".") else folder / f"{stem}.ckpt"
    given = given if given.name.endswith(".ckpt") else given.with_name(f"{given.name}.ckpt")
    if given.is_file():
        return given
    fitting = _epochs_of(given.parent, stem) or _called_once(given.parent, stem, kind)
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


def check_writable(*folders: Path) -> None:
    """Prove that files can be written to `folders`, or these be made, before any work is spent; none is made.

    Raises:
        UsageError: If not.
    """
    for folder in folders:
        try:
            there = next(place for place in (folder, *folder.parents) if place.exists())
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise UsageError(
                f"cannot write to {folder} ({error.strerror}); name another folder"
            ) from error


def ensure_writable(*folders: Path) -> None:
    """Prove that files can be written to `folders`; those not there yet are made afterwards.

    Raises:
        UsageError: If not; then none was made.
    """
    check_writable(*folders)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def save(
    path: Path,
    kind: str,
    arguments: dict[str, Any],
    record: dict[str, Any],
    weights: dict[str, Tensor],
    parts: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Write a checkpoint under a temporary name, then rename; an existing file is never replaced.

    Args:
        path: Where.
        kind: Of the checkpoint.
        arguments: What was asked for.
        record: What came of it.
        weights: Of the model.
        parts: Versions of its parts, where these are not the present ones.

    Raises:
        UsageError: If the file exists, or a weight is not finite.
    """
    if path.exists():
        raise UsageError(f"{path} exists; move it away first: checkpoints are never overwritten")
    ensure_writable(path.parent)
    _require_finite(Stored(path, arguments, record, weights))
    content = dict(
        dpsnn=kind,
        format=FORMAT,
        arguments=arguments,
        record=record,
        state_dict=weights,
        parts=written(arguments) if parts is None else parts,
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


def _check_name(stored: Stored, kind: str) -> None:
    """A file in a folder of models, or with a name like theirs, is called what its arguments spell.

    Tables, figures and people go by names: under another's a model would be taken for it. Elsewhere users may call a
    file what they like.
    """
    folders = [folder("").name for folder in (classifiers_dir, attackers_dir, devices_dir)]
    if stored.path.parent.name not in folders and not names.PUBLISHED.search(stored.path.name):
        return
    spec = AttackerSpec if kind == ATTACKER else ClassifierSpec
    _spec_from(stored, spec)  # in range
    called = names_of(spec, stored.arguments, stored.versions)
    if kind == CLASSIFIER:
        called = [f"{name}_epoch={stored.record['epoch']:02d}" for name in called]
    elif kind == DEVICE:  # it does not say of which epoch it is
        epoch = re.search(r"_epoch=\d+", stored.stem)
        called = [f"{name}{epoch[0] if epoch else '_epoch=XX'}_device" for name in called]
    if stored.stem not in called:
        raise UsageError(
            f"{stored.path} holds the {kind} {called[0]}, which is not what it is called; rename it {called[0]}.ckpt"
        )


def _files(folder: Path, name: str, kind: str) -> list[Path]:
    """Files of that name: of a classifier one for each epoch in which a training may have ended."""
    if kind == CLASSIFIER:
        return _epochs_of(folder, name)
    return [path for path in [folder / f"{name}.ckpt"] if path.exists()]


def identity_of(
    spec: Kind, arguments: dict[str, Any], parts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What makes two models the same: settled arguments, and the versions of their parts."""
    later = {f"version of {key}": s["version"] for key, s in parts.items() if s["version"] > 1}
    return {**settled(spec, arguments), **later}


def already(folder: Path, name: str, kind: str, arguments: dict[str, Any]) -> Path | None:
    """The finished checkpoint of exactly these arguments, if there is one, also under a name of an earlier version.

    Arguments that say nothing beside the others (`dpsnn.names.settled`) may differ.

    Raises:
        UsageError: If the name is taken by other arguments (1.05 and 10.5 are both spelled `105`).
    """
    spec = _spec_type(kind)
    wanted = identity_of(spec, arguments, written(arguments))
    for each in dict.fromkeys((name, *names_of(spec, arguments))):
        for path in _files(folder, each, kind):
            there = read(path, kind)
            stored = identity_of(spec, there.arguments, there.parts)
            differing = sorted(k for k in {**stored, **wanted} if stored.get(k) != wanted.get(k))
            if not differing:
                return path
            if each != name or superseded(there, kind, arguments):
                continue  # of an earlier version, when other arguments had this name as well
            key = differing[0]
            raise UsageError(
                f"{path} exists with {key}={stored.get(key)!r}, not {wanted.get(key)!r}"
                f"{f' (and {len(differing) - 1} more)' if len(differing) > 1 else ''};"
                " name another --models_dir or move it away: it is not overwritten"
            )
    return None


def superseded(there: Stored, kind: str, arguments: dict[str, Any]) -> bool:
    """Whether a file holds what these arguments asked for when a part, which its name does not say, was older."""
    same = settled(_spec_type(kind), there.arguments) == settled(_spec_type(kind), arguments)
    now = written(arguments).items()
    ages = [said["version"] - there.versions.get(key, 1) for key, said in now]
    return same and min(ages, default=0) >= 0 and max(ages, default=0) > 0


def attacker_file(folder: Path, spec: AttackerSpec) -> Path | None:
    """The file of an attacker whose `model` and `surrogate` are known, if there is one, whatever target it met."""
    wanted = plain(spec)
    newest, *earlier = names_of(AttackerSpec, wanted)
    path = folder / f"{newest}.ckpt"
    if path.exists() and read(path, ATTACKER).versions.get(spec.attack, 1) >= spec.method.present:
        return path
    for name in earlier:
        if (path := folder / f"{name}.ckpt").exists():
            stored = settled(AttackerSpec, read(path, ATTACKER).arguments)
            if settled(AttackerSpec, wanted).items() <= stored.items():
                return path
    return None


# ---------------------------------------------------------------- models


def _spec_from(stored: Stored, kind: Kind) -> Any:
    known = {made.name: made for made in settings(kind)}
    values = {key: value for key, value in stored.arguments.items() if key in known}
    for key, value in values.items():
        made = known[key]
        if type(value) is int and made.kind is float:
            values[key] = float(value)
        # True is an int in Python, but no number here.
        elif type(value) is not made.kind and not (value is None and made.optional):
            raise UsageError(
                f"{stored.path} has {key}={value!r}, of the wrong type; train it again"
            )
    try:
        whole = {key: value for key, value in settled(kind, values).items() if key in known}
        return of_versions(kind(**whole), stored.versions)
    except Lacking as error:
        raise Lacking(f"{stored.path}: {error}", stored) from error
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


def attacker_spec(stored: Stored) -> AttackerSpec:
    """What an attacker was made as.

    Raises:
        UsageError: If an argument is of the wrong type or out of range.
    """
    spec = _spec_from(stored, AttackerSpec)
    assert isinstance(spec, AttackerSpec)
    return spec


def load_classifier(path: Path) -> tuple[SplitClassifier, ClassifierSpec, Stored]:
    """A trained classifier in evaluation mode, rebuilt from its file alone."""
    stored = read(path, CLASSIFIER)
    spec = classifier_spec(stored)
    classifier = build_classifier(spec)
    load_weights(classifier, stored)
    return classifier, spec, stored


def load_attacker(path: Path, target: Target) -> tuple[AttackModule, AttackerSpec, Stored]:
    """A prepared attacker in evaluation mode, for the target it was trained on, cut and noise as it met them."""
    stored = read(path, ATTACKER)
    spec = attacker_spec(stored)
    # Of an attack that is made of others, with what they have.
    named = (weight for name, weight in stored.weights.items() if name.split(".")[-1] == "own")
    own = next(named, None)
    fitting = own is not None and tuple(own.shape[1:]) == target.image_shape
    attack = build_attack(spec, target, own if fitting else None)
    load_weights(attack, stored)
    if (shape := stored.record["mean_image"].shape) != target.image_shape:
        raise UsageError(
            f"{stored.path} has a mean image of shape {tuple(shape)}, but its target takes images of shape"
            f" {target.image_shape}; train it again"
        )
    return attack, spec, stored


def attacker_arguments(spec: AttackerSpec, target: Stored) -> dict[str, Any]:
    """What an attacker's checkpoint is compared by: its spec and the very weights it attacks."""
    return {**plain(spec), "target": target.digest}
