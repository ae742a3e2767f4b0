"""The audit from its inputs to its result: cut by cut and attack by attack, going on where an earlier call stopped."""

import datetime
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dpsnn import __version__, building
from dpsnn.audit.calibrate_beside import curve_beside
from dpsnn.audit.cuts import Cut
from dpsnn.audit.inputs import SMASHED, Inputs, of_model, of_pairs
from dpsnn.audit.one_cut import Task, audit_cut
from dpsnn.audit.options import defence_options
from dpsnn.audit.people import people_of
from dpsnn.audit.plan import Budget
from dpsnn.audit.plan import budget as budget_of
from dpsnn.audit.progress import Progress
from dpsnn.audit.result import NAME, PAIRS, AuditResult, Json
from dpsnn.audit.scoring import scales
from dpsnn.audit.shown import recommended
from dpsnn.audit.sides import Sides
from dpsnn.audit.wire import (
    Wire,
    attacked_shape,
    check_room,
    enough_memory,
    wire_of,
    wire_of_pairs,
)
from dpsnn.cores import cores
from dpsnn.defences import CutInfo, DefenceList
from dpsnn.errors import UsageError, meant
from dpsnn.memory import keep_memory
from dpsnn.numbers import LARGEST
from dpsnn.specs import ClassifierSpec
from dpsnn.target import Target

ALL = "all"
"""Cuts, unless some are named."""

PARTS = "attacks"
"""Folder, within that of the audit, where what each attack found is kept."""


@enough_memory()
def audit(
    model: str | nn.Module | Callable[[], nn.Module] | None = None,
    data: Any = None,
    *,
    weights: str = "",
    smashed: str = "",
    surrogate: Any = None,
    groups: str = "",
    trained_on: Any = None,
    size: int | None = None,
    cuts: Sequence[str] | str = (ALL,),
    queries: int = 1,
    budget: str = "quick",
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    data_dir: str = "data",
    command: str = "",
    **defences: Any,
) -> AuditResult:
    """Audit a model: how much of its inputs leaks at each cut, and what is guaranteed.

    Args:
        model: FILE.py:FUNCTION, a name of torchvision's, a checkpoint of ours, a module, or a function that makes one.
        data: What users send: a folder of pictures, FILE.npz, FILE.py:FUNCTION, a set of ours, or arrays.
        weights: A file with the model's state dict.
        smashed: FILE.npz with `images` and what was sent of each, `smashed`, for who cannot give the model.
        surrogate: What an attacker owns, as `data`; by default part of the data.
        groups: Whose pictures stay together: `subfolder`, or the name of an array beside the images.
        trained_on: The data that the model was trained on, as `data`.
        size: Pixels on a side of pictures of a folder.
        cuts: Names of modules behind which the model is cut, or `all`; also in one word, with commas between.
        queries: How often each picture is sent.
        budget: `quick`, `standard` or `thorough`.
        seeds: Of the split of the data, the first; and of the attacks, each.
        out: Folder for the result; what is there of an interrupted audit is gone on with. None writes nothing.
        data_dir: Where data sets of ours lie.
        command: By which it was called, for the record.
        defences: On the wire, by their flat names: `noise_scale=0.5`.

    Raises:
        UsageError: If something is not there, does not fit, or makes no sense; in one line.
        Contradictory: If what was found is what no audit finds; it has the result, and `out` a file of it.
    """
    start = time.monotonic()
    keep_memory()
    what = opened(
        model=model,
        data=data,
        weights=weights,
        smashed=smashed,
        surrogate=surrogate,
        groups=groups,
        trained_on=trained_on,
        size=size,
        cuts=cuts,
        queries=queries,
        budget=budget,
        seeds=seeds,
        out=out,
        data_dir=data_dir,
        **defences,
    )
    say_replaced(what)
    made = Audit(what)
    result = AuditResult(
        made={**_made(command), "seconds": 0.0},
        model=made.model,
        data=_data(made.sides),
        settings={
            "budget": budget,
            "seeds": list(seeds),
            "queries": queries,
            "defences": made.defended,
            "victims_scored": made.victims,
        },
        measures=made.measures,
        cuts=made.cuts,
        recommended=recommended(made.cuts),
        reproduce=command or "dpsnn.audit(...)",
    )
    result.made["seconds"] = round(time.monotonic() - start, 2)
    if out is not None:
        if found_beside := curve_beside(result, out):
            result = replace(result, curve=found_beside[0], curve_cut=found_beside[1])
        result.save(Path(out) / NAME)
    # As it is read again.
    return result.checked()


