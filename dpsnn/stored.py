"""What stands in a checkpoint, and what must, before any of it is believed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsnn import parts, sealed
from dpsnn.errors import Lacking, UsageError, one_of
from dpsnn.parts import LARGEST
from dpsnn.specs import AttackerSpec, ClassifierSpec, settings

CLASSIFIER = "classifier"
ATTACKER = "attacker"
DEVICE = "device"
"""The client half of a classifier, as it is given to clients."""

FORMAT = 3
"""Files of format 1 carry no digest and may lack arguments, which means the defaults they came with; those before
format 3 do not say of what versions their parts are: the first."""

NEEDED: dict[str, tuple[set[str], dict[str, type]]] = {
    CLASSIFIER: ({"dataset"}, {"epoch": int, "precision": str}),
    ATTACKER: (
        {"model", "target"},
        {
            "epoch": int,
            "precision": str,
            "mean_image": Tensor,
            "surrogate_source": str,
            "surrogate_images": int,
        },
    ),
    DEVICE: ({"dataset"}, {"pairing": str, "digest": str}),
}
"""Arguments and records that are read by name elsewhere, and the types of these records."""

RECORDED_NUMBERS = (
    "best",
    "seconds",
    "threads",
    "dp_epsilon",
    "dp_noise_multiplier",
    "dp_steps",
)
"""Some records hold these as well."""

NAMED = {"dataset": "dataset", "surrogate": "dataset", "network": "network", "decoder": "decoder"}
"""Argument → the kind of part that it names."""

FEDERATED: dict[str, Any] = {
    "federated_clients": int,
    "federated_rounds": int,
    "federated_local_epochs": int,
    "federated_skew": float | int,
    "federated_drop": int,
    "federated_mode": str,
}
"""Further arguments of a classifier that several clients trained, and their types."""


class Stored(NamedTuple):
    """A checkpoint as read."""

    path: Path
    arguments: dict[str, Any]
    """What was asked for: the fields of the spec (for attackers also the digest of the target)."""
    record: dict[str, Any]
    """What came of it: epoch, validation value, precision, sources of data, seconds, versions."""
    weights: dict[str, Tensor]
    parts: dict[str, dict[str, Any]] = {}
    """Key of each part that is on → its `version`, and the file of the `plugin` that brought it."""

    @property
    def versions(self) -> dict[str, int]:
        """Key → version; 1 of those that are not named."""
        return {key: said["version"] for key, said in self.parts.items()}

    @property
    def stem(self) -> str:
        return self.path.name.removesuffix(".ckpt")

    @property
    def digest(self) -> str:
        """A fingerprint of the weights: equal for equal tensors, whatever else the file says."""
        return digest(self.weights)


def digest(weights: dict[str, Tensor]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of all tensors with their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(name.encode())
        total.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return total.hexdigest()[:16]


def read_whole(path: Path, kind: str) -> Stored:
    """A checkpoint whose content is what was written, and says what this version understands.

    Raises:
        UsageError: If not.
    """
    if not path.exists():
        raise UsageError(f"no checkpoint {path}; train it first")
    content, is_sealed = sealed.read(path, f"a dpsnn {kind}", "delete it and train it again")
    if content.get("dpsnn") != kind:
        raise UsageError(f"{path} is not a dpsnn {kind}; use a checkpoint that dpsnn wrote")
    version = content.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT:
        is_short = version is None or (type(version) is int and abs(version) < 10**6)
        raise UsageError(
            f"{path} has format {version if is_short else type(version).__name__}, not 1 to {FORMAT}: another version"
            " of dpsnn wrote it; train it again"
        )
    wanted = ("arguments", "record", "state_dict")
    held: list[Any] = [content.get(part) for part in wanted]
    stored = Stored(path, held[0], held[1], held[2], content.get("parts", {}))
    if (
        content.keys() - {"parts"} != {"dpsnn", "format", *wanted}
        or is_sealed != (version > 1)
        or not _is_whole(stored, kind)
    ):
        raise UsageError(
            f"{path} is damaged: parts are missing or of the wrong type; train it again"
        )
    _check_arguments(stored, kind, version)
    return stored


def _is_whole(stored: Stored, kind: str) -> bool:
    """Whether everything is there that readers rely on, in plain types."""
    _, arguments, record, weights, named = stored
    if not all(isinstance(part, dict) for part in (arguments, record, weights, named)):
        return False
    for key, said in named.items():
        if not (isinstance(key, str) and key.isprintable() and isinstance(said, dict)):
            return False
        if said.keys() != {"version", "plugin"} or not isinstance(said["plugin"], str):
            return False
        if type(said["version"]) is not int or not 1 <= said["version"] <= LARGEST:
            return False
    needed, recorded = NEEDED[kind]
    texts = [*arguments, *record, *weights, *(v for v in arguments.values() if isinstance(v, str))]
    return (
        all(isinstance(text, str) and text.isprintable() for text in texts)
        and all(isinstance(value, str | int | float | None) for value in arguments.values())
        and all(isinstance(arguments[k], of) for k, of in FEDERATED.items() if k in arguments)
        and all(isinstance(weight, Tensor) for weight in weights.values())
        and arguments.keys() >= needed
        and all(type(record.get(name)) is expected for name, expected in recorded.items())
        and all(type(record.get(name, 0)) in (int, float) for name in RECORDED_NUMBERS)
        and all(0 <= record.get(name, 0) <= LARGEST for name in ("epoch", "surrogate_images"))
        and ("mean_image" not in recorded or _is_picture(record["mean_image"]))
    )


def _is_picture(image: Tensor) -> bool:
    """Whether this is one image (C, H, W) whose finite values are in [0, 1]."""
    finite = image[image.isfinite()]
    return (
        image.dtype == torch.float32
        and image.dim() == 3
        and image.numel() > 0
        and not bool(((finite < 0) | (finite > 1)).any())
    )


def written(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a file says of the parts that its arguments set."""
    used = [
        each
        for each in parts.declared("defence")
        if any(arguments.get(made.name, made.default) != made.default for made in each.options)
    ]
    used += [each for each in parts.declared("attack") if each.key == arguments.get("attack")]
    return {each.key: {"version": each.version, "plugin": each.plugin} for each in used}


