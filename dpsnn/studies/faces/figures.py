"""What MI-FACE makes of people without a guarantee, with the weakest and with the strongest, by two ways of attack."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from statistics import mean

import torch
from matplotlib.figure import Figure

from dpsnn.attacks.mi_face import MIFace
from dpsnn.evaluation import tables
from dpsnn.evaluation.report import reconstruction_figure
from dpsnn.studies.faces.measures import Target, contrasted, invert, mean_faces

SHOWN = 10
"""People in the figure."""

ATTACK_LABELS = {"paper": "MI-FACE, as published", "smoothed": "MI-FACE, steps blurred"}
"""Attacks that are shown, and how they are called."""


def people(
    targets: Iterable[tuple[Target, Collection[str]]],
    attacks: Mapping[str, MIFace],
    rows: Sequence[Mapping[str, str]],
) -> Figure:
    """Ten people, what each attack makes of them, and how many of all people a judge recognises in that.

    Args:
        targets: Classifiers of one data set and network, each with the names of those that differ in their seed.
        attacks: Name → settings; those with a label are shown.
        rows: Of the table of attacks, by one judge.
    """
    by_epsilon = sorted(
        ((target.stored.record.get("dp_epsilon", inf), target, names) for target, names in targets),
        key=lambda each: -each[0],
    )
    private = [each for each in by_epsilon if each[0] < inf]
    shown = [each for each in by_epsilon if each[0] == inf] + private[:1] + private[1:][-1:]
    lines, shares = [], []
    for epsilon, target, names in shown:
        chosen = target.people[:SHOWN]
        for name, label in ATTACK_LABELS.items():
            found = invert(target, attacks[name], chosen)
            guarantee = "no DP-SGD" if epsilon == inf else f"DP-SGD, ε {epsilon:.3g}"
            lines.append((f"{guarantee}\n{label}", contrasted(found.images)))
            own = [row for row in rows if row["Model"] in names and row["Attack"] == name]
            shares.append(_share(own, "Top1"))
    lines.append(("floor: mean of all people", contrasted(mean_faces(target)[:SHOWN])))
    means = torch.stack([target.images[target.labels == p].mean(0) for p in chosen])
    head = f"recognised,\nof {len(target.people)} people"
    return reconstruction_figure(
        means,
        lines,
        f"{target.spec.dataset}: faces rebuilt from {target.spec.network}, contrast evened out",
        first="mean of the\nperson's images",
        beside=(head, *shares, _share(rows, "Top1MeanFace")),
    )


def _share(rows: Sequence[Mapping[str, str]], column: str) -> str:
    """The mean over seeds; nothing where there is none."""
    values = [value for row in rows if (value := tables.number(row, column)) is not None]
    return f"{mean(values):.3g} %" if values else ""
