"""Rows that an evaluation finds: which are of an earlier version, and which are of models that are gone."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dpsnn import checkpoints
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.folders import Folders
from dpsnn.names import names_of
from dpsnn.specs import AttackerSpec, ClassifierSpec


def unconditioned(rows: Iterable[Mapping[str, str]]) -> set[str]:
    """Models whose rows have an ε and do not say on what condition, as earlier versions left them."""
    return {row["Model"] for row in rows if row.get("DPEpsilon") and not row.get("DPRepeatable")}


def retire(path: Path, folders: Folders) -> None:
    """Drop the rows of earlier trainings of this classifier whose files are gone.

    They ended in another epoch, or were made when names did not say epochs, step size and batch size. Tables that
    studies keep of their own lose theirs as well: a figure would show both.
    """
    stored = checkpoints.read(path, CLASSIFIER)
    own = path.name.rsplit("_epoch=", 1)[0]
    names = {own, *names_of(ClassifierSpec, stored.arguments)}
    training = {
        "MaxEpochs": stored.arguments["max_epochs"],
        "BatchSize": stored.arguments["batch_size"],
        "LearningRate": stored.arguments["learning_rate"],
    }
    cells = {column: tables.cell(value) for column, value in training.items()}
    table = tables.models_table(folders.results_dir)

    def lost(model: str) -> bool:
        return not (path.parent / f"{model}.ckpt").exists()

    gone = {
        row["Model"]
        for row in tables.read(table)
        if (name := row["Model"].rsplit("_epoch=", 1)[0]) in names
        and (name == own or cells.items() <= row.items())
        and lost(row["Model"])
    }
    for each in sorted(table.parent.glob("*.csv")):
        try:
            found = {row.get("Model", "") for row in tables.read(each)}
        except UsageError:  # whose table it is will say so
            continue
        # Its own row may have gone before theirs.
        before = {m for m in found if m.startswith(f"{own}_epoch=") and lost(m)}
        tables.drop(each, "Model", gone | before)


def retire_attacker(path: Path, row: tables.Row, table: Path) -> None:
    """Drop the row that this attacker had when names did not say epochs, unless a file has that name still."""
    names = names_of(AttackerSpec, checkpoints.read(path, ATTACKER).arguments)
    same = {name: tables.cell(row[name]) for name in ("Model", "MaxEpochs")}
    gone = {
        old["Attacker"]
        for old in tables.read(table)
        if old["Attacker"] in names
        and old["Attacker"] != row["Attacker"]
        and same.items() <= old.items()
        and not (path.parent / f"{old['Attacker']}.ckpt").exists()
    }
    tables.drop(table, "Attacker", gone)
