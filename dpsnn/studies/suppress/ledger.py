"""The part of the ledger on suppress-privacy: as published, as repeated, and attacked by those who can do better."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpsnn.evaluation import tables
from dpsnn.evaluation.identity import version_of
from dpsnn.evaluation.rows import Row, of_longest
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import number
from dpsnn.networks.lenet5 import CUTS
from dpsnn.specs import AttackerSpec
from dpsnn.studies.suppress.study import PUBLISHED, suppress_table

TOP = """\
MindSpore Armour's tutorial silences 95 % of LeNet-5's weights while it trains, rebuilds 30 training images from the 120
values behind the first linear layer by a hundred steps of sign descent, and reports that they say less.
`./main.sh suppress` repeats that attack, on {images} images that nobody trained on, and adds a strong white-box
inversion (descent with a prior and restarts) and a learned decoder, at every cut, and a refiner of the best linear
map's guess at that one.

- (t) Images of the training were attacked; an attacker of a service sees others.
- (u) SSIM was computed with a data range of 2 on images in [0, 1], which brings it nearer to 1.
- (v) The attack is weak: a hundred steps of equal size, a prior that nobody tuned.
- (w) There is no floor, and silent weights guarantee nothing.

Networks trained *as published* have a constant step size of 0.1 and mask rounds until the tenth and last epoch. All
others have one that decays from 0.2, and mask rounds that end after the seventh. Pictures are judged by a convolutional
network with normalisation; the *confidence of LeNet-5* is that of another judge, trained like the target without silent
weights and from another seed.

*±*: 95 % over images. *Floor*: the mean image; for SSIM and what judges say, the larger of it and shuffled pairs.
*Recognised*: reconstructions in which the judge sees the true class, in percent. *Confidence*: what it puts on that
class. *L2*: distance to the image over the image's norm.
"""

NOT_RUN = "not run"

MIXED = (
    "The decoders of these two lines are of different versions: the later one gets more, whatever the weights, until"
    " `./main.sh suppress` has made both."
)

ATTACKS = {"sign": "published", "inversion": "strong", "decoder": "decoder", "refiner": "refiner"}

EVERYWHERE = ("sign", "inversion", "decoder")
"""Of these, the ones that take every cut."""


def _score(row: Row | None, column: str, digits: int) -> str:
    value = number(row, column)
    if row is None or value is None:
        return NOT_RUN
    return f"{value:.{digits}f} ± {number(row, f'{column}CI') or 0:.{digits}f}"


def _floor(rows: Sequence[Row], column: str, digits: int) -> str:
    """The better of the two floors where both are the kind that rises with knowledge."""
    kinds = ("Floor",) if column in ("RelativeL2", "MSE") else ("Floor", "Shuffled")
    values = [v for row in rows for kind in kinds if (v := number(row, f"{column}{kind}"))]
    return f"{max(values):.{digits}f}" if values else ""


def _find(rows: Sequence[Row], **wanted: object) -> Row | None:
    """The row of the lowest seed with these values."""
    fitting = [
        row
        for row in rows
        if all(
            number(row, name) == value if isinstance(value, float) else row.get(name) == value
            for name, value in wanted.items()
        )
    ]
    return min(fitting, key=lambda row: number(row, "Seed") or 0, default=None)


def as_published(rows: Sequence[Row]) -> list[list[str]]:
    """The tutorial's two networks by its own attack: headings, a line each, the floor."""
    headings = ["silent weights"]
    for name in ("accuracy", "L2", "SSIM (range 2)", "confidence"):
        headings += [f"{name}, paper", f"{name}, ours"]
    headings.append("confidence of LeNet-5, ours")
    lines, found = [headings], []
    for paper in PUBLISHED:
        row = _find(
            rows, Network="lenet5", Cut="fc1", Attack="sign", SuppressSparsity=float(paper.sparsity)
        )
        found += [row] if row else []
        accuracy = number(row, "TestAcc")
        lines.append(
            [
                f"{100 * paper.sparsity:g} %",
                f"{paper.accuracy:g}",
                NOT_RUN if accuracy is None else f"{accuracy:.2f}",
                f"{paper.relative_l2:g}",
                _score(row, "RelativeL2", 3),
                f"{paper.ssim:g}",
                _score(row, "SSIM2", 3),
                f"{paper.confidence:g}",
                _score(row, "ValConfidence", 1),
                _score(row, "LenetConfidence", 1),
            ]
        )
    floors = [
        cell
        for column, digits in (("RelativeL2", 3), ("SSIM2", 3), ("ValConfidence", 1))
        for cell in ("", _floor(found, column, digits))
    ]
    return [*lines, ["*floor*", "", "", *floors, _floor(found, "LenetConfidence", 1)]]


