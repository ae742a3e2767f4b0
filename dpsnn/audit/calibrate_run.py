"""Calibrate a model of anyone's at one of its cuts, and write what was found."""

import datetime
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpsnn import __version__
from dpsnn.atomic import staged
from dpsnn.attacks.base import Learn
from dpsnn.attacks.decoder import LearnedDecoder
from dpsnn.audit.calibrate import calibrate
from dpsnn.audit.calibrate_curve import Roles
from dpsnn.audit.calibrate_noise import Goal
from dpsnn.audit.calibrate_result import Calibration, Settings
from dpsnn.audit.inputs import of_model
from dpsnn.audit.plan import SMALLEST_MAP
from dpsnn.audit.plan import budget as budget_of
from dpsnn.audit.result import NAME as AUDIT
from dpsnn.audit.result import AuditResult, Json, finite
from dpsnn.audit.shown import png
from dpsnn.audit.wire import attacked_shape
from dpsnn.batches import to_unit
from dpsnn.checkpoints import ensure_writable
from dpsnn.errors import UsageError
from dpsnn.tensors import Images, Number

SCHEMA = "dpsnn-calibration/1"

NAME = "calibration.json"
"""Of the file."""


def calibrate_model(
    model: str | nn.Module | Callable[[], nn.Module],
    data: Any,
    cut: str,
    target: str,
    *,
    weights: str = "",
    surrogate: Any = None,
    groups: str = "",
    size: int | None = None,
    kind: str = "best",
    clip: Number | None = None,
    queries: int = 1,
    accuracy: Number | None = None,
    finetune_epochs: int = 0,
    budget: str = "quick",
    seed: int = 0,
    data_dir: str = "data",
    out: str | Path = "audit",
    command: str = "",
    learn: Learn | None = None,
) -> Path:
    """Find the noise that keeps a promise at a cut, and write it beside an audit, which gets the curve.

    Args:
        model: As of `dpsnn.audit`, and so are the others that it has.
        data: Images and their classes.
        cut: Module behind which the model is cut.
        target: The promise, as `Goal.parse` reads it.
        kind: Of the noise, or `best`.
        clip: What is sent is clipped to, before the noise.
        accuracy: Per cent that are asked for.
        finetune_epochs: How long the server is trained with the noise on.
        learn: Trains; by default a training that keeps no progress.

    Returns:
        The file.

    Raises:
        UsageError: If something is not there, or no noise or no server can do what is asked.
    """
    goal, paid = Goal.parse(target), budget_of(budget)
    _check(clip, queries, accuracy, finetune_epochs)
    ensure_writable(Path(out))
    given = of_model(model, data, weights, surrogate, groups, None, size, seed, paid, data_dir)
    known, sides = given.model, given.sides
    assert known is not None
    if attacked_shape(sides.image_shape) != sides.image_shape:
        raise UsageError(
            f"pictures of shape {sides.image_shape} are too large for attacks on every noise; give smaller ones with"
            " --size"
        )
    cuts, _ = known.cuts(sides.image_shape, [cut])
    place = cuts[0]
    labelled = bool(sides.victims.classes)
    alike = labelled and sides.own.classes == sides.victims.classes
    roles = Roles(
        torch.cat([sides.own.images, sides.validation.images]),
        to_unit(sides.victims.images),
        torch.cat([sides.own.labels, sides.validation.labels]) if alike else None,
        sides.victims.labels if labelled else None,
    )
    is_map = len(place.shape) == 3 and min(place.shape[1:]) >= SMALLEST_MAP
    epochs = next(each.settings["max_epochs"] for each in paid.attacks if each.key == "decoder")
    settings = Settings(
        kind=kind,
        clip=clip,
        queries=queries,
        accuracy=accuracy,
        finetune_epochs=finetune_epochs,
        decoder=LearnedDecoder(decoder="grid" if is_map else "conv", max_epochs=epochs),
        seed=seed,
    )
    found = calibrate(place.target, roles, goal, settings, place.server, learn)
    curve = [
        {**row, "pictures": _pictures(found, at, roles.victims)}
        for at, row in enumerate(found.curve)
    ]
    content = {
        "schema": SCHEMA,
        "made": {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "dpsnn": __version__,
            "torch": str(torch.__version__),
            "command": command,
        },
        "model": {"name": known.name, "source": known.source, "notes": [*known.notes]},
        "cut": place.name,
        "calibration": found.plain(),
        "curve": curve,
    }
    print(_said(found), file=sys.stderr)
    _add(curve, place.name, Path(out) / AUDIT)
    return _written(finite(content), Path(out) / NAME)


def _check(
    clip: Number | None, queries: int, accuracy: Number | None, finetune_epochs: int
) -> None:
    if clip is not None and not 0 < clip < float("inf"):
        raise UsageError(f"clip is {clip}; it must be a finite number, greater than 0")
    if queries < 1:
        raise UsageError(f"queries is {queries}; each picture is sent once or more")
    if accuracy is not None and not 0 < accuracy <= 100:
        raise UsageError(
            f"accuracy is {accuracy}; it must be a percentage, above 0 and at most 100"
        )
    if finetune_epochs < 0:
        raise UsageError(f"finetune_epochs is {finetune_epochs}; it must be 0 or more")


def _pictures(found: Calibration, at: int, victims: Images) -> Json:
    """Of one noise, as of a cut in an audit: the same three victims at all noises."""
    shown = found.shown
    return {
        "truth": {which: png(victims[row]) for which, row in shown.victims.items()},
        "guess": {which: png(guess) for which, guess in shown.guesses[at].items()},
        "victims": shown.victims,
        "scores": shown.scores[at],
    }


def _said(found: Calibration) -> str:
    """What a reader wants first."""
    clip = "" if found.clip is None else f", behind a clip to {found.clip:g}"
    lines = [f"{found.goal['words']}: {found.kind} noise of {found.noise:.4g}{clip}"]
    if found.accuracy is not None:
        parts = {
            "without noise": "without",
            "with it": "as_it_is",
            "after a short training": "finetuned",
        }
        known = {word: found.accuracy[key] for word, key in parts.items()}
        told = [f"{word} {each['value']:.1f} %" for word, each in known.items() if each]
        lines.append(f"the server is right {', '.join(told)}; at most {found.ceiling:.1f} % can be")
    kept = {True: "kept", False: "NOT kept", None: "not judged"}[found.checked["kept"]]
    lines.append(f"on {found.checked['victims']} fresh victims the promise is {kept}")
    return "\n".join([*lines, *found.notes])


def _add(curve: list[Json], cut: str, path: Path) -> None:
    """Give the curve to the audit that lies there, if it is of this cut."""
    if path.is_file():
        result = AuditResult.load(path)
        if cut in {each["name"] for each in result.cuts}:
            replace(result, curve=curve).save(path)


def _written(content: Json, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return path
