"""One row per classifier: how well it works and how much what it sends tells about its input."""

from pathlib import Path

import torch
from torch import Tensor, nn

from dpsnn.attacks.base import BLOCK
from dpsnn.batches import to_unit
from dpsnn.checkpoints import load_classifier
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.errors import UsageError
from dpsnn.evaluation.columns import defence_columns, length_columns, making_columns
from dpsnn.evaluation.flags import flatness, unrest
from dpsnn.evaluation.identity import identity, versions
from dpsnn.evaluation.measure import (
    block_size,
    dcorr_blocks,
    device,
    mean,
    require_finite,
    standard_error,
)
from dpsnn.metrics import correct, majority_share
from dpsnn.specs import ClassifierSpec
from dpsnn.target import Target
from dpsnn.training import seeded

LOOKED_AT = 500
"""Validation images at which it is asked whether the client is at rest and has gradients."""


@torch.inference_mode()
def _pass(
    classifier: SplitClassifier, data: ImageDataModule, role: str, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """For every image of a role whether it is classified rightly (0 or 100), and the blocks of distance correlation.

    There are none of the test images, nor of too few images.
    """
    pixels, labels = data.tensors(role, device())
    size = block_size(len(labels))
    right, values, floors = [], [torch.empty(0)], [torch.empty(0)]
    for start in range(0, len(labels), size):
        images = pixels[start : start + size].float() / 255
        smashed = torch.cat([classifier.transmit(part) for part in images.split(BLOCK)])
        logits = classifier.network.server(smashed).float()
        for tensor, what in (
            (smashed, "what the client sends"),
            (logits, "what the server answers"),
        ):
            require_finite(tensor, f"{name}: {what}")
        right.append(100.0 * correct(logits, labels[start : start + size]))
        if len(images) == size and role != "test":
            value, floor = dcorr_blocks(images, smashed, size)
            values.append(value.cpu())
            floors.append(floor.cpu())
    return torch.cat(right), torch.cat(values), torch.cat(floors)


def _silent_share(network: nn.Module) -> float:
    """Share of weights of convolutions and linear layers that are exactly zero."""
    weights = [parameter.flatten() for parameter in network.parameters() if parameter.dim() > 1]
    return mean((torch.cat(weights) == 0).float())


def classifier_row(path: Path, data_dir: str | Path) -> dict[str, object]:
    """Accuracies in percent, distance correlation of images and smashed tensor, ε, each beside its floor.

    Args:
        path: A classifier's checkpoint.
        data_dir: Where data sets lie.

    Returns:
        Column → value. Distance correlations are bias-corrected and over blocks of `DCorrN` images.

    Raises:
        UsageError: If the checkpoint is damaged or the data cannot be reached.
    """
    classifier, spec, stored = load_classifier(path)
    if spec.validator:
        raise UsageError(
            f"{path.name} is a validator: it judges reconstructions and is not attacked"
        )
    classifier.to(device(), memory_format=torch.channels_last)
    data = DATASETS[spec.dataset](data_dir)
    results = {}
    with seeded(spec.seed, 10):
        for role in ("train", "validation", "test"):
            results[role] = _pass(classifier, data, role, stored.stem)
    (train, train_dcorr, train_floor), (val, val_dcorr, val_floor), (test, _, _) = results.values()
    network = classifier.network
    labels = data.tensors("validation")[1]
    target = Target.of(classifier)
    epsilon, delta = target.guarantee()
    some = to_unit(data.tensors("validation")[0][:LOOKED_AT])
    return {
        "Model": stored.stem,
        "MeanTrainAcc": mean(train),
        "SETrainAcc": standard_error(train),
        "MeanValAcc": mean(val),
        "SEValAcc": standard_error(val),
        "MeanTrainDCorr": mean(train_dcorr),
        "SETrainDCorr": standard_error(train_dcorr),
        "MeanValDCorr": mean(val_dcorr),
        "SEValDCorr": standard_error(val_dcorr),
        "TestAcc": mean(test),
        "SETestAcc": standard_error(test),
        "AccFloor": majority_share(labels),
        "TrainDCorrFloor": mean(train_floor),
        "ValDCorrFloor": mean(val_floor),
        "DCorrN": block_size(len(labels)) if len(val_dcorr) else None,
        **defence_columns(spec, stored.record),
        "Epsilon": epsilon,
        "EpsilonDelta": delta,
        "Sparsity": _silent_share(classifier.network),
        "Restless": unrest(target, some),
        "NoGradient": flatness(target, some),
        "Dataset": spec.dataset,
        "DataSource": data.source,
        "Network": spec.network,
        "Cut": network.cut or None,
        "Seed": spec.seed,
        "Epoch": stored.record["epoch"],
        **length_columns(spec),
        **making_columns(spec),
        "Precision": stored.record["precision"],
        "Versions": versions(spec.active),
        "Digest": stored.digest,
        "Identity": identity(ClassifierSpec, stored),
    }
