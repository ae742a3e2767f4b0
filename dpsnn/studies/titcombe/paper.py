"""Two Markdown tables of the group `all`: every defence of the paper, and the further questions about the attacker."""

from pathlib import Path

import pandas as pd

from dpsnn.evaluation import tables
from dpsnn.evaluation.plots import ACCURACY, LEAKAGE, WIRE, Measure
from dpsnn.evaluation.results import Missing, Results
from dpsnn.evaluation.tables import markdown as table
from dpsnn.evaluation.tables import shown_epsilon
from dpsnn.runner.train import Folders
from dpsnn.studies.titcombe.figures import describe
from dpsnn.studies.titcombe.headline import plus_minus

MSE, _, RECOGNISED = LEAKAGE
USEFUL = Measure("TargetAcc", "accuracy of the classifier on what was attacked, %")


def _cell(rows: pd.DataFrame, measure: Measure, digits: int) -> str:
    return "" if rows.empty else plus_minus(rows, measure, digits)


def _attackers(rows: pd.DataFrame, *kinds: str) -> list[str]:
    """Squared error, and how many are recognised, by kind of attacker."""
    return [
        _cell(rows[rows.Kind == kind], measure, digits)
        for measure, digits in ((MSE, 4), (RECOGNISED, 1))
        for kind in kinds
    ]


def _references(
    results: Results, attacks: pd.DataFrame, kinds: int, before: list[str]
) -> list[list[str]]:
    """Floor and ceiling of `_attackers`, behind the cells `before` of the floor."""
    floor = [f"{attacks.MSEFloor.mean():.4f}"] * kinds
    floor += [f"{attacks.ValAccuracyFloor.mean():.1f}"] * kinds
    ceiling = ["0"] * kinds + [f"{attacks.ValAccuracyCeiling.mean():.1f}"] * kinds
    return [["*floor*", *before, *floor], ["*ceiling*", *[""] * len(before), *ceiling]]


def defences(results: Results) -> str:
    """A line per classifier of the paper; after ± stands half the 95 % interval, over seeds or else over images.

    Raises:
        Missing: If there is no classifier.
    """
    kinds = ("naive", "adaptive", "adaptive linear")
    headings = [
        *("defence", "test accuracy %", "DCorr on the wire"),
        *(f"MSE, {kind}" for kind in kinds),
        *(f"recognised %, {kind}" for kind in kinds),
        "ε",
    ]
    lines = []
    attacks = results.attacks()
    for noise, weight in sorted(set(zip(results.models.NoiseScale, results.models.NopeekWeight))):
        models = results.classifiers(NoiseScale=noise, NopeekWeight=weight)
        own = attacks[(attacks.TrainNoiseScale == noise) & (attacks.NopeekWeight == weight)]
        accuracies = [plus_minus(models, ACCURACY, 2), plus_minus(models, WIRE, 3)]
        epsilon = shown_epsilon(models.Epsilon.iloc[0])
        lines.append([describe(noise, weight), *accuracies, *_attackers(own, *kinds), epsilon])
    if not lines or attacks.empty:
        raise Missing("the tables have no attackers of the paper's classifiers")
    wire = [f"{results.models.AccFloor.mean():.2f}", f"{results.models.ValDCorrFloor.mean():.3f}"]
    floor, ceiling = _references(results, attacks, len(kinds), wire)
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
    headings += [f"{name}, {kind}" for name in ("MSE", "recognised %") for kind in kinds]
    lines = [
        [
            text,
            _cell(rows[rows.Kind == "adaptive"], USEFUL, 1).split(" ±")[0],
            *_attackers(rows, *kinds),
        ]
        for text, rows in asked.items()
    ]
    floor = [f"{results.models.AccFloor.mean():.1f}"]
    return table(headings, [*lines, *_references(results, afterwards, len(kinds), floor)])


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
