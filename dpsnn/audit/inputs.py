"""What is audited: a model with the data that its users send, or pairs of images and what was sent of each."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dpsnn.audit.held import Pictures
from dpsnn.audit.identity import answers, of_module, of_tensors
from dpsnn.audit.loading import Model, load_model
from dpsnn.audit.picture_folder import class_folders
from dpsnn.audit.pictures import as_tensor, load_pictures
from dpsnn.audit.plan import Budget
from dpsnn.audit.sides import Sides, make_sides
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError, reading

SMASHED = "smashed"
"""Name of the array with what was sent."""


class Inputs:
    """What is audited."""

    def __init__(
        self, sides: Sides, model: Model | None = None, smashed: Tensor | None = None
    ) -> None:
        self.sides, self.model, self.smashed = sides, model, smashed

    @property
    def digest(self) -> str | None:
        """Of the model, or of what it sent."""
        if self.model is not None:
            return of_module(self.model.module)
        return None if self.smashed is None else of_tensors([self.smashed])

    @property
    def answers(self) -> list[float] | None:
        """As of `identity.answers`; of a model whose code is not ours."""
        if self.model is None or self.model.whole is None:
            return None
        return answers(self.model.whole, self.sides.image_shape)


def of_model(
    model: Any,
    data: Any,
    weights: str,
    surrogate: Any,
    groups: str,
    trained_on: Any,
    size: int | None,
    seed: int,
    budget: Budget,
    data_dir: str,
    scratch: Path | None = None,
) -> Inputs:
    if model is None or data is None:
        raise UsageError("name both --model and --data, or --smashed alone")
    known = load_model(model, weights, _classes(data))
    most = budget.own, budget.victims
    how = (known.channels, size, seed, data_dir)
    sides = make_sides(data, surrogate, groups, trained_on, *how, most, scratch)
    wanted = known.image_shape
    if wanted is not None and wanted != sides.image_shape:
        raise UsageError(
            f"{known.name} takes images of shape {wanted}, and the data have {sides.image_shape}; give others, or"
            " pictures in a folder with --size"
        )
    known = known.seeing(sides.image_shape, len(sides.victims.classes) or None)
    return Inputs(_named(sides, known.scores), known)


def _named(sides: Sides, scores: int | None) -> Sides:
    """The same, with a note where the labels are no numbers of the model's classes, so that it has no accuracy."""
    labels = sides.victims.labels
    if not sides.victims.classes or scores is None or int(labels.max()) < max(2, scores):
        return sides
    said = (
        f"no accuracy is given: the labels of the victims go from {int(labels.min())} to {int(labels.max())}, and the"
        f" model gives {scores} scores; number the classes from 0 as the model does"
    )
    return replace(sides, notes=(*sides.notes, said))


def _classes(data: Any) -> int | None:
    """Classes of the data, where they are known without reading pictures."""
    if isinstance(data, str) and data in DATASETS:
        return int(DATASETS[data].num_classes)
    if isinstance(data, str) and Path(data).is_dir():
        return len(class_folders(Path(data))) or None
    return None


def of_pairs(path: str, groups: str, trained_on: Any, seed: int, budget: Budget) -> Inputs:
    """Pictures and what was sent of each."""
    pictures = load_pictures(path, groups=groups)
    with reading(path, "a NumPy file of arrays", "write it with numpy.savez"):
        with np.load(path, allow_pickle=False) as content:
            if SMASHED not in content.files:
                raise UsageError(f"{path} has no array {SMASHED!r}, only {content.files}")
            smashed = as_tensor(content[SMASHED], f"{SMASHED} in {path}")
    whole = len(smashed) == len(pictures) and smashed.dim() > 1 and smashed.numel() > 0
    if not whole or not smashed.is_floating_point():
        raise UsageError(
            f"{path} has {len(pictures)} images, and {SMASHED} of shape {tuple(smashed.shape)} of {smashed.dtype}; give"
            " a row of floats for each image"
        )
    # In which it is attacked: what is finite in float64 may be infinite there.
    smashed = smashed.float()
    if not bool(smashed.isfinite().all()):
        raise UsageError(
            f"{SMASHED} in {path} holds values that are no finite numbers in float32; mend it"
        )
    who, most = "groups" if groups else "", (budget.own, budget.victims)
    sides = make_sides(_given(pictures), None, who, trained_on, seed=seed, most=most)
    return Inputs(replace(sides, name=path, groups=groups or None), smashed=smashed)


def _given(pictures: Pictures) -> Mapping[str, Any]:
    """As arrays again."""
    named: dict[str, Any] = {"images": pictures.images, "groups": pictures.groups}
    if pictures.classes:
        named["labels"] = [pictures.classes[int(each)] for each in pictures.labels]
    return {name: value for name, value in named.items() if value is not None}
