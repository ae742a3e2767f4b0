"""The figures of the paper and beyond, drawn from the tables and checkpoints that the groups left."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dpsnn.evaluation import plots
from dpsnn.evaluation.legends import family
from dpsnn.evaluation.pareto import pareto as pareto_plot
from dpsnn.evaluation.results import Missing, Results, by_kind
from dpsnn.specs import ClassifierSpec

USUAL = "adaptive"

ALL_KINDS = ("adaptive", "naive", "ridge", "refiner", "mixture")
"""Of those that nobody has tried nothing is drawn."""


# ---------------------------------------------------------------- pictures


def defences(results: Results) -> Figure:
    """Reconstructions by the adaptive attacker under each kind of defence: some of the paper's, and all others."""
    shown = [
        (0.0, 0.0),
        (0.5, 0.0),
        (1.0, 0.0),
        (2.0, 0.0),
        (5.0, 0.0),
        (0.0, 0.5),
        (0.0, 1.0),
        (1.0, 0.5),
    ]
    every = results.every
    papers = {*results.models.Model}
    found = [(papers >= {*group.models.Model}, group) for group in every.defended()]
    own = [
        group
        for noise, weight in shown
        for is_papers, group in found
        if is_papers
        and group.parts == ClassifierSpec(noise_scale=noise, nopeek_weight=weight).active
    ]
    attacks = every.attacks(Kind="adaptive")
    labelled = [
        (group.legend, attacks[attacks.Model.isin(group.models.Model)])
        for group in (*own, *(group for is_papers, group in found if not is_papers))
    ]
    return results.pictures(labelled, "reconstructions by the adaptive attacker")


def _plain(results: Results, **where: Any) -> pd.DataFrame:
    return results.attacks(TrainNoiseScale=0.0, NopeekWeight=0.0, **where)


def post_noise_pictures(results: Results) -> Figure:
    """Reconstructions from the plain classifier with noise set after training."""
    rows = _plain(results, NoiseScale=None)
    labelled = [
        (f"noise {scale:g}\n{kind}", rows[(rows.NoiseScale == scale) & (rows.Kind == kind)])
        for scale in sorted(set(rows.NoiseScale))
        for kind in (("naive", "adaptive") if scale else ("adaptive",))
    ]
    return results.pictures(labelled, "noise set on the plain classifier after training")


def volume_pictures(results: Results) -> Figure:
    """Reconstructions by attackers who own few or many images."""
    rows = _plain(results, Kind="adaptive", DataPct=None)
    labelled = [
        (f"{count:,} images", rows[rows.SurrogateImages == count])
        for count in sorted(set(rows.SurrogateImages))
    ]
    return results.pictures(labelled, "images that the attacker owns")


def queries_pictures(results: Results) -> Figure:
    """Reconstructions by attackers who average several transmissions of an image under noise 1."""
    rows = results.attacks(TrainNoiseScale=1.0, NopeekWeight=0.0, Queries=None)
    labelled = [
        (f"{count} sent\n{kind}", rows[(rows.Queries == count) & (rows.Kind == kind)])
        for count in sorted(set(rows.Queries))
        for kind in ("naive", "adaptive")
    ]
    return results.pictures(labelled, "transmissions of an image under noise 1")


# ---------------------------------------------------------------- numbers


def noise(results: Results) -> Figure:
    """Leakage against the noise that the classifier was trained with."""
    rows = results.attacks(NopeekWeight=0.0)
    return plots.leakage_curves(
        by_kind(rows, ALL_KINDS, "TrainNoiseScale"),
        "TrainNoiseScale",
        "Laplace scale b, in training and after",
        f"{results.dataset}: noise on the wire",
        "symlog",
    )


def post_noise(results: Results) -> Figure:
    """Leakage against noise that the plain classifier never saw in training."""
    return plots.leakage_curves(
        by_kind(_plain(results, NoiseScale=None), ("adaptive", "naive", "mixture"), "NoiseScale"),
        "NoiseScale",
        "Laplace scale b, after training only",
        f"{results.dataset}: noise set after training",
        "symlog",
    )