def reasons(rows: Sequence[Row]) -> str:
    """What the repetition says of the published figures, in a sentence each; nothing where it was not run."""
    found = [
        _find(rows, Network="lenet5", Cut="fc1", Attack="sign", SuppressSparsity=float(p.sparsity))
        for p in PUBLISHED
    ]
    values = [
        [number(row, name) for row in found]
        for name in ("RelativeL2", "ValConfidence", "LenetConfidence")
    ]
    if any(value is None for column in values for value in column):
        return ""
    distances, first, second = ([float(v or 0) for v in column] for column in values)
    papers = [float(p.relative_l2) for p in PUBLISHED]
    gaps = [f"{ours - theirs:+.3f}" for ours, theirs in zip(distances, papers)]
    changes = [pair[1] - pair[0] for pair in (distances, papers)]
    sure = [" and ".join(f"{v:.1f}" for v in pair) for pair in (first, second)]
    theirs = " and ".join(f"{p.confidence:g}" for p in PUBLISHED)
    return (
        f"Our L2 differs from the paper's by {gaps[0]} and {gaps[1]}; silent weights change it by {changes[0]:+.3f}, in"
        f" the paper by {changes[1]:+.3f}. Confidence depends on the judge: {sure[0]} % by ours, {sure[1]} % by"
        f" LeNet-5, {theirs} % in the paper, whose judge is not described."
    )


def by_sparsity(rows: Sequence[Row], network: str, cut: str) -> list[list[str]]:
    """All sparsities of a network at a cut, by the four attacks."""
    headings = ["silent weights", "test accuracy"]
    for name in ATTACKS.values():
        headings += [f"L2, {name}", f"recognised, {name}"]
    lines = [headings]
    own = [row for row in rows if (row.get("Network"), row.get("Cut")) == (network, cut)]
    for sparsity in sorted({number(row, "SuppressSparsity") or 0.0 for row in own}):
        scores = []
        for attack in ATTACKS:
            row = _find(own, SuppressSparsity=sparsity, Attack=attack)
            scores += [_score(row, "RelativeL2", 3), _score(row, "ValAccuracy", 1)]
        some = _find(own, SuppressSparsity=sparsity)
        accuracy = number(some, "TestAcc")
        shown = NOT_RUN if accuracy is None else f"{accuracy:.2f}"
        lines.append([f"{100 * sparsity:g} %", shown, *scores])
    floors = [_floor(own, "RelativeL2", 3), _floor(own, "ValAccuracy", 1)] * len(ATTACKS)
    return [*lines, ["*floor*", "", *floors]]


def by_cut(rows: Sequence[Row]) -> list[list[str]]:
    """Every cut of LeNet-5, ordinary and with most weights silent: relative L2 by the three attacks."""
    lines = [
        [
            "cut",
            "silent weights",
            *(f"{part}, {ATTACKS[a]}" for part in ("L2", "SSIM") for a in EVERYWHERE),
        ]
    ]
    own = [row for row in rows if row.get("Network") == "lenet5"]
    for cut in CUTS:
        for sparsity in sorted({number(row, "SuppressSparsity") or 0.0 for row in own}):
            if sparsity not in [float(paper.sparsity) for paper in PUBLISHED]:
                continue
            found = [_find(own, Cut=cut, SuppressSparsity=sparsity, Attack=a) for a in EVERYWHERE]
            scores = [_score(row, column, 3) for column in ("RelativeL2", "SSIM") for row in found]
            lines.append([cut, f"{100 * sparsity:g} %", *scores])
    floors = [_floor(own, column, 3) for column in ("RelativeL2", "SSIM") for _ in EVERYWHERE]
    return [*lines, ["*floor*", "", *floors]]