def _check_arguments(stored: Stored, kind: str, version: int) -> None:
    what = "attack" if kind == ATTACKER else "defence"
    known = {each.key: each for each in parts.declared(what)}
    for key, said in stored.parts.items():
        if key not in known:
            brought = "; install what brings it"
            if said["plugin"]:
                brought = f" of the plug-in {said['plugin']}; name it with --plugin"
            raise Lacking(f"{stored.path} needs the {what} {key[:40]!r}{brought}", stored)
    given = stored.arguments.keys()
    of_kind = AttackerSpec if kind == ATTACKER else ClassifierSpec
    expected = {made.name for made in settings(of_kind)}
    more = {"target"} if kind == ATTACKER else FEDERATED.keys()
    if unknown := sorted(given - expected - more):
        has = f"has the argument {unknown[0][:40]!r}, which"
        for key, said in stored.parts.items():
            if said["plugin"]:
                own = f"the {what} {key[:40]!r} of the plug-in {said['plugin']}"
                raise Lacking(
                    f"{stored.path} {has} {own} does not know now; name the version that wrote it",
                    stored,
                )
        raise UsageError(
            f"{stored.path} {has} this version of dpsnn does not know and cannot heed; use the version that wrote it"
        )
    # Of a part that came later an older file says nothing, and means that it is off.
    young = {key for key, each in known.items() if each.since > 1 and key not in stored.parts}
    # An earlier version of a part had not all the options of the present one.
    young |= {key for key, each in known.items() if stored.versions.get(key, 1) < each.version}
    later = {made.name for key in young for made in known[key].options}
    later -= {made.name for key in known.keys() - young for made in known[key].options}
    if kind == ATTACKER:
        every = (each for each in parts.declared("defence") if each.since > 1)
        later |= {made.after for each in every for made in each.options if made.after}
    missing = sorted(expected - given - later if version > 1 else ())
    if given & FEDERATED.keys():
        missing += sorted(FEDERATED.keys() - given)
    if missing:
        raise UsageError(f"{stored.path} lacks the argument {missing[0]!r}; train it again")
    for name, of in NAMED.items():
        _require(stored, name, of)


def _require(stored: Stored, name: str, kind: str) -> None:
    """Raise Lacking if an argument names a part that is not here; who brought it, a file does not say."""
    key = stored.arguments.get(name)
    try:
        if key and isinstance(key, str):
            one_of(key, parts.Registry(kind), name)
    except UsageError as error:
        said = f"{stored.path}: {error}; if a plug-in brought it, name that with --plugin"
        raise Lacking(said, stored) from error
