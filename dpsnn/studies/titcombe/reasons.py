"""Why our figures differ from the published ones: rules that look at the numbers and say no more than these show.

A rule takes a line and the undefended line, and returns a sentence, or nothing where it does not apply. The letters are
those of the flaws in the ledger.
"""

import math
from collections.abc import Callable

from dpsnn.evaluation.tables import number
from dpsnn.studies.titcombe.comparison import Line, best
from dpsnn.studies.titcombe.published import EPOCHS
from dpsnn.tensors import Number

TOLERANCE = 0.08
"""Largest difference of a distance correlation that counts as reproduced."""

BEYOND_CHANCE = 2.0
"""Standard errors of a difference below which nothing is read into it."""


def is_met(ours: Number | None, paper: Number | None) -> bool:
    """Whether both are there and no further apart than TOLERANCE (a hair of rounding is forgiven)."""
    return ours is not None and paper is not None and abs(ours - paper) <= TOLERANCE + 1e-9


def differs(a: Number, b: Number, *errors: Number | None) -> bool:
    """Whether two figures are further apart than their standard errors explain."""
    return abs(a - b) > BEYOND_CHANCE * math.hypot(*(error or 0.0 for error in errors))


def cut(line: Line, plain: Line) -> str:
    """Is the distance correlation at the cut met, and on which tensor?"""
    paper = line.paper.dcorr
    ours = {
        "on the activation": number(line.protocol, "ActivationDCorr"),
        "on the wire": number(line.protocol, "SmashedDCorr"),
    }
    if paper is None or None in ours.values():
        return ""
    gaps = {where: value - paper for where, value in ours.items() if value is not None}
    met = [where for where, gap in gaps.items() if is_met(gap, 0)]
    shown = ", ".join(f"{gap:+.3f} {where}" for where, gap in gaps.items())
    if len(met) == 2:
        return f"DCorr at the cut is within {TOLERANCE} ({shown})."
    if met:
        return f"DCorr at the cut is within {TOLERANCE} {met[0]} only ({shown})."
    text = f"DCorr at the cut is beyond {TOLERANCE} on both tensors ({shown})"
    if line.clean is not None:
        return f"{text}."
    return (
        f"{text}; step size and order of images are the paper's, and what else may differ (seed, arithmetic, what the"
        " paper does not say) was not separated."
    )


def before(line: Line, plain: Line) -> str:
    """Does it matter whether NoPeek looks at the activation before the noise or behind it?"""
    paper = line.paper.dcorr
    rows = (line.protocol, line.clean)
    behind, clean = (number(row, "ActivationDCorr") for row in rows)
    if paper is None or behind is None or clean is None:
        return ""
    errors = [number(row, "SEActivationDCorr") for row in rows]
    if not differs(behind, clean, *errors):
        return f"NoPeek before the noise gives no other DCorr of the activation ({clean:.3f})."
    where = "within" if is_met(clean, paper) else "beyond"
    return (
        f"NoPeek before the noise, as the paper's may have been, turns DCorr of the activation from {behind:.3f} into"
        f" {clean:.3f}, {where} {TOLERANCE} of the paper's ({clean - paper:+.3f})."
    )


def noise(line: Line, plain: Line) -> str:
    """What the noise does to the published statistic."""
    activation = number(line.protocol, "ActivationDCorr")
    smashed = number(line.protocol, "SmashedDCorr")
    if not line.paper.noise_scale or activation is None or smashed is None:
        return ""
    errors = [number(line.protocol, f"SE{name}DCorr") for name in ("Activation", "Smashed")]
    scale = f"noise {line.paper.noise_scale:g}"
    if not differs(activation, smashed, *errors):
        return f"Adding {scale} does not change DCorr at the cut beyond its error."
    verb = "lowers" if smashed < activation else "raises"
    return f"Adding {scale} {verb} DCorr at the cut from {activation:.3f} to {smashed:.3f}."


def bias(line: Line, plain: Line) -> str:
    """How much of the published statistic shuffled pairs give too (d, f)."""
    value = number(line.protocol, "ActivationDCorr")
    floor = number(line.protocol, "ActivationDCorrFloor")
    if value is None or floor is None:
        return ""
    size = number(line.protocol, "DCorrN") or 0
    text = f"(d, f) Shuffled pairs alone give {floor:.3f} of {value:.3f} at N = {size:.0f}"
    noisy, noisy_floor = (number(line.protocol, f"SmashedDCorr{end}") for end in ("", "Floor"))
    if line.paper.noise_scale and noisy is not None and noisy_floor is not None:
        text += f", on the wire {noisy_floor:.3f} of {noisy:.3f}"
    wire, wire_floor = number(line.sound, "MeanValDCorr"), number(line.sound, "ValDCorrFloor")
    if wire is None or wire_floor is None:
        return f"{text}."
    return f"{text}; soundly the wire has {wire:.3f} over a floor of {wire_floor:.3f}."