class Opened(NamedTuple):
    """What is audited, and how."""

    found: Inputs
    budget: Budget
    seeds: list[int]
    queries: int
    defences: Mapping[str, Any]
    folder: Path | None
    names: list[str]
    """Of cuts."""


def opened(
    *,
    model: Any,
    data: Any,
    weights: str,
    smashed: str,
    surrogate: Any,
    groups: str,
    trained_on: Any,
    size: int | None,
    cuts: Sequence[str] | str,
    queries: int,
    budget: str,
    seeds: Sequence[int],
    out: str | Path | None,
    data_dir: str,
    **defences: Any,
) -> Opened:
    """What an audit is of, found and read; arguments and errors are those of `audit`."""
    paid, seeds = budget_of(budget), _checked(queries, seeds)
    names = cut_names(cuts)
    _known(defences)
    source = (model, data, weights, surrogate)
    if smashed:
        more = {"size": size, "cuts": names != [ALL], "queries": queries > 1, **defences}
        _alone(**dict(zip(("model", "data", "weights", "surrogate"), source)), **more)
    folder = None if out is None else _folder(Path(out))
    if smashed:
        found: Inputs = of_pairs(smashed, groups, trained_on, seeds[0], paid)
    else:
        found = of_model(*source, groups, trained_on, size, seeds[0], paid, data_dir, folder)
    return Opened(found, paid, seeds, queries, defences, folder, names)


def cut_names(cuts: Sequence[str] | str) -> list[str]:
    """Each by itself, where several stand in one word with commas between: no module's name has one.

    Raises:
        UsageError: If none is left.
    """
    words = [cuts] if isinstance(cuts, str) else cuts
    names = [name for word in words for each in word.split(",") if (name := each.strip())]
    if not names:
        raise UsageError("--cuts names no cut; name some, or leave it out for all")
    return names


def _checked(queries: int, seeds: Sequence[int]) -> list[int]:
    if queries < 1:
        raise UsageError(f"queries is {queries}; each picture is sent once or more")
    if not seeds or min(seeds) < 0 or max(seeds) > LARGEST or len({*seeds}) < len(seeds):
        raise UsageError(
            f"seeds are {list(seeds)}; name different whole numbers from 0 to {LARGEST}"
        )
    return list(seeds)


def _known(defences: Mapping[str, Any]) -> None:
    """Refuse what is no setting of a defence: it would be taken, and do nothing."""
    allowed = defence_options()
    for name in defences:
        if name not in allowed:
            raise UsageError(
                f"there is no setting {name} of an audit, nor of a defence on its wire{meant(name, allowed)}; defences"
                " are set as noise_scale=0.5, all else is named in docs/audit.md"
            )


def _alone(**others: object) -> None:
    """Refuse what pairs leave no room for."""
    left = [
        name
        for name, value in others.items()
        if value is None or value is False or isinstance(value, str) and not value
    ]
    if given := [f"--{name}" for name in others if name not in left]:
        raise UsageError(
            f"--smashed gives what was sent, of one cut: it has no use for {', '.join(given)}; leave out one or the"
            " other"
        )


def _folder(out: Path) -> Path:
    """Where what each attack finds is kept."""
    place = out / PARTS
    if file := next((each for each in (place, *place.parents) if each.is_file()), None):
        raise UsageError(f"{file} is a file; name a folder with --out")
    place.mkdir(parents=True, exist_ok=True)
    if (out / NAME).is_dir():
        raise UsageError(f"{out / NAME} is a folder; take it away, or name another with --out")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{place} may not be written to; name another folder with --out")
    return place


