"""Calibrate a model of anyone's at one of its cuts, and write what was found."""

import datetime
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpsnn import __version__
from dpsnn.attacks.base import Learn
from dpsnn.attacks.decoder import LearnedDecoder
from dpsnn.audit import calibrate_beside as beside
from dpsnn.audit.calibrate import calibrate
from dpsnn.audit.calibrate_curve import Attackers, Heard, Roles
from dpsnn.audit.calibrate_noise import Goal, at_most
from dpsnn.audit.calibrate_result import Calibration, Settings
from dpsnn.audit.calibrate_server import accuracy as measured
from dpsnn.audit.calibrate_server import unscored
from dpsnn.audit.calibrate_size import fitting, roles_of
from dpsnn.audit.cuts import Cut
from dpsnn.audit.identity import of_module
from dpsnn.audit.inputs import of_model
from dpsnn.audit.lacking import lost
from dpsnn.audit.loading import Model
from dpsnn.audit.one_cut import Task, attacked, ended
from dpsnn.audit.people import people_of
from dpsnn.audit.plan import Budget
from dpsnn.audit.plan import budget as budget_of
from dpsnn.audit.plan import is_map
from dpsnn.audit.progress import Progress
from dpsnn.audit.result import NAME as AUDIT
from dpsnn.audit.result import Json, finite
from dpsnn.audit.run import PARTS
from dpsnn.audit.shown import png
from dpsnn.audit.sides import Sides
from dpsnn.audit.wire import at_lower, enough_memory, wire_of
from dpsnn.checkpoints import ensure_writable
from dpsnn.defences import DefenceList
from dpsnn.errors import UsageError
from dpsnn.numbers import check_count
from dpsnn.target import Target
from dpsnn.tensors import Number


@enough_memory()
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
    _check(cut, queries, accuracy, finetune_epochs, seed)
    _check_clip(clip)
    settings = Settings(
        kind=kind,
        clip=clip,
        queries=queries,
        accuracy=accuracy,
        finetune_epochs=finetune_epochs,
        seed=seed,
    )
    folder = Path(out)
    ensure_writable(folder)
    given = of_model(
        model, data, weights, surrogate, groups, None, size, seed, paid, data_dir, folder
    )
    known, sides = given.model, _strangers(given.sides)
    assert known is not None
    place = known.cuts(sides.image_shape, [cut])[0][0]
    sides = fitting(sides, place, queries)
    roles = roles_of(sides, place.target, seed)
    about = finite(_about(known, sides, place, roles, seed, budget))  # as it is read again
    about["model"]["answers"] = given.answers
    truth = _truth(roles, sides)
    refused = beside.unfit(folder / AUDIT, about, truth)
    _warn(folder, refused)
    if said := beside.replaced(folder / beside.NAME, place.name, goal.words):
        print(said, file=sys.stderr)
    settings = replace(settings, decoder=_decoder(place, paid, roles.reduced))
    target_seen = at_lower(place.target, tuple(roles.victims.shape[1:]))
    attackers = _attackers(place, sides, paid, queries, seed, folder)
    found = calibrate(target_seen, roles, goal, settings, place.server, learn, attackers)
    curve = [
        {**row, "pictures": _pictures(found, at, roles, sides)}
        for at, row in enumerate(found.curve)
    ]
    made = {"made": _made(command), **about, "calibration": found.plain(), "curve": curve}
    content = finite({"schema": beside.SCHEMA, **made})
    # First of all: whatever is the matter with the audit that lies there, this took hours.
    path = beside.write(content, folder / beside.NAME)
    print(_said(found), file=sys.stderr)
    if (reason := beside.give(folder / AUDIT, content, truth)) != refused:
        _warn(folder, reason)
    return path


def _strangers(sides: Sides) -> Sides:
    """The same with one picture of each victim: a promise is checked on other people than it was found with."""
    people = people_of(sides.victims)
    if people is None:
        return sides
    count, victims = int(people.max()) + 1, len(sides.victims)
    said = f"of {victims} pictures of victims {count} are used, one of each person"
    firsts = sides.victims.rows(torch.arange(count))
    return replace(sides, victims=firsts, notes=(*sides.notes, said))


def _truth(roles: Roles, sides: Sides) -> beside.Truth:
    rows = {row: at for at, row in enumerate(sides.victims.places.tolist())}
    return lambda row: png(roles.victims[rows[row]]) if row in rows else None


def _decoder(place: Cut, paid: Budget, reduced: bool) -> LearnedDecoder:
    epochs = next(each.settings["max_epochs"] for each in paid.attacks if each.key == "decoder")
    decoder = "grid" if is_map(place.target) else "conv"
    # As in an audit: pictures that are made up would have a lower resolution than those that are sent.
    augment = "none" if reduced else LearnedDecoder.augment
    return LearnedDecoder(decoder=decoder, max_epochs=epochs, augment=augment)


