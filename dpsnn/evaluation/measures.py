"""What is measured: it stands in summaries, and where it is asked for in figures and the headline.

Metrics of reconstructions describe themselves, one idea a file in `dpsnn/metrics`; the other measures stand here. A
column of a table that belongs to a measure is no setting: rows that differ in it may be repetitions.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from dpsnn.metrics.base import Metric, known


@dataclass(frozen=True)
class Measure:
    """A column of numbers and what belongs to it.

    Attributes:
        name: By which it is asked for.
        column: Of its table.
        label: On an axis.
        short: Heading of a text; the label where empty.
        error: Column of its standard error.
        floor: Column of what no information gives.
        floor_label: What that is.
        class_floor: Column of what the true class alone gives.
        ceiling: Column of what the true image gives.
        perfect: What the true image gives, where that is the same number for all.
        leaks: Which values leak more, `higher` or `lower`.
        digits: After the point, in texts.
        percent: Whether it is a share of right answers in percent.
        shown: Whether figures and the headline show it wherever leakage is shown.
        instead_of: Name of a measure that is not shown where this one has values.
    """

    name: str
    column: str
    label: str
    short: str = ""
    error: str = ""
    floor: str = ""
    floor_label: str = "floor: mean image"
    class_floor: str = ""
    ceiling: str = ""
    perfect: str = ""
    leaks: str = "higher"
    digits: int = 3
    percent: bool = False
    shown: bool = False
    instead_of: str = ""

    @property
    def heading(self) -> str:
        return self.short or self.label

    @property
    def sign(self) -> int:
        """1 where higher values leak more, else −1."""
        return 1 if self.leaks == "higher" else -1


ACCURACY = Measure(
    "accuracy",
    "TestAcc",
    "test accuracy %",
    error="SETestAcc",
    floor="AccFloor",
    floor_label="floor: most frequent class",
    digits=2,
)
WIRE = Measure(
    "wire",
    "MeanValDCorr",
    "distance correlation on the wire",
    "DCorr on the wire",
    error="SEValDCorr",
    floor="ValDCorrFloor",
    floor_label="floor: shuffled pairs",
)

CLASSIFIER = [
    Measure("train accuracy", "MeanTrainAcc", "training accuracy %", error="SETrainAcc"),
    Measure("validation accuracy", "MeanValAcc", "validation accuracy %", error="SEValAcc"),
    ACCURACY,
    Measure(
        "train wire",
        "MeanTrainDCorr",
        "distance correlation of training images on the wire",
        error="SETrainDCorr",
        floor="TrainDCorrFloor",
    ),
    WIRE,
    Measure("sparsity", "Sparsity", "share of weights that are zero"),
    Measure("restless", "Restless", "difference of two answers of the client to one image"),
    Measure("flat", "NoGradient", "images at which the client has no gradient %", digits=1),
]
"""Of a row of the table of classifiers."""

TARGET = Measure(
    "useful", "TargetAcc", "accuracy of the classifier on what was attacked, %", digits=1
)
"""Of the target of an attacker, in its row."""

BOUNDS = [
    Measure("bound", "MSEBound", "least MSE that anybody reaches", leaks="lower", digits=4),
    Measure("bound share", "BoundShare", "least MSE that anybody reaches / measured MSE"),
    Measure("nameable", "NamedBound", "named by the best attacker %", percent=True, digits=1),
    Measure("naming bound", "NamingBound", "named by anybody at most %", digits=1),
    Measure("naming bound here", "NamingBoundHere", "of these named at most %", digits=1),
    Measure("dfil bound", "DFILBound", "least MSE without bias", leaks="lower", digits=4),
]
"""What nobody can beat, in the same row; docs/guarantees.md."""


def reconstructions() -> list[Measure]:
    """Of a row of the table of attackers: what the metrics that there are say of themselves."""
    return [*map(_of, known()), TARGET, *BOUNDS]


def _of(metric: Metric) -> Measure:
    names = metric.columns()
    said = {
        each.name: getattr(metric, each.name) for each in fields(Measure) if each.name != "name"
    }
    return Measure(metric.key, **{**said, **{n: names[n] for n in names.keys() & said.keys()}})


INVERSION = [
    *(Measure(name.lower(), name, f"{name}, %") for name in ("Top1", "Top5")),
    Measure("rank", "Rank", "rank of the true person", leaks="lower"),
    Measure("judge's confidence", "Confidence", "the judge's confidence in the true person %"),
    *(
        Measure(
            f"{kind.lower()} {to.lower()}",
            f"{kind}{to}",
            f"{kind} to the {of}",
            leaks="lower" if kind == "MSE" else "higher",
        )
        for to, of in (("Mean", "mean of a person's pictures"), ("Nearest", "nearest of them"))
        for kind in ("SSIM", "MSE")
    ),
    Measure("target's confidence", "TargetConfidence", "the target's confidence %"),
    Measure("iterations", "Iterations", "steps of the attack"),
    Measure("sure", "Sure", "share of which the target is sure"),
    Measure("judge's accuracy", "JudgeAcc", "the judge's accuracy %"),
]
"""Of a row of the table of inversions of people."""


def named(name: str) -> Measure:
    """The measure of this name."""
    every = (*CLASSIFIER, *reconstructions(), *INVERSION)
    return next(each for each in every if each.name == name)


def leakage(columns: Collection[str] | None = None) -> list[Measure]:
    """The measures of a reconstruction that figures and the headline show; they may disagree, hence all.

    Args:
        columns: Those of the table at hand that have values: an older one may lack some, and small images too.
    """
    found = [m for m in reconstructions() if m.shown and (columns is None or m.column in columns)]
    replaced = {m.instead_of for m in found}
    return [m for m in found if m.name not in replaced]


# ---------------------------------------------------------------- what is none

NO_SETTINGS = frozenset(
    ("Model", "Attacker", "Judge", "Validator", "Seed", "Epoch", "DataSource")
    + ("Images", "DCorrN", "BoundN", "People", "Measures", "Versions", "Identity")
    + ("OwnMSE", "OwnMSEFloor", "Doubling")
)
"""Names, which say the versions of parts, seeds, the epoch that was best, where the data came from, how many samples
were measured, and with what; and what an attacker could know of itself."""

PARTS = re.compile(
    r"(?P<of>.+?)(CI|(Class)?Floor|Ceiling|Shuffled|Low|High|Raw|Min|Median|Max|(Mean|Random|True)Face)"
)
"""What stands beside a measure, in the name of its column."""


def settings(columns: Sequence[str], measures: Collection[Measure]) -> list[str]:
    """The columns that say how something was trained, attacked or judged: all that are nothing else.

    Args:
        columns: Of a table.
        measures: Those known of it; a column with a standard error, floor or interval beside it is one too.
    """
    there = {*columns}
    measured = {m.column for m in measures}
    measured |= {c for c in there if there & {f"SE{c}", f"{c}Floor", f"{c}CI"}}
    beside = {c for m in measures for c in (m.error, m.floor, m.ceiling)}

    def is_setting(column: str) -> bool:
        if column in NO_SETTINGS or column in measured or column in beside:
            return False
        if column.endswith("Digest") or column.startswith("Seconds"):
            return False
        if column.startswith("SE") and {column[2:], f"Mean{column[2:]}"} & measured:
            return False
        part = PARTS.fullmatch(column)
        return not (part and part["of"] in measured)

    return [column for column in columns if is_setting(column)]
