"""All that is found at one cut, in plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dpsnn.attacks.base import DIVERGED
from dpsnn.audit import promises, scoring, shown
from dpsnn.audit.attacking import Attempt, attempt
from dpsnn.audit.averaging import AVERAGE, averaged
from dpsnn.audit.cuts import Cut
from dpsnn.audit.doubts import doubts
from dpsnn.audit.intervals import around, estimate, share_of, unseen
from dpsnn.audit.lacking import FAILED
from dpsnn.audit.people import People
from dpsnn.audit.plan import Budget, Planned
from dpsnn.audit.progress import Progress
from dpsnn.audit.result import Json
from dpsnn.audit.scoring import Scale
from dpsnn.audit.wire import Wire
from dpsnn.metrics.dependence import LEAST, block_size, dcorr_blocks
from dpsnn.metrics.distance_correlation import signed_root
from dpsnn.metrics.floors import majority_share

PIXELS = "pixels"
"""Setting of an attack that rebuilds pictures at a lower resolution than others."""


BLOCKS, BLOCKED = 10, 30
"""Of the distance correlation, so many of so many victims at least, for an interval; of fewer victims two blocks."""


@dataclass(frozen=True)
class Task:
    """How every cut is audited."""

    budget: Budget
    seeds: Sequence[int]
    classes: Sequence[str]
    rows: Tensor
    """Of the victims, in the data as it was given."""
    folder: Path | None
    doubts: Sequence[str] = ()
    """Reasons to doubt that the data give."""


def audit_cut(
    cut: Cut | None,
    wire: Wire,
    measures: Sequence[Scale],
    task: Task,
    told: Progress,
) -> Json:
    """Attack one cut, and say what came of it.

    Args:
        cut: Where; None where there are pairs alone.
        wire: What is heard there.
        measures: Those that are defined.
        task: How.
        told: Is told of each attack, with its seed, before it is made.
    """
    attempts, causes, short = attacked(wire, task, told)
    name = cut.name if cut else "smashed"
    values = {
        label: {scale.column: scoring.per_victim(each, scale, wire) for scale in measures}
        for label, each in attempts.items()
    }
    rows = [
        _row(each, values[label], wire.people, causes.get(label))
        for label, each in attempts.items()
    ]
    total = len(wire.victims)
    strongest: dict[str, Json] = {}
    gains: dict[str, Json] = {}
    for scale in measures:
        scores = {
            label: torch.stack(each[scale.column]).mean(0)
            for label, each in values.items()
            if each[scale.column]
        }
        of_seeds = {label: each[scale.column] for label, each in values.items()}
        if found := scoring.strongest_of(scores, scale.lower_leaks, total, of_seeds, wire.people):
            # Beside floors of the very victims that it is of: other attacks, and other cuts, have others.
            strongest[scale.column] = {**found, **scale.floors(found["victims"])}
        if scale.column in shown.REACH and (
            gain := scoring.gained(attempts, of_seeds, scale, wire)
        ):
            gains[scale.column] = gain
    identified, copied = scoring.searched(attempts, wire)
    said = _of_strongest(attempts, values, strongest, measures, wire, task)
    promised, beaten = promises.kept(promises.guarantees(wire), identified, said.pop("beaten"))
    matched = promises.matched(wire, said["bounds"])
    accuracy, odd = _accuracy(wire, bool(task.classes))
    return {
        "name": name,
        "order": cut.order if cut else 0,
        "kind": cut.kind if cut else "given",
        "shape": [*wire.cut_shape],
        "values": wire.activations[0].numel(),
        "bytes": 4 * wire.activations[0].numel(),
        "weights_share": cut.weights_share if cut else None,
        "flops_share": cut.flops_share if cut else None,
        "notes": [
            *(cut.notes if cut else ()),
            *_notes(wire, rows, len(task.rows), strongest),
            *short,
        ],
        "accuracy": accuracy,
        "dcorr": _dcorr(wire),
        "attacks": rows,
        "strongest": strongest,
        "gains": gains,
        "reidentified": identified,
        "copied": copied,
        "matched": matched,
        **said,
        "guarantees": promised,
        "flags": doubts(wire, rows, name, beaten, task.doubts, accuracy, odd),
        "verdict": shown.verdict(name, strongest, rows, total, gains, identified, matched, copied),
    }


def _short(planned: Planned, settled: Planned, wire: Wire) -> list[str]:
    """What is to be said where less of an attack is paid for than it would take."""
    steps, of = (each.settings.get("steps", 0) for each in (settled, planned))
    tuned, most = settled.tuned(wire), planned.tuned(wire)
    if steps == of and tuned == most:
        return []
    on = f", tuned on {tuned} of {most} own pictures" if tuned < most else ""
    return [
        f"{planned.label} took {steps} of {of} steps{on}, as many as are paid for: it may find more with a larger"
        " --budget"
    ]


def attacked(
    wire: Wire, task: Task, told: Progress
) -> tuple[dict[str, list[Attempt]], dict[str, str], list[str]]:
    """Every attack with every seed, as far as it was not made before; why some are not made; which fell short."""
    attempts: dict[str, list[Attempt]] = {}
    causes: dict[str, str] = {}
    short: list[str] = []
    for planned in task.budget.at(wire):
        if hindrance := task.budget.hindrance(planned, wire):
            causes[planned.label] = hindrance.cause
            attempts[planned.label] = [Attempt(planned, 0, "skipped", hindrance.reason)]
            continue
        settled, given = task.budget.ready(planned, wire)
        short += _short(planned, settled, wire)
        for seed in task.seeds:
            told(planned, seed)
            done = attempt(given, settled, seed, task.folder)
            if done.kept:
                told.found(planned)
            attempts.setdefault(planned.label, []).append(_whole(done, wire))
    if together := averaged(attempts, wire):
        attempts[AVERAGE.label] = together
    return attempts, causes, short


def _notes(
    wire: Wire, rows: Sequence[Json], asked: int, strongest: Mapping[str, Json]
) -> list[str]:
    found, total = [], len(wire.victims)
    if total < asked:
        found.append(f"{total} of {asked} victims are attacked here, as there is no room for more")
    if wire.is_reduced:
        size = "×".join(map(str, wire.image_shape[1:]))
        found.append(
            f"attacked at {size} pixels, while the client sees pictures as they are sent; attacks that ask the client"
            " for pictures of their own are left out"
        )
    for row in rows:
        if row["status"] == "ok" and row["victims"] < total:
            ahead = [
                name for name, each in strongest.items() if row["label"] in each.get("open", ())
            ]
            found.append(
                f"{row['label']} was scored on {row['victims']} of {total} victims"
                + (f", and on all may find more by {', '.join(ahead)}" if ahead else "")
            )
        if size := row["settings"].get(PIXELS):
            found.append(
                f"{row['label']} rebuilds pictures of {size} pixels, as a map to larger ones would be too large"
            )
    return found


def _whole(done: Attempt, wire: Wire) -> Attempt:
    """The same with guesses of the size at which pictures are attacked, if they were found at a lower resolution."""
    small = tuple(done.guesses.shape[2:])
    if done.status != "ok" or small == wire.image_shape[1:]:
        return done

    def enlarged(guesses: Tensor) -> Tensor:
        size = wire.image_shape[1:]
        return F.interpolate(guesses, size, mode="bilinear", align_corners=False).clamp(0, 1)

    return replace(
        done,
        guesses=enlarged(done.guesses),
        judged=None if done.judged is None else enlarged(done.judged),
        settings={**done.settings, PIXELS: "×".join(map(str, small))},
    )


def ended(attempts: Sequence[Attempt], skipped: str | None = None) -> Json:
    """Whether an attack came to an end with all seeds, and if not, why; arguments as those of a row."""
    first = next((each for each in attempts if each.status == "ok"), attempts[0])
    bad = next((each for each in attempts if each.status != "ok"), None)
    reason = None if bad is None else bad.reason
    if bad is not None and len({each.reason for each in attempts}) > 1:
        reason = f"seed {bad.seed}: {bad.reason}"
    return {
        "attack": first.planned.key,
        "label": first.planned.label,
        "status": "ok" if bad is None else bad.status,
        "reason": reason,
        "cause": None if bad is None else skipped or FAILED,
        "learns": first.planned.maps,
    }


def _row(
    attempts: Sequence[Attempt],
    values: Mapping[str, Sequence[Tensor]],
    people: People,
    skipped: str | None = None,
) -> Json:
    """One attack, over all seeds.

    Args:
        attempts: One for each seed.
        values: Column → for each seed one for each victim.
        people: Whose pictures the victims are.
        skipped: Why it was not made, by `dpsnn.audit.lacking.CAUSES`.
    """
    done = [each for each in attempts if each.status == "ok"]
    first = done[0] if done else attempts[0]

    def mean(name: str) -> float | None:
        found = [getattr(each, name) for each in done if getattr(each, name) is not None]
        return sum(found) / len(found) if found else None

    diverged = any(each.doubling == DIVERGED for each in done)
    return {
        **ended(attempts, skipped),
        "settings": first.settings,
        "victims": min((each.victims for each in done), default=0),
        "measures": {c: estimate(each, people) for c, each in values.items() if each},
        "seconds": sum(each.seconds for each in attempts),
        "own_error": mean("own_error"),
        "own_floor": mean("own_floor"),
        "own_spread": mean("own_spread"),
        "doubling": None if diverged else mean("doubling"),
        "diverged": diverged,
    }


def _of_strongest(
    attempts: Mapping[str, Sequence[Attempt]],
    values: Mapping[str, Mapping[str, Sequence[Tensor]]],
    strongest: Mapping[str, Json],
    measures: Sequence[Scale],
    wire: Wire,
    task: Task,
) -> Json:
    """What is shown of the strongest attack by the squared error alone: its victims, classes, pictures, bounds.

    Victims and pictures are those of one seed: an attacker has one run. The worst are those of the attack that is worst
    for these, of all that were scored on as many victims as any.
    """
    nothing: Json = {
        "distribution": None,
        "by_class": [],
        "pictures": None,
        "bounds": None,
        "beaten": "",
    }
    main = next((scale for scale in measures if scale.column == "MSE"), None)
    if main is None or main.column not in strongest:
        return nothing
    label = strongest[main.column]["by"][0]
    firsts = {
        name: next(each for each in attempts[name] if each.status == "ok")
        for name, each in values.items()
        if each[main.column]
    }
    scores = {name: {column: each[0] for column, each in values[name].items()} for name in firsts}
    most = max(len(each[main.column]) for each in scores.values())
    tails = {
        name: float(shown.tail(each[main.column], main.lower_leaks)[0].mean())
        for name, each in scores.items()
        if len(each[main.column]) == most
    }
    worst = (min if main.lower_leaks else max)(tails, key=lambda name: tails[name])
    count = len(scores[label][main.column])
    usual = {scale.column: scale.of(scale.nothing.reconstructions, wire) for scale in measures}
    every = {
        f"{name}, seed {each.seed}": each.guesses
        for name, of_seeds in attempts.items()
        for each in of_seeds
        if each.victims > 1
    }
    limits, beaten = promises.bounds(wire, every)
    return {
        "distribution": {
            "column": main.column,
            **shown.spread(scores[label][main.column], main.lower_leaks, wire.people),
            **shown.worst(
                scores[worst][main.column], usual[main.column], task.rows, main.lower_leaks
            ),
            "worst_by": worst,
            "fare_worse": unseen(min(most, wire.strangers), len(tails)),
        },
        "by_class": shown.by_class(
            values[label],
            {column: each[:count] for column, each in usual.items()},
            wire.labels[:count],
            task.classes,
            wire.people,
        ),
        "pictures": shown.pictures(
            (firsts[label].guesses, scores[label]),
            (firsts[worst].guesses, scores[worst]),
            wire.victims,
            task.rows,
            main.lower_leaks,
        ),
        "bounds": limits,
        "beaten": beaten,
    }


@torch.no_grad()
def _accuracy(wire: Wire, labelled: bool) -> tuple[Json | None, str]:
    """Of the server on the very tensors that are attacked, in percent; None without labels or scores of classes.

    Scores that are no finite numbers are those of no class. Beside it stands what is odd about scores, if anything is.
    """
    if not labelled or wire.whole is None or wire.whole.server is None:
        return None, ""
    logits = wire.whole.answer(wire.heard).cpu()
    if logits.dim() != 2 or int(wire.labels.max()) >= max(2, logits.shape[1]):
        return None, ""
    guess = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
    finite, odd = logits.isfinite().all(1), ""
    if not bool(finite.all()):
        odd = (
            f"its scores of {int((~finite).sum())} of {len(finite)} pictures are no finite numbers"
        )
    elif logits.shape[1] == 1 and 0 <= float(logits.min()) and float(logits.max()) <= 1:
        odd = "its only score lies between 0 and 1 for every picture, and is that of class 1 from 0 on"
    share, low, high = share_of(((guess == wire.labels) & finite).double(), wire.people)
    ends = {"value": 100 * share, "low": 100 * low, "high": 100 * high}
    return {**ends, "floor": majority_share(wire.labels)}, odd


def _dcorr(wire: Wire) -> Json | None:
    """Distance correlation of pictures and what is sent of them once, beside that of shuffled pairs.

    Of victims enough for ten blocks of `BLOCKED` it has an interval, over these blocks. Of them the squares are
    averaged, which are unbiased; the mean of roots is too small where little leaks.
    """
    count = min(scoring.CANDIDATES, wire.strangers)
    if count < LEAST:
        return None
    many = count >= BLOCKS * BLOCKED
    size = count // BLOCKS if many else block_size(count)
    blocks = dcorr_blocks(wire.victims[:count], wire.heard[0, :count], size)
    squares, floors = (each.double() * each.double().abs() for each in blocks)
    ends = around(squares) if many else (squares.mean(), None, None)
    value, low, high, floor = (
        None if end is None else float(signed_root(torch.tensor(float(end))).clamp(-1, 1))
        for end in (*ends, floors.mean())
    )
    return {"value": value, "low": low, "high": high, "floor": floor, "n": size}
