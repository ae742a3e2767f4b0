"""The ClientApp: trains when a round begins and hands out nothing but the change of the weights.

What a client trains on, how privately, and that its updates are to be masked, is its own setting, not the server's.
"""

import json
import os
import secrets
import signal
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import NDArrays

from dpsnn import building
from dpsnn.batches import derived_seed
from dpsnn.data import DATASETS
from dpsnn.defences.dp_sgd import DPSGD
from dpsnn.errors import Diverged
from dpsnn.federated.local import OwnImages, Weights, get_weights, set_weights, train_locally
from dpsnn.federated.partition import partition
from dpsnn.federated.secure import secure_mod
from dpsnn.federated.spec import Settings

STATE = "dpsnn_dp_sgd"
"""Record of the client's own state in which DP-SGD keeps what it has spent; it never leaves the client."""


class TrainingClient(NumPyClient):
    """One client of the run: a part of the training images, and the settings."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = Settings.read(str(context.node_config["settings"]))
        self.index = int(context.node_config["partition"])

    def fit(
        self, parameters: NDArrays, config: dict[str, Any]
    ) -> tuple[NDArrays, int, dict[str, Any]]:
        """Train from the given weights; return the update, the number of images, and no metrics."""
        settings, current = self.settings, int(config["round"])
        spec, federated = settings.classifier, settings.federated
        if self.index < federated.drop and current == federated.drop_round:
            os.kill(os.getpid(), signal.SIGKILL)
        data = DATASETS[spec.dataset](settings.data_dir)
        pixels, labels = data.tensors("train")
        rows = partition(labels, federated.clients, spec.seed, federated.skew)[self.index]
        seed = derived_seed(spec.seed, 23, self.index, current)
        order: int | bytes = seed
        private = self._private()
        if private and not private.repeatable:
            # Neither the server nor another client, who know the run's seed, may draw these lots again. The noise has a
            # secret of its own, another one in every round.
            order, seed = secrets.token_bytes(32), secrets.randbits(62)
        images = OwnImages(pixels[rows], labels[rows], spec.batch_size, order, private is not None)
        classifier = building.build_classifier(spec)
        (start,) = parameters
        set_weights(classifier, start)
        train_locally(classifier, images, federated.local_epochs, derived_seed(seed, 1), private)
        update = get_weights(classifier) - start
        if not np.isfinite(update).all():
            # Quantisation would clip it to an ordinary value.
            raise Diverged(
                "training diverged on a client: its update is not finite; lower --learning_rate"
            )
        self._keep(update, len(rows), current, private)
        # In double precision, for Flower's quantisation keeps the precision that it is given.
        wide = np.float64 if settings.mode == "secure" else np.float32
        return [update.astype(wide)], len(rows), {}

    def _private(self) -> DPSGD | None:
        """DP-SGD with what earlier rounds have spent, if the client trains privately."""
        changing = building.callbacks_of(self.settings.classifier)
        private = next((c for part, c in changing if part.private and isinstance(c, DPSGD)), None)
        records = self.context.state.config_records
        if private and STATE in records:
            private.load_state_dict(json.loads(str(records[STATE]["state"])))
        return private

    def _keep(self, update: Weights, images: int, current: int, private: DPSGD | None) -> None:
        """Note what stays with the client: what privacy it has spent, and its update where the run is audited."""
        folder = Path(self.settings.folder)
        noted: dict[str, Any] = {
            "client": self.index,
            "round": current,
            "images": images,
            "largest": float(np.abs(update).max()),
        }
        if private:
            noted.update(private.spent())
            state = ConfigRecord({"state": json.dumps(private.state_dict())})
            self.context.state.config_records[STATE] = state
        with open(folder / f"client_{self.index}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(noted) + "\n")
        if self.settings.audit:
            np.save(folder / f"update_{current}_{self.index}.npy", update)


def client_fn(context: Context) -> Client:
    """A client for one message; what lasts is in the context."""
    return TrainingClient(context).to_client()


def agreed_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Mask updates if that is the client's own setting, whatever the server asks for."""
    if Settings.read(str(context.node_config["settings"])).mode == "secure":
        return secure_mod(message, context, call_next)
    return call_next(message, context)


app = ClientApp(client_fn=client_fn, mods=[agreed_mod])
