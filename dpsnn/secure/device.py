"""Mixed mode, the client's side: the first half of a network, in clear on the device, with its defence.

The owner gives this half away. What it makes of an image is shared among the workers like an image; the noise of a
defence is added before that, on the device.
"""

import secrets
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from dpsnn import building, checkpoints, manifest
from dpsnn.checkpoints import CLASSIFIER, DEVICE
from dpsnn.classifier import SplitClassifier
from dpsnn.tensors import Images


def export(model: Path, models_dir: str | Path) -> tuple[Path, str]:
    """Write the client half of a classifier, once.

    Returns:
        Its file, and the random name that pairs it with the server half.
    """
    stored = checkpoints.read(model, CLASSIFIER)
    path = checkpoints.devices_dir(models_dir) / f"{stored.stem}_device.ckpt"
    if path.exists():
        known = checkpoints.read(path, DEVICE)
        if known.record["digest"] == stored.digest:
            return path, known.record["pairing"]
        # Of an earlier training, which is gone.
        manifest.removed(path)
    pairing = secrets.token_hex(16)
    client = {
        name: weight
        for name, weight in stored.weights.items()
        if not name.startswith("network.server.")
    }
    record = {"pairing": pairing, "digest": stored.digest}
    checkpoints.save(path, DEVICE, stored.arguments, record, client, stored.parts)
    return path, pairing


class Device:
    """A client half.

    Args:
        path: The file that `export` wrote.
    """

    def __init__(self, path: Path) -> None:
        self._classifier, self.pairing = _load(path)
        self.image_shape = self._classifier.network.image_shape

    @torch.no_grad()
    def transmit(self, images: Images) -> Float[np.ndarray, "n ..."]:
        """What may leave the device: the activation behind its defences."""
        # torch starts every process with the same noise, which would let an attacker subtract it.
        torch.manual_seed(secrets.randbits(63))
        return self._classifier.transmit(images).numpy()


def _load(path: Path) -> tuple[SplitClassifier, str]:
    stored = checkpoints.read(path, DEVICE)
    classifier = building.build_classifier(checkpoints.classifier_spec(stored))
    classifier.network.server = nn.Identity()
    checkpoints.load_weights(classifier, stored)
    return classifier, stored.record["pairing"]
