"""Rows of one data set as the figures and notebooks read them: numbers, one settled meaning per choice."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.pictures import attack_figure
from dpsnn.folders import Folders
from dpsnn.names import longest

SETTINGS = ["Model", "Dataset", "NoiseScale"]
MODEL_COLUMNS = [*SETTINGS, "Network", "GaussianStd", "NopeekWeight", "NopeekExponent"]
ATTACKER_COLUMNS = [
    *SETTINGS,
    "Attacker",
    "Surrogate",
    "Decoder",
    "Adaptive",
    "DataPct",
    "Queries",
    "TrainNoiseScale",
]
"""Without these no row can be told from another."""

TEXTS = ["Digest", "ValidatorDigest", "Model", "Attacker"]
"""Digests may consist of figures alone, names of users too."""


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
        models = self._table(tables.models_table(folders.results_dir), MODEL_COLUMNS)
        attackers = self._table(tables.attackers_table(folders.results_dir), ATTACKER_COLUMNS)
        attackers["Kind"] = [
            ("adaptive" if adaptive else "naive") + ("" if decoder == "conv" else f" {decoder}")
            for adaptive, decoder in zip(attackers.Adaptive, attackers.Decoder)
        ]
        if "DPNoiseMultiplier" not in models:
            models["DPNoiseMultiplier"] = None
        usual = models.NopeekExponent.isna() | (models.NopeekExponent == 1)
        usual &= (models.GaussianStd == 0) & (models.Network == "titcombe")
        for column in {"SuppressSparsity", "NopeekClean", "ConstantRate", "FixedOrder"} & {*models}:
            usual &= ~models[column].map(bool, na_action="ignore").eq(True)
        every = {*models.Model}
        models, attackers = _longest(models, "Model"), _longest(attackers, "Attacker")
        self.shorter = every - {*models.Model}
        """Models of which a longer training is there: no figure shows them."""
        self.models = models[usual & models.DPNoiseMultiplier.isna()].copy()
        self.attackers = attackers[attackers.Model.isin(self.models.Model)].copy()
        if "Attack" in attackers:
            own = self.attackers
            self.attackers = own[own.Attack.fillna("decoder").eq("decoder") & own.Cut.isna()].copy()
        self._all = models, attackers

    def private(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Classifiers with DP-SGD and no other defence, undefended ones of the same kind, and their attackers.

        Of the same kind are networks and batch sizes. The column DPNoiseMultiplier is 0 for the undefended.

        Raises:
            Missing: If none was trained with DP-SGD.
        """
        models, attackers = self._all
        rows = models[
            (models.NoiseScale == 0) & (models.NopeekWeight == 0) & (models.GaussianStd == 0)
        ]
        trained = rows[rows.DPNoiseMultiplier.notna()]
        if trained.empty:
            raise Missing("the table has no classifiers trained with DP-SGD")
        alike = rows.Network.isin(trained.Network) & rows.BatchSize.isin(trained.BatchSize)
        rows = rows[alike].copy()
        rows["DPNoiseMultiplier"] = pd.to_numeric(rows.DPNoiseMultiplier).fillna(0.0)
        own = attackers[attackers.Model.isin(rows.Model)].drop(columns="DPNoiseMultiplier")
        return rows, own.merge(rows[["Model", "DPNoiseMultiplier"]], on="Model")

    def _table(self, path: Path, needed: Sequence[str]) -> pd.DataFrame:
        rows = tables.read(path, needed)
        if not rows:
            raise UsageError(f"no results in {path}; run ./main.sh plain --dataset {self.dataset}")
        numbers = pd.DataFrame(rows).replace("", None)
        for column in numbers.columns.difference(TEXTS):
            values = set(numbers[column].dropna())
            if values and values <= {"True", "False"}:
                numbers[column] = numbers[column] == "True"
            elif not values or any(map(_is_number, values)):
                for row in rows:
                    tables.number(row, column)  # one word among numbers is an error
                numbers[column] = pd.to_numeric(numbers[column])
        chosen = numbers[numbers.Dataset == self.dataset]
        if chosen.empty:
            there = sorted(set(numbers.Dataset))
            raise UsageError(f"no results for {self.dataset} in {path}, only for {there}")
        return chosen

    def classifiers(self, **wanted: Any) -> pd.DataFrame:
        """Rows of classifiers whose columns have these values."""
        return where(self.models, wanted)

    def attacks(self, **wanted: Any) -> pd.DataFrame:
        """Rows of attackers whose columns have these values.

        What is not named is the usual: noise as in training, all own images, of the target's kind, one transmission.
        """
        rows = self.attackers
        usual = {"Surrogate": self.dataset, "DataPct": 100, "Queries": 1}
        usual = {name: value for name, value in usual.items() if name not in wanted}
        if "NoiseScale" not in wanted:
            rows = rows[rows.NoiseScale == rows.TrainNoiseScale]
        for name, value in usual.items():
            rows = rows[rows[name] == value]
        return where(rows, wanted)

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


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _longest(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Without rows of shorter trainings of what is there as well: no figure mixes them."""
    if "MaxEpochs" not in rows:
        return rows
    return rows[rows[column].isin(longest(dict(zip(rows[column], rows.MaxEpochs.fillna(0)))))]


def where(rows: pd.DataFrame, wanted: dict[str, Any]) -> pd.DataFrame:
    """Rows whose column has the value, or one of a tuple of values; every value where it is None."""
    for name, value in wanted.items():
        if value is not None:
            rows = rows[rows[name].isin(value if isinstance(value, tuple) else (value,))]
    return rows


def by_kind(rows: pd.DataFrame, kinds: Iterable[str], x: str) -> dict[str, pd.DataFrame]:
    """One series per kind of attacker that is there, for a figure against column `x`.

    Raises:
        Missing: If all rows have the same `x`.
    """
    rows = rows[rows.Kind.isin(kinds)]
    if rows[x].nunique() < 2:
        raise Missing(f"the table has no attackers with different {x}")
    series = {f"{kind} attacker": rows[rows.Kind == kind] for kind in kinds}
    return {label: part for label, part in series.items() if len(part)}
