"""Rows of a table as the texts of the ledger read them."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from dpsnn.evaluation.tables import number
from dpsnn.names import longest

Row = Mapping[str, str]
AnyRow = TypeVar("AnyRow", bound=Row)


def of_longest(
    rows: Iterable[AnyRow], trained: Iterable[Row], column: str = "Model"
) -> list[AnyRow]:
    """Rows without those of models of which a longer training is among `trained`: no text mixes them.

    Args:
        rows: Rows of any table.
        trained: Rows that say for how many epochs, of classifiers or of attackers.
        column: Where the name of such a model stands: `Model` or `Attacker`.
    """
    epochs = {row[column]: number(row, "MaxEpochs") or 0 for row in trained}
    shorter = epochs.keys() - longest(epochs)
    return [row for row in rows if row[column] not in shorter]
