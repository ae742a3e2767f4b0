"""Two Markdown tables of the group `all`: every defence of the paper, and the further questions about the attacker."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dpsnn.evaluation import tables
from dpsnn.evaluation.measures import ACCURACY, WIRE, named
from dpsnn.evaluation.plots import over
from dpsnn.evaluation.results import Missing, Results
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import shown_epsilon
from dpsnn.evaluation.words import plus_minus, reachable, reference
from dpsnn.runner.train import Folders

MSE, RECOGNISED, USEFUL, BOUND = map(named, ("mse", "recognised", "useful", "bound"))
WIRES = (ACCURACY, WIRE)


Kinds = Mapping[str, pd.DataFrame]
"""Kind of attacker → its rows."""


def _numbers(found: Kinds, kinds: Sequence[str], about: str) -> list[str]:
    """Squared error, and how many are recognised, by kind of attacker; empty where it was not tried."""
    return [
        plus_minus(found[kind], measure, about) if kind in found else ""
        for measure in (MSE, RECOGNISED)
        for kind in kinds
    ]


def _kinds(rows: pd.DataFrame, kinds: Sequence[str]) -> dict[str, pd.DataFrame]:
    return {kind: own for kind in kinds if len(own := rows[rows.Kind == kind])}


def _references(attacks: pd.DataFrame, kinds: int, before: list[str]) -> list[list[str]]:
    """Floor and ceiling of `_numbers`, behind the cells `before` of the floor."""
    both = (MSE, RECOGNISED)
    floor = [reference(attacks, m, m.floor) for m in both for _ in range(kinds)]
    ceiling = [m.perfect or reference(attacks, m, m.ceiling) for m in both for _ in range(kinds)]
    return [["*floor*", *before, *floor], ["*ceiling*", *[""] * len(before), *ceiling]]


STRONGEST = "strongest tried"


def defences(results: Results) -> str:
    """A line per defence there is; after ± stands half the 95 % interval, over seeds if all have several.

    Raises:
        Missing: If there is no classifier.
    """
    every = results.every
    attacks, targets = every.attacks(), []
    for text, _, _, models in every.defended():
        found = _kinds(attacks[attacks.Model.isin(models.Model)], ("naive", "ridge", "adaptive"))
        strongest = results.strongest(models)
        targets.append((text, models, found | ({} if strongest.empty else {STRONGEST: strongest})))
    if not targets or attacks.empty:
        raise Missing("the tables have no attackers of the usual classifiers")
    about = over(rows for _, models, found in targets for rows in (models, *found.values()))
    kinds = ("naive", "ridge", "adaptive", STRONGEST)
    headings = [
        f"defence; ± over {about}",
        *(measure.heading for measure in WIRES),
        *(f"{measure.heading}, {kind}" for measure in (MSE, RECOGNISED) for kind in kinds),
        "least MSE anybody reaches",
        "ε",
    ]
    lines = [
        [
            text,
            *(plus_minus(models, measure, about) for measure in WIRES),
            *_numbers(found, kinds, about),
            _least(found),
            shown_epsilon(float(models.Epsilon.iloc[0])),
        ]
        for text, models, found in targets
    ]
    below = [reference(every.models, measure, measure.floor) for measure in WIRES]
    floor, ceiling = _references(attacks, len(kinds), below)
    return table(headings, [*lines, [*floor, "", "0"], [*ceiling, "", ""]])


def _least(found: Kinds) -> str:
    """Beside the least that was measured."""
    bounds = [rows.MSEBound.mean() for rows in found.values() if "MSEBound" in rows]
    measured = min((rows.MSE.mean() for rows in found.values()), default=math.nan)
    return reachable(max(bounds, default=math.nan), measured, BOUND.digits)


def questions(results: Results) -> str:
    """A line per answer: noise set afterwards, few images, images of another kind, several transmissions.

    Raises:
        Missing: If there is none.
    """
    plain = {"TrainNoiseScale": 0.0, "NopeekWeight": 0.0}
    afterwards = results.attacks(**plain, NoiseScale=None)
    fewer = results.attacks(**plain, DataPct=None)
    others = results.attacks(**plain, Surrogate=None)
    noisy = results.attacks(TrainNoiseScale=1.0, NopeekWeight=0.0, Queries=None)
    asked = {
        f"noise {scale:g} set after training": afterwards[afterwards.NoiseScale == scale]
        for scale in sorted(set(afterwards.NoiseScale) - {0})
    }
    asked |= {
        f"attacker owns {count:,} images": fewer[fewer.SurrogateImages == count]
        for count in sorted(set(fewer.SurrogateImages))
    }
    asked |= {
        f"attacker owns images of {name}": others[others.Surrogate == name]
        for name in sorted(set(others.Surrogate) - {results.dataset})
    }
    asked |= {
        f"noise 1, {count} transmission{'s' * (count > 1)}": noisy[noisy.Queries == count]
        for count in sorted(set(noisy.Queries))
    }
    if not asked:
        raise Missing("the table of attackers answers none of the further questions")
    kinds = ("naive", "adaptive", "mixture")
    found = {text: _kinds(rows, kinds) for text, rows in asked.items()}
    about = over(own for each in found.values() for own in each.values())
    headings = [f"± over {about}", USEFUL.label]
    headings += [f"{measure.heading}, {kind}" for measure in (MSE, RECOGNISED) for kind in kinds]
    lines = [
        [
            text,
            plus_minus(own["adaptive"], USEFUL, about).split(" ±")[0] if "adaptive" in own else "",
            *_numbers(own, kinds, about),
        ]
        for text, own in found.items()
    ]
    floor = [f"{results.models.AccFloor.mean():.1f}"]
    return table(headings, [*lines, *_references(afterwards, len(kinds), floor)])


TABLES = {"defences": defences, "questions": questions}


def write_paper(folders: Folders, dataset: str) -> list[Path]:
    """Write those of the two tables whose rows are there.

    Raises:
        UsageError: If there are no results for the data set at all, or the folder cannot be written.
    """
    results = Results(folders, dataset)
    written = []
    for name, make in TABLES.items():
        try:
            text = make(results)
        except Missing:
            continue
        path = Path(folders.results_dir) / f"{name}_{dataset}.md"
        written.append(tables.write_text(path, text + "\n"))
    return written
