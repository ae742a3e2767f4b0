"""What a metric of reconstructions is: one file that says what it measures, what stands beside it, how it is shown."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.errors import UsageError
from dpsnn.metrics.floors import shuffled
from dpsnn.parts import declared, find
from dpsnn.tensors import Images, Labels, Logits

Cells = dict[str, object]
"""Column → value."""

Values = Float[Tensor, " values"] | None
"""One for each image, or for each block of images, NaN where undefined; None where there is nobody to judge."""


def standard_error(values: Float[Tensor, " values"]) -> float:
    """Standard error of the mean; not a number for a single value."""
    return values.double().std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def mean(values: Float[Tensor, " values"]) -> float:
    """Not a number where there is none, or one that is not finite: such a cell of a table stays empty."""
    return values.double().mean().item()


@dataclass(frozen=True)
class Scored:
    """Reconstructions in [0, 1] beside the truth, its classes, and what the judge answers to the reconstructions."""

    reconstructions: Images
    images: Images
    labels: Labels
    judged: Logits | None = None

    def beside_others(self) -> "Scored":
        """The same reconstructions beside the images of others."""
        return replace(self, images=shuffled(self.images), labels=shuffled(self.labels))


class Metric:
    """How much of an image a reconstruction has; what has a `key` is a metric, and stands in the table of attackers.

    Attributes:
        key: By which it is asked for, in figures and texts.
        version: Raised when its values change; rows with those of then are made anew.
        column: Of the table.
        error: Column of its standard error; of this and those below `{}` is the column, and empty is none.
        floor: Column of what no information gives.
        floor_label: What that is.
        class_floor: Column of what the class alone gives: the mean of own images of the victim's class.
        ceiling: Column of what the true image gives.
        shuffled: Column of what the same reconstructions give beside other images.
        label: On an axis.
        short: Heading of a text; the label where empty.
        perfect: What the true image gives, where that is the same number for all.
        leaks: Which values leak more, `higher` or `lower`.
        digits: After the point, in texts.
        percent: Whether it is a share of right answers in percent.
        shown: Whether figures and the headline show it wherever leakage is shown.
        instead_of: Key of another that is not shown where this one has values.
        order: Where it stands among others.
        smallest: Pixels on a side for which it is defined; of smaller images it is not a number.
    """

    kind: ClassVar[str] = "metric"
    key: ClassVar[str]
    version: ClassVar[int] = 1
    column: ClassVar[str]
    error: ClassVar[str] = "SE{}"
    floor: ClassVar[str] = "{}Floor"
    floor_label: ClassVar[str] = "floor: mean image"
    class_floor: ClassVar[str] = ""
    ceiling: ClassVar[str] = ""
    shuffled: ClassVar[str] = ""
    label: ClassVar[str]
    short: ClassVar[str] = ""
    perfect: ClassVar[str] = ""
    leaks: ClassVar[str] = "higher"
    digits: ClassVar[int] = 3
    percent: ClassVar[bool] = False
    shown: ClassVar[bool] = False
    instead_of: ClassVar[str] = ""
    order: ClassVar[int] = 50
    smallest: ClassVar[int] = 1

    @classmethod
    def columns(cls) -> dict[str, str]:
        """What stands in the table, `column`, `error`, `floor` and so on → the column; empty is none."""
        names = ("column", "error", "floor", "class_floor", "ceiling", "shuffled")
        return {name: getattr(cls, name).format(cls.column) for name in names}

    def values(self, seen: Scored) -> Values:
        """The metric itself."""
        raise NotImplementedError

    def least(self, nothing: Scored) -> float | None:
        """What no information gives, in the units of the metric.

        Args:
            nothing: The mean of the attacker's own images in the place of each reconstruction.
        """
        return self._mean(nothing)

    def measured(self, seen: Scored) -> Cells:
        """What of a row depends on the reconstructions."""
        return self.cells(seen, self.defined(seen))

    def cells(self, seen: Scored, values: Values) -> Cells:
        """`measured`, of reconstructions with these values."""
        names = self.columns()
        cells: Cells = {names["column"]: None if values is None else mean(values)}
        if names["error"]:
            cells[names["error"]] = None if values is None else standard_error(values)
        if names["shuffled"]:
            several = len(seen.images) > 1
            cells[names["shuffled"]] = self._mean(seen.beside_others()) if several else None
        return cells

    def references(self, nothing: Scored, perfect: Scored, classes: Scored | None = None) -> Cells:
        """What is the same for every attacker with the same own images.

        Args:
            nothing: Their mean in the place of each reconstruction.
            perfect: The true images in their place.
            classes: The mean of those of the victim's class in its place; None where they have not its classes.
        """
        names = self.columns()
        cells: Cells = {names["floor"]: self.least(nothing)} if names["floor"] else {}
        if names["class_floor"]:
            cells[names["class_floor"]] = self._mean(classes) if classes else None
        return cells | ({names["ceiling"]: self._mean(perfect)} if names["ceiling"] else {})

    def defined(self, seen: Scored) -> Values:
        """`values`; not a number for each image that is too small."""
        if min(seen.images.shape[-2:]) < self.smallest:
            return seen.images.new_full((len(seen.images),), torch.nan)
        return self.values(seen)

    def _mean(self, seen: Scored) -> float | None:
        values = self.defined(seen)
        return None if values is None else mean(values)


def known() -> list[Metric]:
    """All that can be used here, in their order.

    Raises:
        UsageError: If two write the same column.
    """
    found: list[Metric] = []
    taken: dict[str, str] = {}
    for each in declared("metric"):
        # One whose own dependency is missing is not in the way.
        with contextlib.suppress(UsageError):
            found.append(find("metric", each.key)())
    for metric in found:
        for column in filter(None, metric.columns().values()):
            if column in taken:
                raise UsageError(
                    f"the metrics {taken[column]} and {metric.key} both have the column {column}; give one of them"
                    " another"
                )
            taken[column] = metric.key
    return found


def marks(metrics: list[Metric]) -> str:
    """Which metrics, in which versions, as a row says it: `mse ssim`, of a second version `mse:2`."""
    return " ".join(m.key if m.version == 1 else f"{m.key}:{m.version}" for m in metrics)