def by_training(rows: Sequence[Row]) -> list[list[str]]:
    """LeNet-5 from `fc1`, trained in two ways: what the published attack gets depends on more than silent weights."""
    lines = [
        [
            "training",
            "silent weights",
            "test accuracy",
            *(f"{name}, published attack" for name in ("L2", "SSIM (range 2)", "confidence")),
            *(f"L2, {ATTACKS[attack]}" for attack in ("inversion", "decoder")),
        ]
    ]
    own = [row for row in rows if (row.get("Network"), row.get("Cut")) == ("lenet5", "fc1")]
    for training, constant in (("as published", "True"), ("decaying step size", "")):
        for paper in PUBLISHED:
            wanted = {"ConstantRate": constant, "SuppressSparsity": float(paper.sparsity)}
            found = {attack: _find(own, Attack=attack, **wanted) for attack in ATTACKS}
            accuracy = number(found["sign"], "TestAcc")
            lines.append(
                [
                    training,
                    f"{100 * paper.sparsity:g} %",
                    NOT_RUN if accuracy is None else f"{accuracy:.2f}",
                    _score(found["sign"], "RelativeL2", 3),
                    _score(found["sign"], "SSIM2", 3),
                    _score(found["sign"], "ValConfidence", 1),
                    *(_score(found[a], "RelativeL2", 3) for a in ("inversion", "decoder")),
                ]
            )
    names = (("RelativeL2", 3), ("SSIM2", 3), ("ValConfidence", 1), *[("RelativeL2", 3)] * 2)
    return [*lines, ["*floor*", "", "", *(_floor(own, name, digits) for name, digits in names)]]


def section(dataset: str, results_dir: Path, **ignored: Any) -> str:
    """The part as Markdown, without its title.

    Raises:
        UsageError: If a table is damaged.
    """
    models = tables.read(tables.models_table(results_dir), tables.CLASSIFIER_KEY)
    every = of_longest(tables.read(suppress_table(results_dir), tables.ATTACKER_KEY), models)
    rows = [row for row in every if row.get("Dataset") == dataset]
    images = max((number(row, "Images") or 0 for row in rows), default=0)
    top = TOP.format(images=f"{images:,.0f}" if images else "other")
    if not rows:
        return f"{top}\nNot run: `./main.sh suppress --dataset {dataset}`.\n"
    usual = [row for row in rows if not row.get("ConstantRate")]
    repeated = [row for row in rows if row.get("ConstantRate")]
    parts = {
        "As published: constant step size, sign descent from `fc1`.": as_published(repeated),
        "The same attack, and better ones, on networks trained as published and more accurate ones.": by_training(
            rows
        ),
        "Four attacks from `fc1`, at every share of silent weights.": by_sparsity(
            usual, "lenet5", "fc1"
        ),
        "Every cut of LeNet-5.": by_cut(usual),
        "The network of Titcombe et al., at its own cut.": by_sparsity(usual, "titcombe", ""),
    }
    said = [reasons(repeated)] if reasons(repeated) else []
    shown = [f"{title}\n\n{table(headings, lines)}" for title, (headings, *lines) in parts.items()]
    own = [row for row in usual if row.get("Network") == "titcombe"]
    if len(_versions(own, results_dir)) > 1:
        shown.append(MIXED)
    return "\n\n".join([top, *shown, *said])


def _versions(rows: Sequence[Row], results_dir: Path) -> set[int]:
    """Of the decoders of these rows."""
    scored = tables.read(tables.attackers_table(results_dir), tables.ATTACKER_KEY)
    said = {row["Attacker"]: row.get("Versions") for row in scored}
    key = AttackerSpec().attack
    return {
        version_of(said.get(row["Attacker"]), [key])[key]
        for row in rows
        if row.get("Attack") == key
    }
