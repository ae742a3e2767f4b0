"""The learned attack: train a decoder on pairs of own images and what the defended client makes of them."""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dpsnn.attacks.base import OWN_VALIDATION  # noqa: F401  known here as well
from dpsnn.attacks.base import (
    BLOCK,
    DIVERGED,
    Attack,
    AttackModule,
    Knowledge,
    Learn,
    Need,
    average,
    check_finite,
    gained,
    held_out,
    pays,
    trained,
)
from dpsnn.averaging import Averaging
from dpsnn.batches import TensorBatches, derived_seed, to_unit
from dpsnn.errors import Diverged, one_of
from dpsnn.networks.augment import AUGMENTATIONS, Pair, best_way, chosen, copied, pictures
from dpsnn.networks.decoder import DECODERS, Decoder
from dpsnn.networks.front import Front
from dpsnn.networks.ridge import linear_error
from dpsnn.parts import option
from dpsnn.tensors import Activation, Images, Inputs, Number, Smashed
from dpsnn.training import Fitted

COPIES = 4
"""Augmented copies of every own image; the client is asked for each once."""

HELD = 5 * 10**7
"""Values of activations that are kept in memory for them."""

LEAST_STEPS = 32
"""Steps per epoch: an attacker with few images goes through them several times, rather than train less."""

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped: one overshoot must not fill Adam's memory for epochs to come."""


@dataclass(frozen=True, kw_only=True)
class LearnedDecoder(Attack):
    """Learn from own images to turn what crosses the wire back into pictures."""

    key = "decoder"
    version = 2  # since the default decoder looks at the wire before it learns
    earlier = (1,)
    unsaid = 2  # the default attacker keeps the name that was published
    order = 10
    since = 1
    needs = frozenset({Need.QUERIES, Need.TRANSMISSIONS})
    learns = True

    naive: bool = option(
        False,
        "train on clean activations as they come, ignoring the noise on the wire",
        name="naive",
    )
    decoder: str = option(
        "conv",
        "conv (with ReLUs), linear (Titcombe et al.) or deconv (published for Omniglot)",
        name="decoder",
        column="Decoder",
    )
    augment: str = option(
        "auto",
        "own images also warped a little, or mirrored too: warp, mirror, none, or auto: what serves a linear map best",
        name="augment",
    )
    doublings: int = option(
        0,
        "how often at most to train anew for twice the epochs, until that lowers the own error by 3 percent or less",
        name="doublings",
    )
    max_epochs: int = option(
        20,
        "passes over the attacker's images; the best on its own part is kept",
        name="max_epochs",
        least=1,
    )
    batch_size: int = option(64, "images per step", name="batch_size", least=1)
    learning_rate: Number | None = option(
        None,
        "largest step size (default: tuned on own images)",
        name="learning_rate",
        check="positive",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.decoder, DECODERS, "decoder")
        one_of(self.augment, ("auto", *AUGMENTATIONS), "augment")

    def build(self, knowledge: Knowledge, queries: int, seed: int) -> AttackModule:
        channels, height, width = knowledge.image_shape
        decoder = DECODERS[self.decoder](knowledge.cut_shape, (channels, height, width))
        # Straightened as if nothing had been added, values tell a naive attacker less than as they come.
        looks = decoder.looks and self.present > 1 and not self.naive
        return DecoderAttack(
            decoder,
            knowledge,
            self.naive,
            queries,
            self.learning_rate,
            self.batch_size,
            self.max_epochs,
            seed,
            Front(knowledge.cut_shape) if looks else None,
            self.augment if looks or self.augment != "auto" else "none",
            self.doublings,
        )

    def columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().columns(record), "Augment": record.get("augment", "none")}

    @property
    def effort(self) -> float:
        return trained(self.doublings)

    @property
    def unaware(self) -> bool:
        return self.naive


def transmissions(
    defend: Callable[[Activation], Smashed], activation: Activation, queries: int
) -> Iterator[Smashed]:
    """Several transmissions of the same images, each with noise of its own."""
    return (defend(activation) for _ in range(queries))


def averaged(
    defend: Callable[[Activation], Smashed], activation: Activation, queries: int
) -> Smashed:
    """The mean of several transmissions of the same images."""
    return average(transmissions(defend, activation, queries))


