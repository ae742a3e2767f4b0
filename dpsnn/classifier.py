"""The split classifier under attack: the first file to read."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.averaging import Averaging
from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.metrics import correct
from dpsnn.networks import SplitNetwork
from dpsnn.tensors import Activation, Batch, Images, Labels, Logits, Number, Smashed

LEARNERS = "defence_optimizers"
"""Where an unfinished training keeps the state of the optimisers that defences bring."""


class SplitClassifier(Averaging):
    """A split network, its defences, and how it is trained.

    Args:
        network: Client and server.
        defences: Applied in order to the activation; their penalties join the loss.
        learning_rate: Step size.
        sgd_momentum: Where given, train by SGD with this momentum instead of Adam.
        constant_rate: Leave the step size as it is, instead of decaying it to 0 along a cosine over the whole training.
    """

    def __init__(
        self,
        network: SplitNetwork,
        defences: Iterable[DefenceModule] = (),
        learning_rate: float = 1e-3,
        sgd_momentum: Number | None = None,
        constant_rate: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.defences = DefenceList(defences)
        self.learning_rate = learning_rate
        self.sgd_momentum = sgd_momentum
        self.constant_rate = constant_rate
        self._learners: list[tuple[Any, torch.optim.Optimizer]] = []
        self._resumed: list[dict[str, Any]] = []
        self._heard: tuple[Images, Smashed, Labels]

    def encode(self, images: Images) -> Activation:
        """The client's output before any defence, in float32 whatever the precision of its layers."""
        return self.network.client(images).float()

    def transmit(self, images: Images) -> Smashed:
        """What crosses the wire: the only door out of the client."""
        return self.defences(self.encode(images))

    def forward(self, images: Images) -> Logits:
        return self.network.server(self.transmit(images)).float()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        smashed, penalty = self.defences.train_on(images, self.encode(images), labels)
        if self._learners:
            self._heard = images, smashed.detach(), labels
        task_loss = F.cross_entropy(self.network.server(smashed).float(), labels)
        self.log_means(len(images), {"train/task_loss": task_loss, "train/penalty": penalty})
        return task_loss + penalty

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        # Behind the classifier's step, whose penalties were of the weights as they were.
        for defence, optimiser in self._learners:
            optimiser.zero_grad()
            defence.learn(*self._heard).backward()
            optimiser.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        accuracy = correct(logits, labels).mean()
        loss = F.cross_entropy(logits, labels)
        self.log_means(len(images), {"val/task_loss": loss, "val/accuracy": accuracy})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._learners:
            checkpoint[LEARNERS] = [optimiser.state_dict() for _, optimiser in self._learners]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get(LEARNERS, [])

    def _own_weights(self) -> list[nn.Parameter]:
        """All that follow the training loss; what learns by itself becomes ready to."""
        modules: list[Any] = list(self.defences)
        made = ((defence, defence.optimiser()) for defence in modules)
        self._learners = [(defence, own) for defence, own in made if own is not None]
        for (_, own), state in zip(self._learners, self._resumed):
            own.load_state_dict(state)
        taken = {
            weight
            for _, own in self._learners
            for group in own.param_groups
            for weight in group["params"]
        }
        return [weight for weight in self.parameters() if weight not in taken]

    def configure_optimizers(self) -> Any:
        optimizer: torch.optim.Optimizer
        weights = self._own_weights()
        if self.sgd_momentum is None:
            # The fused kernel updates all 4.8 million weights in one pass: about a third off a step on two cores.
            optimizer = torch.optim.Adam(weights, self.learning_rate, fused=True)
        else:
            optimizer = torch.optim.SGD(weights, self.learning_rate, self.sgd_momentum)
        if self.constant_rate:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
