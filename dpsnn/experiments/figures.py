"""The figures of the paper and beyond, drawn from the tables and checkpoints that the groups left."""

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dpsnn.errors import UsageError
from dpsnn.evaluation import plots, tables
from dpsnn.evaluation.report import plt, save_figure
from dpsnn.experiments.progress import note
from dpsnn.experiments.run import attack_figure
from dpsnn.experiments.suppress import Z, suppress_table
from dpsnn.experiments.train import Folders
from dpsnn.networks.lenet5 import CUTS
from dpsnn.tensors import Number


class Missing(UsageError):
    """A figure needs rows that no group has made yet."""


class Results:
    """The rows of one data set, with the choices that the figures share.

    Args:
        folders: Where tables, checkpoints and data are.
        dataset: Data set of the classifiers.

    Raises:
        UsageError: If there is no table, or none of its rows is for the data set.
    """

    def __init__(self, folders: Folders, dataset: str) -> None:
        self.folders = folders
        self.dataset = dataset
        models = self._table(tables.models_table(folders.results_dir))
        attackers = self._table(tables.attackers_table(folders.results_dir))
        usual = models.NopeekExponent.isna() | (models.NopeekExponent == 1)
        usual &= (models.GaussianStd == 0) & (models.Network == "titcombe")
        if "DPNoiseMultiplier" in models:
            usual &= models.DPNoiseMultiplier.isna()
        if "SuppressSparsity" in models:
            usual &= models.SuppressSparsity.isna()
        self.models = models[usual].copy()
        self.attackers = attackers[attackers.Model.isin(self.models.Model)].copy()
        if "Attack" in attackers:
            decoders = attackers.Attack.isna() | (attackers.Attack == "decoder")
            self.attackers = self.attackers[decoders & attackers.Cut.isna()].copy()
        self.attackers["Kind"] = [
            ("adaptive" if adaptive else "naive") + ("" if decoder == "conv" else f" {decoder}")
            for adaptive, decoder in zip(self.attackers.Adaptive, self.attackers.Decoder)
        ]

    def _table(self, path: Path) -> pd.DataFrame:
        rows = tables.read(path)
        if not rows:
            raise UsageError(f"no results in {path}; run ./main.sh plain --dataset {self.dataset}")
        numbers = pd.DataFrame(rows).replace("", None)
        for column in numbers.columns.difference(
            ["Digest", "ValidatorDigest", "Model", "Attacker"]
        ):
            try:
                numbers[column] = pd.to_numeric(numbers[column])
            except (ValueError, TypeError):
                values = set(numbers[column].dropna())
                if values <= {"True", "False"}:
                    numbers[column] = numbers[column] == "True"
        chosen = numbers[numbers.Dataset == self.dataset]
        if chosen.empty:
            there = sorted(set(numbers.Dataset))
            raise UsageError(f"no results for {self.dataset} in {path}, only for {there}")
        return chosen

    def classifiers(self, **where: Any) -> pd.DataFrame:
        """Rows of classifiers whose columns have these values."""
        return _where(self.models, where)

    def attacks(self, **where: Any) -> pd.DataFrame:
        """Rows of attackers whose columns have these values.

        What is not named is the usual: noise as in training, all own images, of the target's kind, one transmission.
        """
        rows = self.attackers
        usual = {"Surrogate": self.dataset, "DataPct": 100, "Queries": 1}
        usual = {name: value for name, value in usual.items() if name not in where}
        if "NoiseScale" not in where:
            rows = rows[rows.NoiseScale == rows.TrainNoiseScale]
        for name, value in usual.items():
            rows = rows[rows[name] == value]
        return _where(rows, where)

    def pictures(self, labelled: Iterable[tuple[str, pd.DataFrame]], title: str) -> Figure:
        """Reconstructions by the first attacker of each set of rows, the lowest seed first; empty sets are left out.

        Raises:
            Missing: If fewer than two are left, or a checkpoint is gone.
        """
        found = [
            (label, str(rows.sort_values("Seed").Attacker.iloc[0]))
            for label, rows in labelled
            if len(rows)
        ]
        paths = [(label, self.folders.attackers / f"{name}.ckpt") for label, name in found]
        if gone := [path.name for _, path in paths if not path.is_file()]:
            raise Missing(f"{self.folders.attackers} has no {gone[0]}; the table does")
        if len(paths) < 2:
            raise Missing("the table has no attackers to compare")
        return attack_figure(paths, self.folders, f"{self.dataset}: {title}")


def _where(rows: pd.DataFrame, where: dict[str, Any]) -> pd.DataFrame:
    """Rows whose column has the value, or one of a tuple of values; every value where it is None."""
    for name, value in where.items():
        if value is not None:
            rows = rows[rows[name].isin(value if isinstance(value, tuple) else (value,))]
    return rows


