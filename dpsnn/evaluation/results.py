"""Rows of one data set as the figures and notebooks read them: numbers, one settled meaning per choice."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from dpsnn import parts
from dpsnn.errors import UsageError
from dpsnn.evaluation import legends, measures, tables
from dpsnn.evaluation.columns import (
    FOLLOWS,
    agrees,
    changed_columns,
    expected,
    is_outcome,
    length_columns,
    making_columns,
    published_columns,
)
from dpsnn.evaluation.identity import version_of
from dpsnn.evaluation.pictures import attack_figure
from dpsnn.evaluation.strongest import strongest_table
from dpsnn.folders import Folders
from dpsnn.names import longest, names_of, seedless
from dpsnn.parts import Part
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, replace

MODEL_COLUMNS = ["Model", "Dataset", "Network"]
ATTACKER_COLUMNS = ["Model", "Attacker", "Dataset", "Surrogate", "Decoder", "Adaptive"]
ATTACKER_COLUMNS += ["DataPct", "Queries"]
"""Without these, and the strengths of the published defences, no row can be told from another."""

TEXTS = ["Digest", "TargetDigest", "ValidatorDigest", "Identity", "Model", "Attacker"]
"""Digests may consist of figures alone, names of users too."""

BASE, ATTACKER = ClassifierSpec(), AttackerSpec()
"""The usual network and training, and the usual attacker."""


def _usual() -> dict[str, Any]:
    """What its rows say: of cuts nothing."""
    return {**expected(BASE), "Cut": None}


class Missing(UsageError):
    """A figure needs rows that no group has made yet."""


class Defended(NamedTuple):
    """Classifiers that differ in their seed alone."""

    legend: str
    parts: tuple[Part, ...]
    """Their defences, in order."""
    unknown: tuple[str, ...]
    """What else their rows say, of parts that are not known here: those of a plug-in that was not named."""
    models: pd.DataFrame


class Results:
    """The rows of one data set, with the choices that the figures share.

    `models` are the classifiers of the usual network and training with none but the published defences, those that
    every name says; `every` has all defences there are.

    Args:
        folders: Where tables, checkpoints and data are.
        dataset: Data set of the classifiers.

    Raises:
        UsageError: If there is no table, or none of its rows is for the data set.
    """

    def __init__(self, folders: Folders, dataset: str) -> None:
        self.folders = folders
        self.dataset = dataset
        strengths = published_columns()
        now = [*MODEL_COLUMNS, *strengths]
        models = self._table(tables.models_table(folders.results_dir), now)
        changed = [new for old, new in changed_columns().items() if old in strengths]
        now = [*ATTACKER_COLUMNS, *strengths, *changed]
        attackers = self._table(tables.attackers_table(folders.results_dir), now)
        attackers["Kind"] = [_kind(row) for row in _records(attackers)]
        for part in parts.declared("defence"):
            for column in (made.column for made in part.options[:1]):
                if column not in models:
                    models[column] = None
        told = measures.settings([*models], measures.CLASSIFIER)
        self.settings = [c for c in told if c not in FOLLOWS and not is_outcome(c)]
        """Columns by which classifiers differ."""
        self.rows = models, attackers
        """Of all trainings, shorter ones too."""
        models = _latest(models, lambda row: (part.key for part in legends.defences(row)))
        attackers = _latest(attackers, _attack)
        models, attackers = _longest(models, "Model"), _longest(attackers, "Attacker")
        self.shorter = {*self.rows[0].Model} - {*models.Model}
        """Models of which a longer training is there: no figure shows them."""
        self._longest = models, attackers
        free = {"Dataset", *length_columns(BASE), *strengths}
        chosen = self._as_usual([c for c in self.settings if c not in free])
        self._take(_plainest(chosen, self.settings))

    def _as_usual(self, columns: Sequence[str]) -> pd.DataFrame:
        """The classifiers that are as usual in these columns."""
        models, wanted = self._longest[0], _usual()
        return models.loc[[agrees(row, wanted, columns) for row in _records(models)]]

    def _take(self, models: pd.DataFrame) -> "Results":
        """Have these classifiers, and their attackers at the cut of training, each attack as it is by default."""
        own = self._longest[1]
        own = own[own.Model.isin(models.Model)]
        if "Cut" in own:
            own = own[own.Cut.isna()]
        self.models, self.attackers = models.copy(), _by_default(own).copy()
        return self

    @property
    def every(self) -> "Results":
        """The same with all defences that the tables have."""
        columns = [c for c in ("Cut", *making_columns(BASE)) if c in self.settings]
        return copy.copy(self)._take(self._as_usual(columns))

    def defended(self) -> list[Defended]:
        """The classifiers by their defence, from none on by rising strength; what differs is never in one."""
        groups: dict[tuple[str, ...], list[tuple[Any, Mapping[str, Any]]]] = {}
        usual = _usual()
        for index, row in zip(self.models.index, _records(self.models)):
            groups.setdefault(_identity(row, self.settings, usual), []).append((index, row))
        beyond = {*self.settings} - usual.keys()
        found = []
        for (name, *_), members in groups.items():
            first = members[0][1]
            told = (c for c in sorted(beyond) if not agrees(first, {}, (c,)))
            unknown = tuple(f"{column} {first[column]}" for column in told)
            rows = self.models.loc[[index for index, _ in members]]
            found.append((legends.defences(first), unknown, name, rows))
        found.sort(key=lambda group: (legends.strengths(group[0]), group[1]))
        said = legends.distinct([(used, unknown, name) for used, unknown, name, _ in found])
        return [
            Defended(text, used, unknown, rows)
            for text, (used, unknown, _, rows) in zip(said, found)
        ]

    def of(
        self, spec: ClassifierSpec, attackers: Iterable[AttackerSpec] = ()
    ) -> Iterator[pd.DataFrame]:
        """Rows of a classifier with these settings and no others, then those of each attacker, whatever the seeds.

        Args:
            spec: Of the classifier.
            attackers: What was trained against it.
        """
        models, attacks = self.rows
        names = {seedless(name) for name in names_of(ClassifierSpec, plain(spec))}
        named, wanted = models[models.Model.map(seedless).isin(names)], expected(spec)
        told = [agrees(row, wanted, self.settings) for row in _records(named)]
        chosen = named.loc[told]
        yield chosen
        for each in attackers:
            surrogate = each.surrogate or spec.dataset
            names = {
                seedless(name)
                for model in chosen.Model
                for name in names_of(
                    AttackerSpec, plain(replace(each, model=model, surrogate=surrogate))
                )
            }
            yield attacks[attacks.Attacker.map(seedless).isin(names)]

    def strongest(self, models: pd.DataFrame) -> pd.DataFrame:
        """The strongest attackers of these classifiers as they were trained, each image heard once.

        Those on most victims, and only where several attackers were tried.
        """
        names, found = {*models.Model}, []
        for row in tables.read(strongest_table(self.folders.results_dir), tables.CLASSIFIER_KEY):
            changed = any(
                (tables.number(row, now) or 0) != (tables.number(row, then) or 0)
                for now, then in changed_columns().items()
                if now in row and then in row
            )
            usual = (row.get("Surrogate"), row.get("DataPct")) in (
                (self.dataset, "100"),
                (None, None),
            )
            if row["Model"] in names and row["Queries"] == "1" and usual and not changed:
                found.append({c: float(text) for c, text in row.items() if _is_number(text)})
        rows = pd.DataFrame([row for row in found if row["Tried"] > 1])
        return rows if rows.empty else rows[rows.Images == rows.Images.max()]

    def alike(self, models: pd.DataFrame) -> pd.DataFrame:
        """All classifiers made in the ways of these, whatever their defences."""
        there, columns = self.rows[0], [c for c in making_columns(BASE) if c in models]
        columns += [c for c in length_columns(BASE) if c in models]
        own = {tuple(row) for row in models[columns].map(str).to_numpy()}
        return there.loc[[tuple(row) in own for row in there[columns].map(str).to_numpy()]]

    def private(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Classifiers whose training protects each image, with no other defence, undefended ones, and their attackers.

        They are of the same networks and batch sizes. The strength of the undefended is 0.

        Raises:
            Missing: If there is none.
        """
        models = self._longest[0]
        used = [{part.key for part in legends.defences(row)} for row in _records(models)]
        for each in parts.declared("defence"):
            trained = models.loc[[keys == {each.key} for keys in used]]
            if trained.empty or not parts.find("defence", each.key).private:
                continue
            column = each.options[0].column
            (network, size), _ = Counter(zip(trained.Network, trained.BatchSize)).most_common(1)[0]
            rows = models.loc[[keys <= {each.key} for keys in used]]
            rows = rows[(rows.Network == network) & (rows.BatchSize == size)].copy()
            rows[column] = pd.to_numeric(rows[column]).fillna(0.0)
            rows = _plainest(rows, [column])
            own = copy.copy(self)._take(rows).attacks().drop(columns=column, errors="ignore")
            return rows, own.merge(rows[["Model", column]], on="Model")
        raise Missing("the table has no classifiers whose training protects its images")

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
        return chosen.copy()

    def classifiers(self, **wanted: Any) -> pd.DataFrame:
        """Rows of classifiers whose columns have these values."""
        return where(self.models, wanted)

    def attacks(self, **wanted: Any) -> pd.DataFrame:
        """Rows of attackers whose columns have these values.

        What is not named is the usual: noise as in training, all own images, of the target's kind, one transmission.
        """
        rows = self.attackers
        usual = {
            "Surrogate": self.dataset,
            "DataPct": ATTACKER.data_pct,
            "Queries": ATTACKER.queries,
        }
        usual = {name: value for name, value in usual.items() if name not in wanted}
        for now, then in changed_columns().items():
            if now not in wanted and {now, then} <= {*rows}:
                rows = rows[(rows[now] == rows[then]) | (rows[now].isna() & rows[then].isna())]
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


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): cell for name, cell in row.items()} for row in rows.to_dict("records")]


