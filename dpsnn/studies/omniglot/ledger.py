"""The Omniglot part of the ledger: DP-SGD as published, as repeated with its flaws, and as done fairly."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpsnn.evaluation import tables
from dpsnn.evaluation.legends import defences
from dpsnn.evaluation.rows import Row, of_longest
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import number
from dpsnn.metrics.privacy import dp_sgd_epsilon
from dpsnn.studies.omniglot.study import PUBLISHED, Published
from dpsnn.tensors import Number

TOLERANCE = 8.0
"""Largest difference of accuracies, in points, that counts as reproduced."""

BATCH, EPOCHS, DELTA = 32, 20, 1e-5
IMAGES = (13_180, 11_000)
"""Of the published accounting, and of those that were trained on."""

TOP = """\
The RStudio AI blog of May 2020 trained a client of four convolutions to name the alphabet of Omniglot characters, with
and without DP-SGD, and rebuilt characters of other alphabets from what the client gives.
`./main.sh omniglot` repeats it with its flaws (*protocol*) and does it again without them (*fair*).

- (j) ε was computed for 13,180 images; 11,000 were trained on.
- (k) Batch normalisation mixes the images of a batch, so that no ε holds at all.
- (l) Images were shuffled, not drawn by Poisson sampling as the ε assumes (not repeated).
- (m) Accuracies are of training images; dropout, epochs and step size differ with and without DP-SGD. Fairly, only the
  step size does, as published.
- (n) Greek and Latin stand among the attacker's images and among those it is scored on.
- (o) Reconstructions were judged by eye on 16 pictures, without a floor.

