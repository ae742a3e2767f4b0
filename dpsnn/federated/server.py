"""The ServerApp: a round after another, until the model is done. It sees updates added up, or, plain, each of them."""

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from flwr.common import (
    FitIns,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server import ClientManager, LegacyContext, ServerConfig
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp

from dpsnn import building
from dpsnn.batches import TensorBatches
from dpsnn.classifier import SplitClassifier
from dpsnn.data import DATASETS
from dpsnn.errors import Diverged
from dpsnn.federated.grid import PatientGrid
from dpsnn.federated.local import Weights, get_weights, set_weights
from dpsnn.federated.secure import SurvivingWorkflow
from dpsnn.federated.spec import Settings
from dpsnn.metrics import correct
from dpsnn.orphans import end_with


class TooFew(RuntimeError):
    """A round gave no average, because too few clients were left."""


class AddAverage(FedAvg):
    """Ask every client for its update and add their average to the model (McMahan et al. 2017, arXiv 1602.05629).

    Args:
        classifier: The model at the start; its weights are those of the finished rounds.
        on_round: Called with the round and the average update after each.
    """

    def __init__(self, classifier: SplitClassifier, on_round: Any) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.classifier = classifier
        self.on_round = on_round
        self.weights = get_weights(classifier)
        self.update: Weights | None = None
        self.added = 0

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        return ndarrays_to_parameters([self.weights])

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        self.update = None
        instruction = FitIns(parameters, {"round": server_round})
        return [(proxy, instruction) for proxy in client_manager.all().values()]

    def aggregate_fit(
        self, server_round: int, results: Any, failures: Any
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """The new weights. Of a secure average every result is that average already, with weight 1."""
        average, _ = super().aggregate_fit(server_round, results, failures)
        if average is None:
            return None, {}
        (self.update,) = parameters_to_ndarrays(average)
        self.added = len(results)
        self.weights = (self.weights + self.update).astype(np.float32)
        return ndarrays_to_parameters([self.weights]), {}

    def evaluate(
        self, server_round: int, parameters: Parameters
    ) -> tuple[float, dict[str, Scalar]] | None:
        """After each round; Flower goes on with the old weights where there is no average, this stops.

        Raises:
            TooFew: If there is none.
            Diverged: If it is not finite: of a client that did not look at its own update.
        """
        if server_round:
            if self.update is None:
                raise TooFew(f"round {server_round} gave no average: too few clients were left")
            if not np.isfinite(self.weights).all():
                raise Diverged(
                    f"the average of round {server_round} is not finite; lower --learning_rate"
                )
            set_weights(self.classifier, self.weights)
            self.on_round(server_round, self)
        return None


def accuracy(classifier: SplitClassifier, batches: TensorBatches) -> float:
    """Share of images named rightly, in percent, as the model is used: with its noise.

    Raises:
        Diverged: If the model gives values that are not finite.
    """
    classifier.eval()
    with torch.no_grad():
        right = torch.cat([correct(classifier(images), labels) for images, labels in batches])
    if not bool(right.isfinite().all()):
        raise Diverged("the averaged model gives values that are not finite; lower --learning_rate")
    return 100 * right.mean().item()


class Journal:
    """One line of JSON for each thing that happened, which the starting process follows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"

    def __call__(self, **event: Any) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def wait_for_clients(grid: PatientGrid, clients: int) -> None:
    """Until all are connected.

    Raises:
        TooFew: If they are not in time.
    """
    end = time.monotonic() + float(grid.timeout)
    while (present := len(list(grid.get_node_ids()))) < clients:
        if time.monotonic() > end:
            raise TooFew(f"{present} of {clients} clients came within {grid.timeout:g} s")
        time.sleep(0.2)


def train(grid: PatientGrid, context: Context, settings: Settings, journal: Journal) -> None:
    """All rounds of one run."""
    spec, federated, folder = settings.classifier, settings.federated, Path(settings.folder)
    data = DATASETS[spec.dataset](settings.data_dir, batch_size=500)
    classifier = building.build_classifier(spec)
    images = len(data.tensors("train")[1])
    validation = data.batches("validation" if data.chooses_epoch else "test")
    wait_for_clients(grid, federated.clients)
    start = time.monotonic()

    def on_round(current: int, strategy: AddAverage) -> None:
        nonlocal start
        seconds = time.monotonic() - start
        if settings.audit and strategy.update is not None:
            np.save(folder / f"average_{current}.npy", strategy.update)
        journal(
            round=current,
            clients=strategy.added,
            accuracy=accuracy(classifier, validation),
            seconds=seconds,
            sent=grid.sent,
            received=grid.received,
        )
        start = time.monotonic()

    workflow = DefaultWorkflow(
        fit_workflow=(
            SurvivingWorkflow(federated.clients, images, float(federated.timeout))
            if settings.mode == "secure"
            else None
        )
    )
    legacy = LegacyContext(
        context, ServerConfig(num_rounds=federated.rounds), AddAverage(classifier, on_round)
    )
    workflow(grid, legacy)
    torch.save(classifier.state_dict(), folder / "weights.pt")
    journal(done=True, source=data.source)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """What Flower calls in the server's process."""
    settings = Settings.read(str(context.run_config["settings"]))
    end_with(os.getppid())  # the SuperExec, which ends with the process that started the run
    journal = Journal(Path(settings.folder))
    patient = PatientGrid(grid, settings.federated.timeout)
    try:
        train(patient, context, settings, journal)
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        said = f" (a client said: {patient.reasons[0]})" if patient.reasons else ""
        journal(error=text + said, trace=traceback.format_exc())
        raise
