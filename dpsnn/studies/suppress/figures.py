"""The figures of suppress-privacy, drawn from the table of its group."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dpsnn.evaluation import plots, tables
from dpsnn.evaluation.measures import named
from dpsnn.evaluation.results import Missing, Results, where
from dpsnn.networks.lenet5 import CUTS
from dpsnn.studies.suppress.study import Z, suppress_table

INVERSION = tuple(map(named, ("relative_l2", "ssim", "recognised")))

ATTACK_LABELS = {
    "sign": "sign descent (published)",
    "inversion": "strong inversion",
    "decoder": "decoder",
    "refiner": "refiner",
}


def _suppressed(results: Results, **wanted: Any) -> pd.DataFrame:
    """Rows of the group `suppress` on LeNet-5 but for the controls, with standard errors like the other tables.

    Raises:
        Missing: If there are none.
    """
    path = suppress_table(results.folders.results_dir)
    read = tables.read(path)
    rows = pd.DataFrame(read).replace("", None)
    if rows.empty:
        raise Missing(f"no results in {path}; run ./main.sh suppress --dataset {results.dataset}")
    names = [measure.column for measure in INVERSION]
    numbers = [f"{name}{part}" for name in names for part in ("", "CI", "Floor")]
    for column in ("SuppressSparsity", "ValAccuracyCeiling", "Seed", *numbers):
        for row in read:
            tables.number(row, column)  # says which row has none
        rows[column] = pd.to_numeric(rows[column])
    for name in names:
        rows[f"SE{name}"] = rows[f"{name}CI"] / Z
    usual = {"Dataset": results.dataset, "Network": "lenet5"}
    shown = rows[rows.ConstantRate.isna() & ~rows.Model.isin(results.shorter)]
    chosen = where(shown, {**usual, **wanted})
    if chosen.empty:
        raise Missing(f"{path} has no such rows for {results.dataset}")
    return chosen


def _below_the_floor(rows: pd.DataFrame) -> str:
    """Why a picture may be recognised that SSIM finds worse than the mean image; empty where there is no such attack.

    Of the ten pictures by sign descent in `reconstructions_by_suppression_mnist`, a judge recognises all; their SSIM is
    0.16, and 0.52 with everything black that is further than a pixel from the digit.
    """
    similar, judged = map(named, ("ssim", "recognised"))
    worse = rows[rows[similar.column] < rows[similar.floor]]
    seen = worse[worse[judged.column] > (worse[judged.floor] + worse[judged.ceiling]) / 2]
    if seen.empty:
        return ""
    least = seen.sort_values(similar.column).iloc[0]
    return (
        f"Below the floor in SSIM and yet recognised: {ATTACK_LABELS[least.Attack]} from {least.Cut} has an SSIM of"
        f" {least[similar.column]:.2f}, the mean image {least[similar.floor]:.2f}, and the judge recognises"
        f" {least[judged.column]:.0f} %.\nIts pictures have the strokes, though faint, upon a background that is not"
        " quite black: SSIM punishes that background, the judge does not."
    )


def suppressed(results: Results) -> Figure:
    """Leakage from behind the first linear layer of LeNet-5 against the share of its weights that is silent."""
    rows = _suppressed(results, Cut="fc1")
    return plots.leakage_curves(
        {
            label: rows[rows.Attack == a]
            for a, label in ATTACK_LABELS.items()
            if a in set(rows.Attack)
        },
        "SuppressSparsity",
        "share of silent weights",
        f"{results.dataset}: suppress-privacy, LeNet-5 attacked from fc1",
        measures=INVERSION,
        below=_below_the_floor(rows),
    )


def suppressed_cuts(results: Results) -> Figure:
    """Leakage from each cut of LeNet-5, with and without suppress-privacy."""
    rows = _suppressed(results)
    most = rows.SuppressSparsity.max()
    rows = rows.assign(Position=[list(CUTS).index(cut) for cut in rows.Cut])
    series = {
        (label, f"{100 * sparsity:g} % silent"): part
        for a, label in ATTACK_LABELS.items()
        for sparsity in sorted({0.0, most})
        if len(part := rows[(rows.Attack == a) & (rows.SuppressSparsity == sparsity)])
    }
    figure = plots.leakage_curves(
        series,
        "Position",
        "cut of LeNet-5",
        f"{results.dataset}: what each cut gives away",
        measures=INVERSION,
        below=_below_the_floor(rows),
    )
    for axis in figure.axes:
        axis.set_xticks(range(len(CUTS)), list(CUTS))
    return figure


def suppressed_pictures(results: Results) -> Figure:
    """Reconstructions from LeNet-5 with and without suppress-privacy, from behind its first linear layer."""
    rows = _suppressed(results, Cut="fc1")
    labelled = [
        (
            f"{label}\n{100 * sparsity:g} % silent",
            rows[(rows.Attack == a) & (rows.SuppressSparsity == sparsity)],
        )
        for sparsity in sorted({0.0, rows.SuppressSparsity.max()})
        for a, label in ATTACK_LABELS.items()
    ]
    return results.pictures(labelled, "LeNet-5, reconstructed from fc1")


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "reconstructions_by_suppression": suppressed_pictures,
    "leakage_by_suppression": suppressed,
    "leakage_by_cut": suppressed_cuts,
}
"""Name of the file → how it is drawn."""