*Paper ε*: as published, with the conversion of its time; recomputed for both numbers of images. *Fair ε*: what our
training spent, by Rényi accounting in today's conversion, if the seed of its noise were secret; so that anyone can
repeat the study, it is not. *±*: standard error over images. *MSE* and *SSIM* are of all 3,120 pictures, by the
published decoder of transposed convolutions, by ours, which is wider and normalised and sees the wire standardised, and
by the best linear map.
"""

OLDER = "†: by an earlier version of our decoder, which saw the wire as it is."


class Target(NamedTuple):
    """A published target beside ours; None where it was not run."""

    paper: Published
    protocol: Row | None
    fair: Row | None
    attackers: dict[tuple[str, str], Row]
    """Protocol and decoder, or another attack → row."""


def gather(results_dir: Path) -> list[Target]:
    """One line per published target, from the tables alone.

    Raises:
        UsageError: If a table is damaged.
    """
    every = tables.read(tables.models_table(results_dir), tables.CLASSIFIER_KEY)
    scored = tables.read(tables.attackers_table(results_dir), tables.ATTACKER_KEY)
    models, attacks = of_longest(every, every), of_longest(scored, scored, "Attacker")
    targets = []
    for paper in PUBLISHED:
        found: dict[str, Row] = {}
        attackers: dict[tuple[str, str], Row] = {}
        for protocol, dataset in (("protocol", "omniglot_overlap"), ("fair", "omniglot")):
            rows = [
                row
                for row in models
                if row.get("Dataset") == dataset
                and row.get("Network") == "mobile"
                and (number(row, "DPNoiseMultiplier") or 0) == paper.noise_multiplier
                and not any(part for part in defences(row) if not part.private)
            ]
            if not rows:
                continue
            found[protocol] = min(rows, key=lambda row: number(row, "Seed") or 0)
            attackers |= {
                (protocol, row["Decoder"] or row["Attack"]): row
                for row in attacks
                if row["Model"] == found[protocol]["Model"] and row.get("Adaptive") == "True"
            }
        targets.append(Target(paper, found.get("protocol"), found.get("fair"), attackers))
    return targets


def _share(row: Row | None, column: str, error: str = "") -> str:
    value = number(row, column)
    if row is None or value is None:
        return "not run"
    return f"{value:.2f}" + (f" ± {number(row, error) or 0:.2f}" if error else "")


def _score(row: Row | None, column: str, digits: int) -> str:
    value = number(row, column)
    if row is None or value is None:
        return "not run"
    return f"{value:.{digits}f} ± {number(row, f'SE{column}') or 0:.{digits}f}"


def paper_epsilon(noise: Number, images: int) -> float:
    """ε of the published training by the conversion of its time, if there were so many images."""
    # The number of steps is the published one in both cases.
    steps = EPOCHS * IMAGES[0] // BATCH
    return dp_sgd_epsilon([(noise, BATCH / images, steps)], DELTA, "classic")


def accuracies(targets: Sequence[Target]) -> list[list[str]]:
    """ε and accuracies: headings, then a line per target, then the floor."""
    lines = [
        "multiplier|paper ε|recomputed, N = 13,180|N = 11,000|fair ε|train, paper|train, protocol|val, protocol|"
        "train, fair|val, fair|test, fair".split("|")
    ]
    for target in targets:
        noise, fair = target.paper.noise_multiplier, target.fair
        epsilons = ["∞"] * 4
        if noise:
            spent = number(fair, "DPEpsilon")
            epsilons = [
                f"{target.paper.epsilon:g}",
                *(f"{paper_epsilon(noise, images):.3g}" for images in IMAGES),
                "not run" if spent is None else f"{spent:.3g}",
            ]
        lines.append(
            [
                f"{noise:g}" if noise else "no DP-SGD",
                *epsilons,
                f"{target.paper.accuracy:.0f}",
                _share(target.protocol, "MeanTrainAcc"),
                _share(target.protocol, "MeanValAcc", "SEValAcc"),
                _share(fair, "MeanTrainAcc"),
                _share(fair, "MeanValAcc", "SEValAcc"),
                _share(fair, "TestAcc", "SETestAcc"),
            ]
        )
    floors = [_share(next((t.fair for t in targets if t.fair), None), "AccFloor")]
    return [*lines, ["*floor*", *[""] * 9, *floors]]


NAMES = {"deconv": "published decoder", "conv": "our decoder", "ridge": "best linear map"}
KINDS = tuple((protocol, attacker) for protocol in ("protocol", "fair") for attacker in NAMES)


OLD = " †"
"""Mark of what an earlier version of our decoder found."""


def _is_old(targets: Sequence[Target], kind: tuple[str, str]) -> bool:
    """Whether any row is of before the wire was looked at; since then rows of decoders say how they augment."""
    found = [target.attackers[kind] for target in targets if kind in target.attackers]
    return kind[1] == "conv" and any(not row.get("Augment") for row in found)


def leakage(targets: Sequence[Target]) -> list[list[str]]:
    """What the attackers get of an image at inference: a column per protocol, attacker and measure."""
    headings = [
        f"{m}, {p}, {NAMES[a]}{OLD * _is_old(targets, (p, a))}"
        for p, a in KINDS
        for m in ("MSE", "SSIM")
    ]
    lines = [["multiplier", *headings]]
    for target in targets:
        noise = target.paper.noise_multiplier
        cells = [
            _score(target.attackers.get(kind), column, digits)
            for kind in KINDS
            for column, digits in (("MSE", 4), ("SSIM", 3))
        ]
        lines.append([f"{noise:g}" if noise else "no DP-SGD", *cells])
    floors = []
    for kind in KINDS:
        row = next((t.attackers[kind] for t in targets if kind in t.attackers), None)
        for column, digits in (("MSEFloor", 4), ("SSIMFloor", 3)):
            value = number(row, column)
            floors.append("not run" if value is None else f"{value:.{digits}f}")
    return [*lines, ["*floor: mean image*", *floors]]


def closest(target: Target) -> Row | None:
    """Of the attackers of the fair target the one with the smallest error."""
    errors = [
        (error, row)
        for (protocol, _), row in target.attackers.items()
        if protocol == "fair" and (error := number(row, "MSE")) is not None
    ]
    return min(errors, key=lambda entry: entry[0], default=(math.nan, None))[1]


def reasons(target: Target, plain: Target) -> list[str]:
    """Sentences about a target that its numbers carry."""
    said = []
    ours = number(target.protocol, "MeanTrainAcc")
    if ours is None:
        return ["Not run."]
    gap = ours - target.paper.accuracy
    where = "within" if abs(gap) <= TOLERANCE else "beyond"
    said.append(f"Training accuracy is {where} {TOLERANCE:g} points of the paper's ({gap:+.1f}).")
    noise = target.paper.noise_multiplier
    if noise:
        honest = paper_epsilon(noise, IMAGES[1])
        said.append(
            f"(j) With the images that were trained on, the paper's {target.paper.epsilon:g} is {honest:.3g};"
            " (k) with batch normalisation it is no guarantee."
        )
    train, test = number(target.fair, "MeanTrainAcc"), number(target.fair, "TestAcc")
    if train is not None and test is not None:
        said.append(
            f"(m) Fairly: {train:.1f} % of the training images, {test:.1f} % of the test images."
        )
    here, there = closest(target), closest(plain)
    mse, undefended = number(here, "MSE"), number(there, "MSE")
    if noise and mse is not None and undefended is not None:
        floor = number(here, "MSEFloor")
        guessing = "" if floor is None else f", {floor:.4f} by guessing"
        said.append(
            f"An image at inference, by the attacker that comes closest: MSE {mse:.4f}, {undefended:.4f} without DP-SGD"
            f"{guessing}."
        )
    return said


def section(dataset: str, results_dir: Path, **ignored: Any) -> str:
    """The part as Markdown, without its title."""
    targets = gather(results_dir)
    if not any(target.protocol or target.fair for target in targets):
        return f"{TOP}\nNot run: `./main.sh omniglot`.\n"
    plain, *_ = targets
    parts = [TOP]
    for (headings, *rows) in (accuracies(targets), leakage(targets)):
        parts.append(table(headings, rows))
        if any(OLD in heading for heading in headings):
            parts.append(OLDER)
    whys = []
    for target in targets:
        noise = target.paper.noise_multiplier
        name = f"Multiplier {noise:g}" if noise else "No DP-SGD"
        whys.append(f"- **{name}.** {' '.join(reasons(target, plain))}")
    return "\n\n".join([*parts, "\n".join(whys)])