def _attackers(
    place: Cut, sides: Sides, paid: Budget, queries: int, seed: int, folder: Path
) -> Attackers:
    """Every attack of an audit's budget, kept where an audit in the same folder finds it."""

    def attack(noisy: Target) -> dict[str, Heard | str]:
        assert isinstance(noisy.mechanism, DefenceList)
        wire = wire_of(place.target, noisy.mechanism, sides, queries, seed, place.work)
        progress = Progress(1)
        made = [each for each in paid.at(wire) if not paid.hindrance(each, wire)]
        behind = ", ".join(map(str, noisy.mechanism.mechanism()))
        progress.at(f"{place.name} behind {behind}", made, 1)
        victims = sides.victims
        task = Task(paid, [seed], victims.classes, victims.places, folder / PARTS)
        attempts, causes, _ = attacked(wire, task, progress)
        rows = [ended(each, causes.get(label)) for label, each in attempts.items()]
        return {
            **{
                label: Heard(wire.heard, only.guesses)
                for label, (only,) in attempts.items()
                if only.status == "ok"
            },
            **{row["label"]: row["reason"] for row in lost(rows)},
        }

    return attack


def _warn(folder: Path, reason: str) -> None:
    if reason:
        print(f"{folder / AUDIT} does not get the curve: {reason}", file=sys.stderr)


def _made(command: str) -> Json:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.isoformat(timespec="seconds"),
        "dpsnn": __version__,
        "torch": str(torch.__version__),
        "command": command,
    }


def _about(known: Model, sides: Sides, place: Cut, roles: Roles, seed: int, budget: str) -> Json:
    """Of which network, pictures and cut this is, by the names that an audit has for it.

    Raises:
        UsageError: If there are classes that the model has no score for.
    """
    codes, right = roles.codes, None
    assert codes is not None
    if not unscored(place.target, codes, roles.labels, roles.own_labels):
        assert roles.labels is not None
        right = measured(place.target, codes, roles.labels, 1, seed)["value"]
    return {
        "model": {
            "name": known.name,
            "source": known.source,
            "digest": of_module(known.module),
            "parameters": known.parameters,
            "image_shape": [*sides.image_shape],
            "attacked_shape": [*roles.victims.shape[1:]],
            "accuracy": right,
            "notes": [*known.notes],
        },
        "data": {
            "name": sides.name,
            "digest": sides.digest,
            "images": sides.total,
            "own": len(roles.own),
            "victims": len(roles.victims),
            "surrogate": sides.surrogate,
            "groups": sides.groups,
            "notes": [*sides.notes],
        },
        "settings": {"seed": seed, "budget": budget},
        "cut": place.name,
        "shape": [*place.shape],
    }


def _check(
    cut: str, queries: int, accuracy: Number | None, finetune_epochs: int, seed: int
) -> None:
    if cut == "all":
        raise UsageError(
            "--cut is 'all', and noise is found for one cut; name it: an audit lists them"
        )
    if queries < 1:
        raise UsageError(f"queries is {queries}; each picture is sent once or more")
    if accuracy is not None and not 0 < accuracy <= 100:
        raise UsageError(
            f"accuracy is {accuracy}; it must be a percentage, above 0 and at most 100"
        )
    if finetune_epochs < 0:
        raise UsageError(f"finetune_epochs is {finetune_epochs}; it must be 0 or more")
    check_count(seed, "seed", 0)


def _check_clip(clip: Number | None) -> None:
    if clip is not None and not 0 < clip < float("inf"):
        raise UsageError(f"clip is {clip}; it must be a finite number, greater than 0")


def _pictures(found: Calibration, at: int, roles: Roles, sides: Sides) -> Json:
    """Of one noise, as of a cut in an audit: the same three victims at all noises."""
    shown, victims = found.shown, found.shown.victims
    return {
        "truth": {which: png(roles.victims[row]) for which, row in victims.items()},
        "guess": {which: png(guess) for which, guess in shown.guesses[at].items()},
        "victims": {which: int(sides.victims.places[row]) for which, row in victims.items()},
        "scores": shown.scores[at],
    }


def _said(found: Calibration) -> str:
    """What a reader wants first."""
    clip = "" if found.clip is None else f", behind a clip to {found.clip!r}"
    lines = [f"{found.goal['words']}: {found.kind} noise of {found.noise:g}{clip}"]
    if found.accuracy is not None and found.ceiling is not None:
        parts = {
            "without noise": "without",
            "with it": "as_it_is",
            "after a short training": "finetuned",
        }
        known = {word: found.accuracy[key] for word, key in parts.items()}
        told = [f"{word} {each['value']:.1f} %" for word, each in known.items() if each]
        lines.append(
            f"the server is right {', '.join(told)}; at most {at_most(found.ceiling)} % can be"
        )
    kept = {True: "kept", False: "NOT kept", None: "not judged"}[found.checked["kept"]]
    lines.append(f"on {found.checked['victims']} fresh victims the promise is {kept}")
    return "\n".join(lines)
