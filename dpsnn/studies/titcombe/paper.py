"""Two Markdown tables of the group `all`: every defence of the paper, and the further questions about the attacker."""

from pathlib import Path

import pandas as pd

from dpsnn.evaluation import tables
from dpsnn.evaluation.measures import ACCURACY, WIRE, Measure, named
from dpsnn.evaluation.results import Missing, Results
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import shown_epsilon
from dpsnn.evaluation.words import plus_minus, reference
from dpsnn.runner.train import Folders

MSE, RECOGNISED, USEFUL = map(named, ("mse", "recognised", "useful"))


def _cell(rows: pd.DataFrame, measure: Measure) -> str:
    return "" if rows.empty else plus_minus(rows, measure)


def _attackers(rows: pd.DataFrame, *kinds: str) -> list[str]:
    """Squared error, and how many are recognised, by kind of attacker."""
    return [
        _cell(rows[rows.Kind == kind], measure) for measure in (MSE, RECOGNISED) for kind in kinds
    ]


def _references(attacks: pd.DataFrame, kinds: int, before: list[str]) -> list[list[str]]:
    """Floor and ceiling of `_attackers`, behind the cells `before` of the floor."""
    both = (MSE, RECOGNISED)
    floor = [reference(attacks, m, m.floor) for m in both for _ in range(kinds)]
    ceiling = [m.perfect or reference(attacks, m, m.ceiling) for m in both for _ in range(kinds)]
    return [["*floor*", *before, *floor], ["*ceiling*", *[""] * len(before), *ceiling]]


def defences(results: Results) -> str:
    """A line per defence there is; after ± stands half the 95 % interval, over seeds or else over images.

    Raises:
        Missing: If there is no classifier.
    """
    kinds = ("naive", "adaptive", "adaptive linear")
    wire = (ACCURACY, WIRE)
    headings = [
        "defence",
        *(measure.heading for measure in wire),
        *(f"{measure.heading}, {kind}" for measure in (MSE, RECOGNISED) for kind in kinds),
        "ε",
    ]
    every = results.every
    attacks, lines = every.attacks(), []
    for text, _, _, models in every.defended():
        own = attacks[attacks.Model.isin(models.Model)]
        epsilon = shown_epsilon(float(models.Epsilon.iloc[0]))
        numbers = (plus_minus(models, measure) for measure in wire)
        lines.append([text, *numbers, *_attackers(own, *kinds), epsilon])
    if not lines or attacks.empty:
        raise Missing("the tables have no attackers of the usual classifiers")
    below = [reference(every.models, measure, measure.floor) for measure in wire]
    floor, ceiling = _references(attacks, len(kinds), below)
    return table(headings, [*lines, [*floor, "0"], [*ceiling, ""]])


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
    kinds = ("naive", "adaptive")
    headings = ["", USEFUL.label]
    headings += [f"{measure.heading}, {kind}" for measure in (MSE, RECOGNISED) for kind in kinds]
    lines = [
        [
            text,
            _cell(rows[rows.Kind == "adaptive"], USEFUL).split(" ±")[0],
            *_attackers(rows, *kinds),
        ]
        for text, rows in asked.items()
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