def volume(results: Results) -> Figure:
    """Leakage against the number of images that the attacker owns."""
    return plots.leakage_curves(
        by_kind(_plain(results, Kind="adaptive", DataPct=None), ("adaptive",), "SurrogateImages"),
        "SurrogateImages",
        "images of the attacker's own",
        f"{results.dataset}: how little data an attacker needs",
        "log",
    )


def queries(results: Results) -> Figure:
    """Leakage against the number of transmissions that the attacker averages, under noise 1."""
    rows = results.attacks(TrainNoiseScale=1.0, NopeekWeight=0.0, Queries=None)
    return plots.leakage_curves(
        by_kind(rows, ("adaptive", "naive"), "Queries"),
        "Queries",
        "transmissions of one image",
        f"{results.dataset}: averaging noise 1 away",
        "log",
    )


def nopeek(results: Results) -> Figure:
    """Leakage against the weight of NoPeek, without noise on the wire."""
    return plots.leakage_curves(
        by_kind(
            results.attacks(TrainNoiseScale=0.0), ("adaptive", "ridge", "refiner"), "NopeekWeight"
        ),
        "NopeekWeight",
        "NoPeek weight",
        f"{results.dataset}: the NoPeek loss",
    )


def shift(results: Results) -> Figure:
    """Leakage to attackers whose own images are of another kind."""
    rows = _plain(results, Kind="adaptive", Surrogate=None)
    order = [results.dataset, *sorted(set(rows.Surrogate) - {results.dataset})]
    groups = {name: rows[rows.Surrogate == name] for name in order if name in set(rows.Surrogate)}
    if len(groups) < 2:
        raise Missing("the table has no attackers with different Surrogate")
    return plots.leakage_bars(groups, f"{results.dataset}: attackers by the images they own")


def wire(results: Results) -> Figure:
    """Distance correlation on the wire and accuracy against the weight of NoPeek, a line per noise scale."""
    scales = (0.0, 0.1, 0.2, 0.5, 1.0)
    series = {f"noise {scale:g}": results.classifiers(NoiseScale=scale) for scale in scales}
    series = {label: rows for label, rows in series.items() if rows.NopeekWeight.nunique() > 1}
    if not series:
        raise Missing("no classifiers with several weights of NoPeek")
    title = f"{results.dataset}: what NoPeek does to the wire"
    return plots.wire_curves(series, "NopeekWeight", "NoPeek weight", title)


def pareto(results: Results) -> Figure:
    """Accuracy against what the strongest attacker gets, a point per defence, with the front of the best."""
    every = results.every
    attacks = every.attacks()
    families: dict[tuple[Any, ...], list[tuple[str, pd.DataFrame, pd.DataFrame]]] = {}
    for text, used, unknown, models in every.defended():
        against = attacks[attacks.Model.isin(models.Model)]
        # Who was not attacked in the usual way would look more private than the others.
        if not (against.Kind == USUAL).any():
            continue
        # Chosen on other victims than it is scored on, wherever there was a choice.
        chosen = every.strongest(models)
        if len(chosen) == len(models):
            against = chosen.assign(Kind="strongest")
        # The published first, and single ones before combinations.
        beyond = bool(unknown) or not all(part.always for part in used)
        kind = beyond, len(used), *((part.order, part.key) for part in used), family(used, unknown)
        families.setdefault(kind, []).append((text, models, against))
    if not families:
        raise Missing("the table has no attackers for it")
    return pareto_plot(
        {kind[-1]: families[kind] for kind in sorted(families)},
        f"{results.dataset}: accuracy against the strongest attacker tried"
        "\nup: more accurate; right: leaks less",
    )


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "reconstructions_by_defence": defences,
    "reconstructions_by_post_noise": post_noise_pictures,
    "reconstructions_by_volume": volume_pictures,
    "reconstructions_by_queries": queries_pictures,
    "leakage_by_noise": noise,
    "leakage_by_post_noise": post_noise,
    "leakage_by_volume": volume,
    "leakage_by_queries": queries,
    "leakage_by_nopeek": nopeek,
    "leakage_by_shift": shift,
    "dcorr_by_nopeek": wire,
    "pareto": pareto,
}
"""Name of the file → how it is drawn. To add a figure: write its function and a line here."""
