"""What is audited: a model with the data that its users send, or pairs of images and what was sent of each."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpsnn.audit.loading import Model, load_model
from dpsnn.audit.pictures import Pictures, load_pictures
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
) -> Inputs:
    if model is None or data is None:
        raise UsageError("name both --model and --data, or --smashed alone")
    known = load_model(model, weights, _classes(data))
    sides = make_sides(
        data, surrogate, groups, trained_on, known.channels, size, seed, data_dir
    ).within(budget.own, budget.victims)
    wanted = known.image_shape
    if wanted is not None and wanted != sides.image_shape:
        raise UsageError(
            f"{known.name} takes images of shape {wanted}, and the data have {sides.image_shape}; give others, or"
            " pictures in a folder with --size"
        )
    return Inputs(sides, known)


def _classes(data: Any) -> int | None:
    """Classes of the data, where they are known without reading pictures."""
    if isinstance(data, str) and data in DATASETS:
        return int(DATASETS[data].num_classes)
    if isinstance(data, str) and Path(data).is_dir():
        return sum(path.is_dir() for path in Path(data).iterdir()) or None
    return None


def of_pairs(path: str, groups: str, trained_on: Any, seed: int, budget: Budget) -> Inputs:
    """Pictures and what was sent of each."""
    pictures = load_pictures(path, groups=groups)
    with reading(path, "a NumPy file of arrays", "write it with numpy.savez"):
        with np.load(path, allow_pickle=False) as content:
            if SMASHED not in content.files:
                raise UsageError(f"{path} has no array {SMASHED!r}, only {content.files}")
            smashed = torch.from_numpy(np.ascontiguousarray(content[SMASHED]))
    if len(smashed) != len(pictures) or smashed.dim() < 2 or not smashed.is_floating_point():
        raise UsageError(
            f"{path} has {len(pictures)} images, and {SMASHED} of shape {tuple(smashed.shape)} of {smashed.dtype}; give"
            " a row of floats for each image"
        )
    if not bool(smashed.isfinite().all()):
        raise UsageError(f"{SMASHED} in {path} holds values that are no finite numbers; mend it")
    sides = make_sides(_given(pictures), None, "groups" if groups else "", trained_on, seed=seed)
    sides = replace(sides, name=path, groups=groups or None)
    return Inputs(sides.within(budget.own, budget.victims), smashed=smashed)


def _given(pictures: Pictures) -> Mapping[str, Any]:
    """As arrays again."""
    named: dict[str, Any] = {"images": pictures.images, "groups": pictures.groups}
    if pictures.classes:
        named["labels"] = [pictures.classes[int(each)] for each in pictures.labels]
    return {name: value for name, value in named.items() if value is not None}