def say_replaced(what: Opened) -> None:
    """Say on standard error if the audit that lies in the folder is of something else, and will be lost.

    Of other settings of attackers it is not: who gives them more time wants the new one.
    """
    path = None if what.folder is None else what.folder.parent / NAME
    if path is None or not path.is_file():
        return
    try:
        there = AuditResult.load(path)
    except (OSError, UsageError):
        return
    found, ours, theirs = what.found, {SMASHED}, [cut["name"] for cut in there.cuts]
    defended: list[str] = []
    if found.model is not None:
        cuts, _ = found.model.cuts(found.sides.image_shape, what.names)
        ours = {cut.name for cut in cuts}
        # What is written down is that of the last cut; it may depend on what limits the values there.
        last = next((cut for cut in cuts if cut.name in theirs[-1:]), cuts[-1]).target
        defended = _steps(_mechanism(last, what.defences), last)
    queries = there.settings["queries"]
    other = {
        "another model": there.model["digest"] != found.digest,
        "other pictures": there.data["digest"] != found.sides.digest,
        "another wire": (there.settings["defences"], queries) != (defended, what.queries),
        "other cuts": not {*theirs} <= ours,
    }
    differing = [name for name, differs in other.items() if differs]
    if differing:
        print(
            f"{path} is of {' and '.join(differing)} ({there.model['name']} on {there.data['name']}) and will be"
            " replaced: name another --out to keep it",
            file=sys.stderr,
        )


# ---------------------------------------------------------------- the work


class Audit:
    """Every cut, one after another; what the result says of them.

    Args:
        what: Is audited.
        only: Seeds that attacks are made with, if not all: pictures are dealt out, and noise is drawn, as for all.
    """

    def __init__(self, what: Opened, only: Sequence[int] | None = None) -> None:
        found, budget, seeds, queries, defences, folder, names = what
        made_with = seeds if only is None else only
        sides, model = found.sides, found.model
        self.sides = sides
        self.defended: list[str] = []
        self.measures: list[Json] = []
        self.cuts: list[Json] = []
        self.victims = 0
        cuts: Sequence[Cut | None] = [None]
        refused: Mapping[str, str] = {}
        if model is not None:
            found_cuts, refused = model.cuts(sides.image_shape, names)
            cuts, too_large = _with_room(found_cuts, sides, queries, names == [ALL])
            refused = {**refused, **too_large}
        task = Task(
            budget,
            made_with,
            sides.victims.classes,
            sides.victims.places,
            folder,
            _data_doubts(sides),
        )
        progress = Progress(len(cuts))
        classes = None
        for number, cut in enumerate(cuts, 1):
            if cut is None:
                assert found.smashed is not None
                wire = wire_of_pairs(sides, found.smashed)
            else:
                mechanism = _mechanism(cut.target, defences)
                self.defended = _steps(mechanism, cut.target)
                wire = wire_of(cut.target, mechanism, sides, queries, seeds[0], cut.work)
                classes = cut.target.num_classes
            where = f"cut {number}/{len(cuts)} {cut.name if cut else SMASHED}"
            made = [each for each in budget.at(wire) if not budget.hindrance(each, wire)]
            progress.at(where, made, len(made_with))
            self._one(cut, wire, sides, task, progress)
        progress.done()
        shape = attacked_shape(sides.image_shape)
        self.model: Json = {
            "name": model.name if model else PAIRS,
            "source": model.source if model else sides.name,
            "digest": found.digest,
            "answers": found.answers,
            "parameters": model.parameters if model else None,
            "image_shape": [*sides.image_shape],
            "attacked_shape": [*shape],
            "classes": classes,
            "notes": [*(model.notes if model else ())],
            "no_cuts": [{"name": name, "reason": reason} for name, reason in refused.items()],
        }

    def _one(
        self, cut: Cut | None, wire: Wire, sides: Sides, task: Task, progress: "Progress"
    ) -> None:
        alike = sides.surrogate is None or sides.own.classes == sides.victims.classes
        labels = sides.own.labels[: len(wire.own)] if alike and sides.own.classes else None
        measures = scales(wire, labels)
        if len(wire.victims) >= self.victims:
            self.victims, self.measures = len(wire.victims), [each.plain() for each in measures]
        self.cuts.append(audit_cut(cut, wire, measures, task, progress))