def accuracy(line: Line, plain: Line) -> str:
    """Accuracy against the paper, and of the two trainings on the same test images (c)."""
    parts = []
    ours, paper = number(line.protocol, "MeanValAcc"), line.paper.val_accuracy
    if ours is not None and paper is not None:
        parts.append(f"Validation accuracy is {ours - paper:+.2f} points from the paper's.")
    test, sound = number(line.protocol, "TestAcc"), number(line.sound, "TestAcc")
    if test is not None and sound is not None:
        gap = f"{sound - test:+.2f} points on the test images"
        errors = (number(line.protocol, "SETestAcc"), number(line.sound, "SETestAcc"))
        if differs(sound, test, *errors):
            changed = "softmax, step size, order" + (
                ", batch and exponent" if line.paper.nopeek_weight else ""
            )
            parts.append(f"(c) Sound training changes it by {gap} ({changed} together).")
        else:
            parts.append(f"(c) Sound training is no different beyond its error ({gap}).")
    return " ".join(parts)


def chosen(line: Line, plain: Line) -> str:
    """Does choosing the epoch on the reported images show (e)?"""
    val, test = number(line.protocol, "MeanValAcc"), number(line.protocol, "TestAcc")
    if val is None or test is None:
        return ""
    errors = (number(line.protocol, "SEValAcc"), number(line.protocol, "SETestAcc"))
    if not differs(val, test, *errors):
        return ""
    return (
        f"(e) Images that chose the epoch give {val:.2f} %, images that chose nothing {test:.2f} %."
    )


def reconstruction(line: Line, plain: Line) -> str:
    """Is the distance correlation of reconstructions met (h for the undefended row)?"""
    ours, paper = number(line.protocol, "ReconstructionDCorr"), line.paper.reconstruction_dcorr
    if ours is None or paper is None:
        return ""
    where = "within" if is_met(ours, paper) else "beyond"
    text = f"DCorr of reconstructions is {where} {TOLERANCE} ({ours - paper:+.3f})."
    if line is plain:
        text += " (h) The paper's attacker of this row was another one's; ours is its own."
    return text


def judged(line: Line, plain: Line) -> str:
    """What the judges say (g)."""
    ours, paper = number(line.protocol, "ValAccuracy"), line.paper.recognised
    if ours is None or paper is None:
        return ""
    gap = f"{ours - paper:+.2f} points"
    # The paper gives no error here; of as many images at about the same rate it is as large as ours.
    error = number(line.protocol, "SEValAccuracy")
    if not differs(ours, paper, error, error):
        return f"Recognised as often as in the paper, within the error ({gap})."
    return f"(g) Recognised differs by {gap}; decoder and judge are both other ones than theirs."


def hides(line: Line, plain: Line) -> str:
    """Does NoPeek make reconstructions less recognisable (i)?"""
    if not line.paper.nopeek_weight or line.paper.noise_scale:
        return ""
    parts = []
    for who, value, reference in (
        ("the paper", line.paper.recognised, plain.paper.recognised),
        ("ours", number(line.protocol, "ValAccuracy"), number(plain.protocol, "ValAccuracy")),
    ):
        if value is not None and reference is not None:
            parts.append(f"{who} {value:.2f} % against {reference:.2f} % undefended")
    return f"(i) Recognised with NoPeek: {', '.join(parts)}." if parts else ""


def clean(line: Line, plain: Line) -> str:
    """What the attacker of clean activations gets from the wire (a)."""
    here, wire = number(line.protocol, "MSE"), number(line.wire, "MSE")
    if not line.paper.noise_scale or here is None or wire is None:
        return ""
    text = f"(a) The protocol's decoder has MSE {here:.4f} on clean activations, {wire:.4f} on the wire"
    adaptive = number(line.attackers.get("adaptive"), "MSE")
    if adaptive is None:
        return f"{text}."
    return f"{text}; an adaptive attacker of the sound classifier {adaptive:.4f}."


def linear(line: Line, plain: Line) -> str:
    """How much weaker the best linear map is than the strongest attacker (b)."""
    linear = next((k for k in ("ridge", "adaptive linear") if k in line.attackers), "")
    strongest, mse = best(line, "MSE", -1), number(line.attackers.get(linear), "MSE")
    if strongest is None or mse is None or strongest[0] == linear:
        return ""
    kind, row = strongest
    least = number(row, "MSE") or 0.0
    errors = (number(row, "SEMSE"), number(line.attackers[linear], "SEMSE"))
    if not least or not differs(mse, least, *errors):
        return ""
    return f"(b) Soundly a linear map has {mse / least:.1f} times the MSE of the {kind} one."


def shorter(line: Line, plain: Line) -> str:
    """A row of ours that was trained for another time than the paper's."""
    epochs = number(line.protocol, "MaxEpochs")
    if epochs is None or epochs == EPOCHS:
        return ""
    return f"Epochs of ours by the protocol: {epochs:.0f}, not {EPOCHS}."


RULES: tuple[Callable[[Line, Line], str], ...] = (
    shorter,
    cut,
    before,
    noise,
    bias,
    accuracy,
    chosen,
    reconstruction,
    judged,
    hides,
    clean,
    linear,
)


def reasons(line: Line, plain: Line) -> list[str]:
    """All sentences about a line; one that says so where nothing was run."""
    said = [sentence for rule in RULES if (sentence := rule(line, plain))]
    if line.protocol is None:
        said.insert(0, "Not run by the published protocol.")
    if line.sound is None:
        said.append("Not run soundly.")
    return said