def _by_kind(rows: pd.DataFrame, kinds: Iterable[str], x: str) -> dict[str, pd.DataFrame]:
    """One series per kind of attacker that is there, for a figure against column `x`.

    Raises:
        Missing: If all rows have the same `x`.
    """
    rows = rows[rows.Kind.isin(kinds)]
    if rows[x].nunique() < 2:
        raise Missing(f"the table has no attackers with different {x}")
    series = {f"{kind} attacker": rows[rows.Kind == kind] for kind in kinds}
    return {label: part for label, part in series.items() if len(part)}


ALL_KINDS = ("adaptive", "naive", "adaptive linear")


# ---------------------------------------------------------------- pictures


def defences(results: Results) -> Figure:
    """Reconstructions by the adaptive attacker under each kind of defence."""
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

    def rows(noise: float, weight: float) -> pd.DataFrame:
        return results.attacks(TrainNoiseScale=noise, NopeekWeight=weight, Kind="adaptive")

    labelled = [(describe(noise, weight), rows(noise, weight)) for noise, weight in shown]
    return results.pictures(labelled, "reconstructions by the adaptive attacker")


def describe(noise: Number, weight: Number) -> str:
    """The defences with a Laplace scale and a NoPeek weight, in words."""
    parts = [f"noise {noise:g}"] * bool(noise) + [f"NoPeek {weight:g}"] * bool(weight)
    return " + ".join(parts) or "none"


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
        _by_kind(rows, ALL_KINDS, "TrainNoiseScale"),
        "TrainNoiseScale",
        "Laplace scale b, in training and after",
        f"{results.dataset}: noise on the wire",
        "symlog",
    )


def post_noise(results: Results) -> Figure:
    """Leakage against noise that the plain classifier never saw in training."""
    return plots.leakage_curves(
        _by_kind(_plain(results, NoiseScale=None), ("adaptive", "naive"), "NoiseScale"),
        "NoiseScale",
        "Laplace scale b, after training only",
        f"{results.dataset}: noise set after training",
        "symlog",
    )


def volume(results: Results) -> Figure:
    """Leakage against the number of images that the attacker owns."""
    return plots.leakage_curves(
        _by_kind(_plain(results, Kind="adaptive", DataPct=None), ("adaptive",), "SurrogateImages"),
        "SurrogateImages",
        "images of the attacker's own",
        f"{results.dataset}: how little data an attacker needs",
        "log",
    )


def queries(results: Results) -> Figure:
    """Leakage against the number of transmissions that the attacker averages, under noise 1."""
    rows = results.attacks(TrainNoiseScale=1.0, NopeekWeight=0.0, Queries=None)
    return plots.leakage_curves(
        _by_kind(rows, ("adaptive", "naive"), "Queries"),
        "Queries",
        "transmissions of one image",
        f"{results.dataset}: averaging noise 1 away",
        "log",
    )