def _mechanism(target: Target, given: Mapping[str, Any]) -> DefenceList:
    """The defences asked for, on the wire of a target.

    Raises:
        UsageError: If one does nothing on the wire of a trained model, or the model has its own already.
    """
    parts = ClassifierSpec(**given).active
    if parts and not target.sends_as_is:
        raise UsageError(
            f"{target.name} was trained with a defence on its wire; leave out others, or audit one without"
        )
    info = CutInfo(target.cut_shape, _three(target), target.num_classes or 1, _bound(target))
    modules = []
    for part in parts:
        module = building.built(part, info)
        if module is None or not module.mechanism():
            raise UsageError(
                f"{part.label or part.key} acts in training, and a model is audited as it is; leave it out"
            )
        modules.append(module)
    return DefenceList(sorted(modules, key=lambda module: module.place)).eval()


def _steps(made: DefenceList, target: Target) -> list[str]:
    """What is done on the wire: by these defences, else by the target's own."""
    return [str(step) for step in (made if len(made) else target.mechanism).mechanism()]


def _with_room(
    cuts: Sequence[Cut], sides: Sides, queries: int, some: bool
) -> tuple[list[Cut], dict[str, str]]:
    """Cuts whose activations memory can hold, and why others are left out.

    Args:
        cuts: All.
        sides: Pictures.
        queries: How often each is sent.
        some: Whether others may be left out.

    Raises:
        UsageError: If none is left, or one was asked for by its name.
    """
    counts = [len(part) for part in (sides.own, sides.validation, sides.victims)]
    able, left = [], {}
    for cut in cuts:
        try:
            check_room(math.prod(cut.shape), counts, queries)
        except UsageError as error:
            if not some:
                raise UsageError(f"{cut.name}: {error}") from error
            left[cut.name] = str(error)
        else:
            able.append(cut)
    if not able:
        raise UsageError(next(iter(left.values())))
    return able, left


def _three(target: Target) -> tuple[int, int, int]:
    channels, height, width = target.image_shape
    return channels, height, width


def _bound(target: Target) -> float | None:
    """Largest absolute value of an activation, where something limits it."""
    low, high = float(target.values.low), float(target.values.high)
    largest = max(abs(low), abs(high))
    return largest if largest < float("inf") else None


def _victims(number: int) -> str:
    return "1 victim" if number == 1 else f"{number} victims"


def _data_doubts(sides: Sides) -> list[str]:
    """What of the data should make a reader doubt."""
    found = []
    if sides.near_duplicates:
        found.append(
            f"of {_victims(sides.near_duplicates)} the attacker owns nearly the same picture already"
        )
    if sides.overlap:
        found.append(f"the model was trained on pictures of {_victims(sides.overlap)}")
    return found


# ---------------------------------------------------------------- for the record


def _made(command: str) -> Json:
    now = datetime.datetime.now(datetime.timezone.utc)
    where = "a GPU" if torch.cuda.is_available() else f"{cores()} cores"
    return {
        "date": now.isoformat(timespec="seconds"),
        "dpsnn": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {where}",
        "command": command or shlex.join(sys.argv[:1]),
    }


def _data(sides: Sides) -> Json:
    people = people_of(sides.victims)
    return {
        "name": sides.name,
        "digest": sides.digest,
        "images": sides.total,
        "own": len(sides.own),
        "own_validation": len(sides.validation),
        "victims": len(sides.victims),
        "people": None if people is None else int(people.max()) + 1,
        "surrogate": sides.surrogate,
        "groups": sides.groups,
        "near_duplicates": sides.near_duplicates,
        "overlap_with_training": sides.overlap,
        "notes": [*sides.notes],
    }