class DecoderAttack(AttackModule, Averaging):
    """Train a decoder on the attacker's own images and judge it by its squared error on some of them held out.

    The client is asked once for every own image; noise is drawn anew for every batch of every epoch, so that the
    decoder learns the mean image given the smashed tensor and not one draw of the noise.

    Args:
        decoder: Network from smashed `(N, *cut)` to pictures `(N, C, H, W)`.
        knowledge: What the threat model grants; needed to train, not to reconstruct.
        naive: Train (and validate) on clean activations, as the published attackers did.
        queries: Transmissions of every image that the attacker averages; the spread of the noise falls with the root.
        learning_rate: Adam's largest step size; it is reached after a tenth of the steps and decays along a cosine.
            None: the one of the decoder's `rates` that serves best on own validation images, in a short training.
        batch_size: Images per step.
        max_epochs: Passes over the own images.
        seed: Seed of the split into training and own validation part and of the order of images.
        front: What looks at the wire before the decoder does; None: it gets the mean of what is heard, as it is.
        augment: Of `AUGMENTATIONS`, or `auto`.
        doublings: How often at most to train anew for twice the epochs.
    """

    at_once = BLOCK

    def __init__(
        self,
        decoder: Decoder,
        knowledge: Knowledge | None = None,
        naive: bool = False,
        queries: int = 1,
        learning_rate: Number | None = 3e-3,
        batch_size: int = 64,
        max_epochs: int = 20,
        seed: int = 0,
        front: Front | None = None,
        augment: str = "none",
        doublings: int = 0,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.front = front
        self.augment, self.doublings = augment, doublings
        self.gains: list[float] = []
        """By how much each doubling lowered the own error, as a share."""
        self._copies: list[Pair] = []
        self.knowledge = knowledge
        self.naive = naive
        self.queries = queries
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.seed = seed

    @property
    def channels_last(self) -> bool:
        return self.decoder.channels_last

    def chosen(self) -> dict[str, Any]:
        found = {"learning_rate": self.learning_rate, "augment": self.augment}
        doubled = {"doubling": self.gains[-1], "epochs": self.max_epochs} if self.gains else {}
        return {**found, **doubled}

    def prepare(self, learn: Learn) -> Fitted:
        """Look at the wire, augment, find a step size where none is named, then train."""
        assert self.knowledge is not None
        rows, out = held_out(len(self.knowledge.surrogate), self.seed)
        if self.front:
            own = self.knowledge.activations[rows], to_unit(self.knowledge.surrogate[rows])
            hear = (lambda activation: activation) if self.naive else self.knowledge.defend
            self.front.look(own[0], hear, 1 if self.naive else self.queries, own[1])
        self._augment(rows, out)
        self.learning_rate = self.learning_rate or self._best_rate(learn)
        untrained = copy.deepcopy(self.decoder.state_dict())
        fitted = learn(self, monitor="val/mse", mode="min", max_epochs=self.max_epochs)
        while pays(self.gains, self.doublings):
            fitted = self._doubled(learn, untrained, fitted)
        return fitted

    def _doubled(self, learn: Learn, untrained: dict[str, Tensor], once: Fitted) -> Fitted:
        """Train anew for twice the epochs, with the schedule stretched, and keep what is better."""
        trial = self._like(self.learning_rate, 2 * self.max_epochs)
        trial.decoder.load_state_dict(untrained)
        trial.train()  # what it is a copy of is trained, and no longer normalises by batches
        epochs = trial.max_epochs
        try:
            twice = learn(
                trial,
                monitor="val/mse",
                mode="min",
                max_epochs=epochs,
                trial=f"  trying {epochs} epochs",
            )
        except Diverged:
            # What was found before is as good as it was; whether more epochs would better it is known of those before.
            self.gains = self.gains or [DIVERGED]
            self.doublings = len(self.gains)
            return once
        self.gains.append(gained(once.value, twice.value))
        seconds = once.seconds + twice.seconds
        if twice.value >= once.value:
            return once._replace(seconds=seconds)
        self.decoder.load_state_dict(trial.decoder.state_dict())
        self.max_epochs = epochs
        return twice._replace(seconds=seconds)

    def _like(self, rate: Number | None, epochs: int) -> "DecoderAttack":
        """The same to train, with a decoder of its own, at another step size or for longer."""
        made = DecoderAttack(
            copy.deepcopy(self.decoder),
            self.knowledge,
            self.naive,
            self.queries,
            rate,
            self.batch_size,
            epochs,
            self.seed,
            self.front,
        )
        made._copies = self._copies if epochs >= self.max_epochs else []
        return made

    @torch.no_grad()
    def _augment(self, rows: Tensor, out: Tensor) -> None:
        """Choose how to augment, if that is left open, and ask the client for the augmented images."""
        assert self.knowledge is not None
        own, client = self.knowledge.surrogate, self.knowledge.client
        known = self.knowledge.activations
        most = min(COPIES, HELD // known[rows].numel())
        if not pictures(own) or not most:
            self.augment = "none"
        if self.augment == "none":
            return
        generator = torch.Generator().manual_seed(derived_seed(self.seed, 2))

        def ask(images: Inputs) -> Activation:
            return torch.cat([client(to_unit(block)) for block in images.split(BLOCK)])

        def error(more: Sequence[Pair]) -> float:
            """Of a linear map that learns from these as well, on images held out."""
            parts = [(known[rows], own[rows]), *more, (known[out], own[out])]
            seen = torch.cat([self._seen(self._sent(activation)) for activation, _ in parts])
            wanted = torch.cat([to_unit(images) for _, images in parts]).flatten(1)
            return linear_error(seen.flatten(1), wanted.to(seen.device), len(out))

        if self.augment == "auto":
            self.augment = best_way(own[rows], ask, error, generator)
        if self.augment != "none":
            copies = (copied(own[rows], ask, self.augment, generator) for _ in range(most))
            self._copies = [(seen, images.to(seen.device)) for seen, images in copies]

    def _best_rate(self, learn: Learn) -> float:
        """The step size that serves best in a twentieth of the training.

        Raises:
            Diverged: If training leaves the finite numbers with each of them.
        """
        results = {}
        epochs = max(1, self.max_epochs // 20)
        for rate in self.decoder.rates:
            with contextlib.suppress(Diverged):
                fitted = learn(
                    self._like(rate, epochs),
                    monitor="val/mse",
                    mode="min",
                    max_epochs=epochs,
                    trial=f"  trying learning rate {rate:g}",
                )
                results[rate] = fitted.value
        if not results:
            raise Diverged(
                f"training the attacker diverged with each of the step sizes {self.decoder.rates}; name a lower one"
                " with --learning_rate"
            )
        return min(results, key=lambda rate: results[rate])

    def forward(self, heard: Iterable[Smashed]) -> Images:
        """Pictures from all transmissions of each image."""
        return self.decoder(self._seen(heard))

    def _seen(self, heard: Iterable[Smashed]) -> Smashed:
        return self.front(heard) if self.front else average(heard)

    @torch.no_grad()
    def infer(self, heard: Float[Tensor, "queries n *cut"]) -> Images:
        """Pictures in [0, 1]; clipping an unbounded decoder there can only bring it closer to the truth.

        Raises:
            NotFinite: If the decoder gives infinity or NaN, of which clipping would make white or nothing.
        """
        pictures = self(heard)
        cause = "the smashed tensor may hold such values, else train the attacker again"
        check_finite(pictures, what="reconstruction", cause=cause)
        return pictures.clamp(0, 1)

    @torch.no_grad()
    def setup(self, stage: str) -> None:
        assert self.knowledge is not None, "an attack is trained on a Knowledge"
        device = self.trainer.strategy.root_device
        pixels = self.knowledge.surrogate.to(device)
        rows = [each.to(device) for each in held_out(len(pixels), self.seed)]
        activations = self.knowledge.activations.to(device)
        self._train, self._val = ((activations[each], pixels[each]) for each in rows)

    def train_dataloader(self) -> TensorBatches:
        seed = derived_seed(self.seed, 1, self.trainer.current_epoch)
        shown = chosen(self._train, self._copies, derived_seed(seed, 0))
        passes = -(-LEAST_STEPS * self.batch_size // len(shown[0]))
        return TensorBatches(*shown, batch_size=self.batch_size, shuffle_seed=seed, passes=passes)

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(*self._val, batch_size=256)

    def _sent(self, activation: Activation) -> Iterator[Smashed]:
        """What this attacker takes the wire to carry."""
        assert self.knowledge is not None
        if self.naive:
            return iter([activation])
        return transmissions(self.knowledge.defend, activation, self.queries)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        activation, images = batch
        loss = self.decoder.loss(self._seen(self._sent(activation)), images)
        self.log_means(len(images), {"train/loss": loss})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        activation, images = batch
        error = F.mse_loss(self(self._sent(activation)), images)
        self.log_means(len(images), {"val/mse": error})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning's own clipping refuses fused optimisers, and torch's multiplies even where the norm is small enough.
        total = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters() if p.grad is not None]
        )
        if total > LARGEST_GRADIENT:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), LARGEST_GRADIENT, total)

    def configure_optimizers(self) -> Any:
        assert self.learning_rate, "a step size is found before training"
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]
