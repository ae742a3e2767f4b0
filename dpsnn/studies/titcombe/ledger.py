"""The ledger: what was published, what its own protocol gives here, what holds up when done soundly, and why."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dpsnn.evaluation.rows import Row
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import number, shown_epsilon
from dpsnn.studies.titcombe.comparison import Line, Training, best, controls, gather
from dpsnn.studies.titcombe.published import CLEAN_CONTROL_NOISE, CONTROL, PUBLISHED
from dpsnn.studies.titcombe.reasons import TOLERANCE, is_met, reasons
from dpsnn.tensors import Number

NOTHING, NOT_RUN = "–", "not run"

TOP = """\
Titcombe, Hall, Papadopoulos & Romanini 2021 ([arXiv 2104.05743](https://arxiv.org/abs/2104.05743)) defended a split
MNIST classifier with Laplace noise on the wire and with NoPeek. `./main.sh published --dataset {dataset}` repeats their
protocol with its flaws: Adam at a constant 1e-4, ten epochs, batches of 128 (32 with NoPeek) that are the same in every
epoch, a softmax before the cross-entropy, and one linear decoder per classifier, trained and scored on clean
activations. Known flaws of the published figures:

- (a) Attackers saw clean activations, not what crosses the wire: no attacker adapted to the noise.
- (b) The decoder has no activation function: it is a linear map.
- (c) Cross-entropy takes a softmax of a softmax: the loss stays above 1.46 and its gradient is weak.
- (d) Distances are squared: the statistic is sqrt(linear CKA) and misses non-linear dependence.
- (e) The epoch was chosen on the images that were reported.
- (f) One seed, a biased statistic over small batches, and no floor: independent samples do not give 0.
- (g) The judge of reconstructions was trained on the target's test images.
- (h) The attacker of the undefended row had been trained for noise set after training.
- (i) DCorr and the judge disagree about NoPeek, so neither alone shows privacy.

Repeated here, but beside floors: (a) to (f). Not repeated: (g) and (h). Besides, our attacker's step size is tuned and
decays, its images are shuffled, and layers may compute in bfloat16. Letters below point to this list.
{rehearsal}
**Legend.**

- *Paper*: as published. `{nothing}`: nothing was.
- *Protocol*: ours by the published protocol. The pictures of its decoder are confined to [0, 1] only on the wire.
- *Sound*: ours with logits, step size 1e-3, batches of 128, NoPeek with exponent 1, accuracy on test images that chose
  nothing, bias-corrected DCorr of what crosses the wire, and of the attackers that were tried (adaptive, naive,
  ridge, refiner and mixture) the one that
  does most harm by each measure.
- *DCorr*: distance correlation with the images. *Activation*: before the noise. *Wire*: after it. The paper does not
  say which of the two it measured.
- *Recognised*: reconstructions in which the judge sees the true class, in percent.
- *±*: standard error, over batches (paper; DCorr of the protocol), blocks (sound DCorr) or images (all others).
- *Floor*: the same measure without any information: shuffled pairs (DCorr), the mean image (MSE, SSIM), the most
  frequent class (accuracy, recognised).
- *ε*: local differential privacy of one transmission; k transmissions of one image cost k times that.
"""

REHEARSAL = """
**The paper's figures are for MNIST and ours here for {dataset}: a rehearsal, no reproduction.**
"""


def pm(value: Number | None, error: Number | None, digits: int) -> str:
    """Value ± error, as far as they are there."""
    if value is None:
        return NOTHING
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def cell(row: Row | None, column: str, digits: int) -> str:
    """A column of ours with its standard error; says where the row was not run."""
    if row is None:
        return NOT_RUN
    return pm(number(row, column), number(row, f"SE{column}"), digits)


def _defence(line: Line) -> list[str]:
    return [f"{line.paper.noise_scale:g}", f"{line.paper.nopeek_weight:g}"]


def accuracies(lines: Sequence[Line]) -> str:
    """Training and validation accuracy as published, and the test accuracy of both of ours."""
    headings = "noise|NoPeek|train, paper|train, protocol|val, paper|val, protocol|test, protocol|test, sound"
    rows = [
        [
            *_defence(line),
            pm(line.paper.train_accuracy, None, 2),
            cell(line.protocol, "MeanTrainAcc", 2).split(" ±")[0],
            pm(line.paper.val_accuracy, None, 2),
            _accuracy(line.protocol, "MeanValAcc", "SEValAcc"),
            _accuracy(line.protocol, "TestAcc", "SETestAcc"),
            _accuracy(line.sound, "TestAcc", "SETestAcc"),
        ]
        for line in lines
    ]
    floors = [number(row, "AccFloor") for line in lines for row in (line.protocol, line.sound)]
    return table(headings.split("|"), [*rows, ["*floor*", *[""] * 6, _range(floors, 2)]])


def _accuracy(row: Row | None, column: str, error: str) -> str:
    return pm(number(row, column), number(row, error), 2) if row else NOT_RUN


def cuts(lines: Sequence[Line]) -> str:
    """Distance correlation at the cut."""
    headings = (
        "noise|NoPeek|paper|protocol, activation|floor|protocol, wire|floor|sound, wire|floor"
    )
    rows = [
        [
            *_defence(line),
            pm(line.paper.dcorr, line.paper.se_dcorr, 3),
            cell(line.protocol, "ActivationDCorr", 3),
            cell(line.protocol, "ActivationDCorrFloor", 3),
            cell(line.protocol, "SmashedDCorr", 3),
            cell(line.protocol, "SmashedDCorrFloor", 3),
            _sound_dcorr(line.sound),
            cell(line.sound, "ValDCorrFloor", 3),
        ]
        for line in lines
    ]
    return table(headings.split("|"), rows)


def _sound_dcorr(row: Row | None) -> str:
    return pm(number(row, "MeanValDCorr"), number(row, "SEValDCorr"), 3) if row else NOT_RUN


def reconstructions(lines: Sequence[Line]) -> str:
    """The published attacker, and what it gets from the wire (its pictures confined to [0, 1] there)."""
    headings = (
        "noise|NoPeek|DCorr, paper|DCorr, protocol|floor|recognised, paper|recognised, protocol|MSE, protocol|"
        "MSE of the same on the wire"
    )
    rows = [
        [
            *_defence(line),
            pm(line.paper.reconstruction_dcorr, line.paper.se_reconstruction_dcorr, 3),
            cell(line.protocol, "ReconstructionDCorr", 3),
            cell(line.protocol, "ReconstructionDCorrFloor", 3),
            pm(line.paper.recognised, None, 2),
            cell(line.protocol, "ValAccuracy", 2),
            cell(line.protocol, "MSE", 4),
            cell(line.wire, "MSE", 4),
        ]
        for line in lines
    ]
    ours = [line.protocol for line in lines]
    floors = [_range([number(row, f"{name}Floor") for row in ours], d) for name, d in SCORES]
    return table(headings.split("|"), [*rows, ["*floor*", *[""] * 5, *floors, floors[-1]]])


SCORES = (("ValAccuracy", 2), ("MSE", 4))

MEASURES = (("MSE", -1, 4), ("SSIM", 1, 3), ("ValAccuracy", 1, 2))
"""Column, the sign that makes larger worse for the defence, and digits."""


def sound_attacks(lines: Sequence[Line]) -> str:
    """What the most harmful attacker of each sound classifier gets from the wire."""
    headings = "noise|NoPeek|ε|MSE|SSIM|recognised %"
    rows = []
    for line in lines:
        cells = []
        for column, sign, digits in MEASURES:
            worst = best(line, column, sign)
            cells.append(f"{cell(worst[1], column, digits)} ({worst[0]})" if worst else NOT_RUN)
        rows.append([*_defence(line), _epsilon(line.sound), *cells])
    known = [row for line in lines for row in line.attackers.values()]
    floors = [_range([number(row, f"{c}Floor") for row in known], d) for c, _, d in MEASURES]
    return table(headings.split("|"), [*rows, ["*floor*", "", "0", *floors]])


def _epsilon(row: Row | None) -> str:
    value = number(row, "Epsilon")
    if value is None:
        return NOT_RUN if row is None else NOTHING
    return shown_epsilon(value)


def _range(values: Iterable[float | None], digits: int) -> str:
    """One number, or from the least to the largest."""
    shown = [f"{value:.{digits}f}" for value in sorted(v for v in values if v is not None)]
    if not shown:
        return NOTHING
    return shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"


def summary(lines: Sequence[Line]) -> str:
    """How many published figures are met, and how far the others are."""
    at_cut = [line for line in lines if line.paper.dcorr is not None]
    activation = _met(at_cut, "ActivationDCorr", lambda line: line.paper.dcorr)
    wire = _met(at_cut, "SmashedDCorr", lambda line: line.paper.dcorr)
    run = sum(line.protocol is not None for line in at_cut)
    otherwise = [line for line in at_cut if line.clean and line.paper[:2] not in activation]
    met = sum(is_met(number(line.clean, "ActivationDCorr"), line.paper.dcorr) for line in otherwise)
    before = (
        f" With NoPeek before the noise {met} of {len(otherwise)} others are, on the activation."
        if otherwise
        else ""
    )
    attacked = [line for line in lines if line.paper.reconstruction_dcorr is not None]
    images = _met(attacked, "ReconstructionDCorr", lambda line: line.paper.reconstruction_dcorr)
    attacks_run = sum(line.protocol is not None for line in attacked)
    return "\n".join(
        (
            f"- DCorr at the cut, {len(at_cut)} published, {run} run: within {TOLERANCE}:"
            f" {len(activation)} on the activation, {len(wire)} on the wire, {len(activation | wire)} on at least one."
            f"{before}",
            f"- DCorr of reconstructions, {len(attacked)} published, {attacks_run} run: within {TOLERANCE}:"
            f" {len(images)}.",
            f"- Training accuracy, protocol minus paper: {_gaps(lines, 'MeanTrainAcc', 'train_accuracy')}.",
            f"- Validation accuracy, protocol minus paper: {_gaps(lines, 'MeanValAcc', 'val_accuracy')}.",
            f"- Recognised, protocol minus paper: {_gaps(lines, 'ValAccuracy', 'recognised')}.",
        )
    )


def _met(
    lines: Iterable[Line], column: str, paper: Callable[[Line], Number | None]
) -> set[tuple[Number, Number]]:
    return {line.paper[:2] for line in lines if is_met(number(line.protocol, column), paper(line))}


def _gaps(lines: Iterable[Line], column: str, field: str) -> str:
    """Differences in words: least, largest, mean and how many."""
    pairs = [(number(line.protocol, column), getattr(line.paper, field)) for line in lines]
    gaps = [ours - paper for ours, paper in pairs if ours is not None and paper is not None]
    if not gaps:
        return NOT_RUN
    if len(gaps) == 1:
        return f"{gaps[0]:+.2f} points (1 row)"
    return (
        f"{min(gaps):+.2f} to {max(gaps):+.2f} points, {mean(gaps):+.2f} on average"
        f" ({len(gaps)} rows)"
    )


WAYS = {
    Training(): "constant step size, fixed order (protocol)",
    Training(fixed_order=False): "constant step size, shuffled",
    Training(constant_rate=False, fixed_order=False): "decaying step size, shuffled",
}


def trainings(found: Mapping[Training, Row]) -> str:
    """One row of the paper, trained in several ways."""
    noise, weight = CONTROL
    paper = next(row for row in PUBLISHED if row[:2] == CONTROL)
    headings = "training|activation|floor|wire|floor|reconstructions|val accuracy|recognised"
    first = [
        pm(paper.dcorr, paper.se_dcorr, 3),
        NOTHING,
        NOTHING,
        NOTHING,
        pm(paper.reconstruction_dcorr, paper.se_reconstruction_dcorr, 3),
        pm(paper.val_accuracy, None, 2),
        pm(paper.recognised, None, 2),
    ]
    rows = [["paper (which tensor is not said)", *first]]
    for way, label in WAYS.items():
        row = found.get(way)
        values = [
            *(cell(row, column, 3) for column in AT_CUT),
            cell(row, "ReconstructionDCorr", 3),
            _accuracy(row, "MeanValAcc", "SEValAcc"),
            cell(row, "ValAccuracy", 2),
        ]
        rows.append([label, *values])
    about = (
        f"Noise {noise:g} with NoPeek {weight:g}, trained in three ways that the paper's tables cannot tell apart;"
        " distance correlations as above, accuracies in percent."
    )
    return f"{about}\n\n{table(headings.split('|'), rows)}"


def before_noise(lines: Sequence[Line]) -> str:
    """The rows with much noise, trained also with NoPeek before it."""
    headings = (
        "noise|NoPeek|paper|activation, behind|activation, before|floor|wire, behind|wire, before|"
        "val accuracy, behind|val accuracy, before"
    )
    rows = [
        [
            *_defence(line),
            pm(line.paper.dcorr, line.paper.se_dcorr, 3),
            cell(line.protocol, "ActivationDCorr", 3),
            *(cell(line.clean, column, 3) for column in AT_CUT[:2]),
            cell(line.protocol, "SmashedDCorr", 3),
            cell(line.clean, "SmashedDCorr", 3),
            *(_accuracy(row, "MeanValAcc", "SEValAcc") for row in (line.protocol, line.clean)),
        ]
        for line in lines
        if line.paper.noise_scale == CLEAN_CONTROL_NOISE and line.paper.dcorr is not None
    ]
    about = (
        "NoPeek may look at what crosses the wire, *behind* the noise (protocol), or at the activation *before* it. The"
        " paper does not say which. With little noise it cannot matter; with much it does."
    )
    return f"{about}\n\n{table(headings.split('|'), rows)}"


AT_CUT = ("ActivationDCorr", "ActivationDCorrFloor", "SmashedDCorr", "SmashedDCorrFloor")


def document(lines: Sequence[Line], dataset: str, found: Mapping[Training, Row]) -> str:
    """The part as Markdown, with the row trained in several ways."""
    rehearsal = "" if dataset == "mnist" else REHEARSAL.format(dataset=dataset)
    plain = next(line for line in lines if line.paper[:2] == (0, 0))
    whys = []
    for line in lines:
        noise, weight = _defence(line)
        whys.append(f"- **Noise {noise}, NoPeek {weight}.** {' '.join(reasons(line, plain))}")
    sections = {
        "Summary": summary(lines),
        "Accuracy in percent": accuracies(lines),
        "DCorr of images and what the client gives": cuts(lines),
        "What the training itself does to DCorr": f"{trainings(found)}\n\n{before_noise(lines)}",
        "The published attacker: a linear decoder of clean activations": reconstructions(lines),
        "The most harmful attacker of what crosses the wire, sound": sound_attacks(lines),
        "Row by row: where ours differ, and why": "\n".join(whys),
    }
    top = TOP.format(dataset=dataset, rehearsal=rehearsal, nothing=NOTHING)
    return top + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def section(dataset: str, results_dir: Path, published_dir: str | Path = "", **ignored: Any) -> str:
    """The part of the ledger that opens it: what holds for all of it is said here as well.

    Args:
        dataset: Data set of our rows; the paper's are MNIST.
        results_dir: Results of the honest groups.
        published_dir: Results of the group `published`; by default within the others.

    Raises:
        UsageError: If there is no row for the data set, or a table is damaged.
    """
    own = Path(published_dir or results_dir / "published")
    return document(gather(dataset, own, results_dir), dataset, controls(dataset, own))
