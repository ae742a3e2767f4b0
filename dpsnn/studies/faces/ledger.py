"""The part of the ledger on faces: MI-FACE as published, as repeated, and scored for everybody."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dpsnn.evaluation import tables
from dpsnn.evaluation.rows import Row, of_longest
from dpsnn.evaluation.summary import interval
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import number
from dpsnn.studies.faces.study import ATTACKS, KEY, PUBLISHED, TARGETS

TOP = """\
AIJack's tutorial trained a softmax regression on the AT&T faces with and without DP-SGD and rebuilt one person with
MI-FACE (Fredrikson, Jha & Ristenpart, CCS 2015). `./main.sh faces` repeats the trainings (*protocol*) and does them
again with step sizes tuned alike and three pictures of each person held out (*fair*); it rebuilds and scores everybody.

- (p) No image is held out: the published accuracies are of training images.
- (q) With DP-SGD the step size was ten times as large as without (repeated in the protocol).
- (r) Cross-entropy takes a softmax of a softmax, which weakens the gradient (not repeated: the protocol's figures show
  what the same step sizes give with one).
- (s) One person was shown, the picture last seen in place of the best one (not repeated).

*±* and brackets: 95 %, over seeds for accuracies, over people for shares. *Recognised*: by a judge who was trained on
other pictures of the same people, of the lowest seed. *Floor*: the mean of all faces. *Ceiling*: a true picture of
each person. Larger networks than softmax regression are attacked by 1,000 steps at most. *ε* of ours: if the seed of
the noise were secret; so that anyone can repeat the study, it is not.
"""

NOT_RUN = "not run"


def _over_seeds(rows: Iterable[Row], column: str) -> str:
    values = [value for row in rows if (value := number(row, column)) is not None]
    if not values:
        return NOT_RUN
    spread = f" ± {interval(values):.1f} ({len(values)} seeds)" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def accountings(models: Sequence[Row], attacks: Sequence[Row]) -> list[list[str]]:
    """The published targets: accuracy on training images and ε by each accountant."""
    lines = ["target|train, paper|train, protocol|ε, paper|rdp|prv|gdp|classic".split("|")]
    for paper in PUBLISHED:
        private = bool(paper.noise_multiplier)
        ours = [row for row in models if _is(row, "faces_all", TARGETS[0], private)]
        spent = next((r for r in attacks if _is(r, "faces_all", TARGETS[0], private)), None)
        epsilons = [number(spent, f"DPEpsilon_{name}") for name in ("rdp", "prv", "gdp", "classic")]
        shown = [NOT_RUN if value is None else f"{value:.2f}" for value in epsilons]
        lines.append(
            [
                f"multiplier {paper.noise_multiplier:g}" if private else "no DP-SGD",
                f"{paper.accuracy:.2f}",
                _over_seeds(ours, "MeanTrainAcc"),
                f"{paper.epsilon:g}" if paper.epsilon else "∞",
                *(shown if private else ["∞"] * 4),
            ]
        )
    return lines


def _is(row: Row, dataset: str, network: str, private: bool) -> bool:
    return (
        row.get("Dataset") == dataset
        and row.get("Network") == network
        and (number(row, "DPEpsilon") is not None) == private
    )


def _key(row: Row) -> tuple[float, float, float]:
    """Sorts from no privacy to most: ε falling."""
    epsilon = number(row, "DPEpsilon")
    return (
        -(epsilon if epsilon is not None else float("inf")),
        number(row, "DPNoiseMultiplier") or 0.0,
        number(row, "DPTargetEpsilon") or 0.0,
    )


def recognised(models: Sequence[Row], attacks: Sequence[Row]) -> list[list[str]]:
    """The fair targets: held-out accuracy, and how many people each attack has recognised and how near it comes."""
    headings = [f"recognised, {name}" for name in ATTACKS]
    lines = [["network", "ε", "test", *headings, "SSIM, paper", "SSIM, mean face"]]
    for network in TARGETS:
        own = [
            row
            for row in attacks
            if (row.get("Dataset"), row.get("Network")) == ("faces", network)
            and row.get("JudgeDataset") == "faces_others"
        ]
        for key in sorted({_key(row) for row in own}):
            rows = [row for row in own if _key(row) == key]
            names = {row["Model"] for row in rows}
            shares = [[row for row in rows if row["Attack"] == name] for name in ATTACKS]
            lines.append(
                [
                    network,
                    f"{-key[0]:.3g}" if key[1] else "∞",
                    _over_seeds([row for row in models if row["Model"] in names], "TestAcc"),
                    *(_share(part) for part in shares),
                    _ssim(shares[0], "SSIMMean"),
                    _ssim(shares[0], "SSIMMeanMeanFace"),
                ]
            )
    judged = [row for row in attacks if row.get("JudgeDataset") == "faces_others"]
    for title, kind in (("*floor*", "MeanFace"), ("*ceiling*", "TrueFace")):
        named = sorted({v for row in judged if (v := number(row, f"Top1{kind}")) is not None})
        shown = " to ".join(f"{value:.1f}" for value in dict.fromkeys((named[0], named[-1])))
        lines.append([title, "", "", *[shown] * len(ATTACKS), "", ""])
    return lines


def _share(rows: Sequence[Row]) -> str:
    """A share of people, of the lowest seed, with its interval."""
    row = min(rows, key=lambda row: number(row, "Seed") or 0, default=None)
    share, low, high = (number(row, name) for name in ("Top1", "Top1Low", "Top1High"))
    if share is None or low is None or high is None:
        return NOT_RUN
    return f"{share:.1f} [{low:.1f}, {high:.1f}]"


def _ssim(rows: Sequence[Row], column: str) -> str:
    values = [value for row in rows if (value := number(row, column)) is not None]
    return f"{mean(values):.3f}" if values else NOT_RUN


def section(dataset: str, results_dir: Path, **ignored: Any) -> str:
    """The part as Markdown, without its title.

    Raises:
        UsageError: If a table is damaged.
    """
    every = tables.read(tables.models_table(results_dir), tables.CLASSIFIER_KEY)
    models = of_longest(every, every)
    attacks = of_longest(tables.read(tables.inversions_table(results_dir), KEY), every)
    if not attacks:
        return f"{TOP}\nNot run: `./main.sh faces`.\n"
    makers: tuple[Callable[[Sequence[Row], Sequence[Row]], list[list[str]]], ...]
    makers = (accountings, recognised)
    parts = [make(models, attacks) for make in makers]
    return "\n\n".join([TOP, *(table(headings, rows) for headings, *rows in parts)])