def nopeek(results: Results) -> Figure:
    """Leakage against the weight of NoPeek, without noise on the wire."""
    return plots.leakage_curves(
        _by_kind(
            results.attacks(TrainNoiseScale=0.0), ("adaptive", "adaptive linear"), "NopeekWeight"
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
    return plots.wire_curves(series, f"{results.dataset}: what NoPeek does to the wire")


FAMILIES = {
    "no defence": lambda rows: (rows.NoiseScale == 0) & (rows.NopeekWeight == 0),
    "noise": lambda rows: (rows.NoiseScale > 0) & (rows.NopeekWeight == 0),
    "NoPeek": lambda rows: (rows.NoiseScale == 0) & (rows.NopeekWeight > 0),
    "noise and NoPeek": lambda rows: (rows.NoiseScale > 0) & (rows.NopeekWeight > 0),
}


def pareto(results: Results) -> Figure:
    """Accuracy against what the strongest attacker gets, a point per defence, with the front of the best."""
    attacks = results.attacks()
    families: dict[str, list[tuple[str, pd.DataFrame, dict[str, pd.DataFrame]]]] = {}
    for family, belongs in FAMILIES.items():
        members = []
        rows = results.models[belongs(results.models)]
        for (scale, weight), classifier in rows.groupby(["NoiseScale", "NopeekWeight"]):
            against = attacks[attacks.Model.isin(classifier.Model)]
            if against.empty:
                continue
            label = "/".join(f"{value:g}" for value in (scale, weight) if value)
            members.append(
                (label, classifier, {m.column: strongest(against, m) for m in plots.LEAKAGE})
            )
        if members:
            families[family] = members
    if not families:
        raise Missing("the table has no attackers for it")
    title = f"{results.dataset}: accuracy against the strongest attacker (on the front: noise scale / NoPeek weight)"
    return plots.pareto(families, title)


def strongest(attacks: pd.DataFrame, measure: plots.Measure) -> pd.DataFrame:
    """Rows (one per seed) of the kind of attacker that gets most, by its mean over seeds."""
    means = attacks.groupby("Kind")[measure.column].mean()
    best = means.idxmin() if measure.column == "MSE" else means.idxmax()
    return attacks[attacks.Kind == best]


# ---------------------------------------------------------------- suppress-privacy

INVERSION = (
    plots.Measure(
        "RelativeL2", "relative L2 (lower: leaks more)", "SERelativeL2", "RelativeL2Floor"
    ),
    *plots.LEAKAGE[1:],
)

ATTACK_LABELS = {
    "sign": "sign descent (published)",
    "inversion": "strong inversion",
    "decoder": "decoder",
}


def _suppressed(results: Results, **where: Any) -> pd.DataFrame:
    """Rows of the group `suppress` on LeNet-5, with standard errors like the other tables.

    Raises:
        Missing: If there are none.
    """
    path = suppress_table(results.folders.results_dir)
    rows = pd.DataFrame(tables.read(path)).replace("", None)
    if rows.empty:
        raise Missing(f"no results in {path}; run ./main.sh suppress --dataset {results.dataset}")
    names = [measure.column for measure in INVERSION]
    numbers = [f"{name}{part}" for name in names for part in ("", "CI", "Floor")]
    for column in ("SuppressSparsity", "ValAccuracyCeiling", "Seed", *numbers):
        rows[column] = pd.to_numeric(rows[column])
    for name in names:
        rows[f"SE{name}"] = rows[f"{name}CI"] / Z
    chosen = _where(rows, {"Dataset": results.dataset, "Network": "lenet5", **where})
    if chosen.empty:
        raise Missing(f"{path} has no such rows for {results.dataset}")
    return chosen


def _by_attack(rows: pd.DataFrame, note: str = "") -> dict[str, pd.DataFrame]:
    series = {f"{label}{note}": rows[rows.Attack == a] for a, label in ATTACK_LABELS.items()}
    return {label: part for label, part in series.items() if len(part)}


def suppressed(results: Results) -> Figure:
    """Leakage from behind the first linear layer of LeNet-5 against the share of its weights that is silent."""
    return plots.leakage_curves(
        _by_attack(_suppressed(results, Cut="fc1")),
        "SuppressSparsity",
        "share of silent weights",
        f"{results.dataset}: suppress-privacy, LeNet-5 attacked from fc1",
        measures=INVERSION,
    )


def suppressed_cuts(results: Results) -> Figure:
    """Leakage from each cut of LeNet-5, with and without suppress-privacy."""
    rows = _suppressed(results)
    most = rows.SuppressSparsity.max()
    rows = rows.assign(Position=[list(CUTS).index(cut) for cut in rows.Cut])
    series: dict[str, pd.DataFrame] = {}
    for sparsity in sorted({0.0, most}):
        part = rows[rows.SuppressSparsity == sparsity]
        series |= _by_attack(part, f", {100 * sparsity:g} % silent")
    figure = plots.leakage_curves(
        series,
        "Position",
        "cut of LeNet-5",
        f"{results.dataset}: what each cut gives away",
        measures=INVERSION,
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


SUPPRESS_FIGURES: dict[str, Callable[[Results], Figure]] = {
    "reconstructions_by_suppression": suppressed_pictures,
    "leakage_by_suppression": suppressed,
    "leakage_by_cut": suppressed_cuts,
}

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
    **SUPPRESS_FIGURES,
}
"""Name of the file → how it is drawn. To add a figure: write its function and a line here."""


def figure_path(folders: Folders, name: str, dataset: str) -> Path:
    """Where a figure is written."""
    return Path(folders.results_dir) / "figures" / f"{name}_{dataset}.png"


def show(results: Results, name: str) -> Any:
    """A figure for a notebook: drawn anew where its checkpoints are there, else the file that was drawn last.

    Returns:
        An `IPython.display.Image`.

    Raises:
        Missing: If there is neither.
    """
    from IPython.display import Image

    try:
        content = io.BytesIO()
        figure = FIGURES[name](results)
        figure.savefig(content, dpi=100, bbox_inches="tight")
        plt.close(figure)
        return Image(content.getvalue())
    except Missing as reason:
        path = figure_path(results.folders, name, results.dataset)
        if not path.exists():
            raise
        note(f"{reason}; this is {path.name} as it was drawn last")
        return Image(path.read_bytes())


def draw(
    folders: Folders, dataset: str, figures: Mapping[str, Callable[[Results], Figure]] | None = None
) -> list[Path]:
    """Draw figures (by default all) whose rows and checkpoints are there; the others are named on standard error.

    Returns:
        The files.

    Raises:
        UsageError: If there are no results for the data set at all, or the folder cannot be written.
    """
    results = Results(folders, dataset)
    written = []
    for name, figure in (FIGURES if figures is None else figures).items():
        path = figure_path(folders, name, dataset)
        try:
            written.append(save_figure(figure(results), path))
        except Missing as reason:
            note(f"not drawn: {path.name}: {reason}")
    return written