def _identity(
    row: Mapping[str, Any], columns: Sequence[str], usual: Mapping[str, Any]
) -> tuple[str, ...]:
    """What the names of repetitions have in common, then the cells of these columns, empty where they are as usual."""
    cells = ("" if agrees(row, usual, (column,)) else str(row[column]) for column in columns)
    return seedless(row["Model"]), *cells


def _plainest(models: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Of classifiers alike in these columns those of the shortest name: a longer one says what no column does."""
    usual = _usual()
    keys = [_identity(row, columns, usual) for row in _records(models)]
    shortest: dict[tuple[str, ...], str] = {}
    for name, *cells in keys:
        shortest[*cells,] = min(shortest.get((*cells,), name), name, key=len)
    return models.loc[[shortest[*cells,] == name for name, *cells in keys]].copy()


def _kind(row: Mapping[str, Any]) -> str:
    decoder = ATTACKER.decoder if legends.is_empty(row["Decoder"]) else str(row["Decoder"])
    return legends.attacker(*_attack(row), not row["Adaptive"], decoder)


def _by_default(attackers: pd.DataFrame) -> pd.DataFrame:
    """Of attackers alike in all that figures ask for those whose settings most classifiers have met.

    A line of a figure is of one attack then, where it can be. Of settings that are as frequent it is the shortest
    name: longer ones say what is not as by default.
    """
    if not len(attackers):
        return attackers
    line = [column for column in ("Kind", "Surrogate", "DataPct", "Queries") if column in attackers]
    now = [column for column in changed_columns() if column in attackers]
    lines, keys = (attackers[c].astype(str).agg(tuple, 1) for c in (line, ["Model", *line, *now]))
    pairs = zip(attackers.Attacker, attackers.Model)
    made = pd.Series(
        [seedless(name.replace(model, "")) for name, model in pairs], attackers.index, dtype=object
    )
    met = attackers.Model.groupby([lines, made]).transform("nunique")
    wanted = list(zip(-met, made.map(len), made))
    place = {each: at for at, each in enumerate(sorted({*wanted}))}
    order = pd.Series([place[each] for each in wanted], attackers.index)
    return attackers[order == order.groupby(keys).transform("min")]


def _attack(row: Mapping[str, Any]) -> tuple[str]:
    """A row of an earlier version does not say it."""
    return (ATTACKER.attack if legends.is_empty(row.get("Attack")) else row["Attack"],)


def _latest(rows: pd.DataFrame, used: Callable[[Mapping[str, Any]], Iterable[str]]) -> pd.DataFrame:
    """Without rows of earlier versions of a part that is there in a later one: no figure mixes them.

    Args:
        rows: Of a table.
        used: Row → the parts that are on, for those that do not say it.
    """
    said = [version_of(row.get("Versions"), used(row)) for row in _records(rows)]
    newest: dict[str, int] = {}
    for own in said:
        newest |= {key: max(number, newest.get(key, 1)) for key, number in own.items()}
    return rows.loc[[all(n == newest[key] for key, n in own.items()) for own in said]]


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
