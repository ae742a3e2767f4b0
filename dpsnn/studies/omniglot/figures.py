"""The figures of classifiers trained with DP-SGD."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from dpsnn.evaluation import plots
from dpsnn.evaluation.results import Results


def epsilon_pictures(results: Results) -> Figure:
    """Reconstructions from classifiers trained with and without DP-SGD."""
    models, attacks = results.private()
    attacks = attacks[attacks.Kind == "adaptive"]
    labels = budgets(models)
    return results.pictures(
        [(labels[m], attacks[attacks.DPNoiseMultiplier == m]) for m in sorted(labels)],
        "classifiers by the epsilon of their training",
    )


def budgets(models: pd.DataFrame) -> dict[float, str]:
    """Noise multiplier of DP-SGD → what an axis says of it."""
    spent = models.groupby("DPNoiseMultiplier").DPEpsilon.max()
    return {m: f"{m:g}\nε = {spent[m]:.3g}" if m else "no\nDP-SGD" for m in spent.index}


def dp_sgd(results: Results) -> Figure:
    """Accuracy, and leakage of an input at inference, against the noise multiplier of DP-SGD."""
    models, attacks = results.private()
    series = {f"{kind} attacker": rows for kind, rows in attacks.groupby("Kind")}
    return plots.privacy_curves(
        models,
        series,
        "DPNoiseMultiplier",
        "noise multiplier of DP-SGD",
        budgets(models),
        f"{results.dataset}: DP-SGD guards members of the training set, not what is sent at inference",
    )


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "reconstructions_by_epsilon": epsilon_pictures,
    "leakage_by_epsilon": dp_sgd,
}
"""Name of the file → how it is drawn."""
