"""Suppress-privacy (MindSpore Armour): silence unimportant weights for good while training, on a cubic schedule.

The network shall remember less of its inputs. Nothing is guaranteed: whether it does is for attacks to say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dpsnn.batches import derived_seed
from dpsnn.errors import UsageError
from dpsnn.tensors import Number

MASK_TIMES = 1000
"""Published number of mask rounds; a training with fewer steps has one a step."""

SMALL = 10_000
"""Layers of at most so many weights keep some in any case, and are clipped and perturbed."""

LOWER, UPPER, LOUD = 0.005, 1.2, 0.5
"""Magnitudes: what remains is raised to the first and lowered to the second; above the third it is perturbed."""


def sparsity_at(step: Number, total: Number, end: Number, start: Number = 0.0) -> float:
    """Target share of silent weights after `step` of `total` steps: cubic and monotone, from `start` to `end`.

    s(t) = s_end + (s_start - s_end)(1 - t/T)³, first used for pruning by Zhu & Gupta 2017 (arXiv 1710.01878).
    """
    return float(end + (start - end) * (1 - min(max(step / total, 0.0), 1.0)) ** 3)


def silent_count(weights: int, sparsity: Number, min_num: int = 0) -> int:
    """How many of a layer's weights are to be silent: ⌊n·min(1 - min_num/n, s)⌋, never fewer than none."""
    # 0.95·n is a whole number for many n, which its product in floating point may miss from below.
    return max(0, min(weights - min_num, math.floor(weights * sparsity + 1e-9)))


def grow_mask(
    weight: Float[Tensor, " *shape"], kept: Bool[Tensor, " *shape"], silent: int
) -> Bool[Tensor, " *shape"]:
    """Silence the smallest weights until `silent` are; what is silent already stays so.

    Args:
        weight: Weights of a layer.
        kept: False where a weight is silent.
        silent: How many shall be silent; fewer than there are change nothing.

    Returns:
        The new mask; among equal magnitudes the earlier weight goes first.
    """
    magnitude = weight.detach().abs().masked_fill(~kept, -1).flatten()
    silent = max(silent, int((~kept).sum()))
    if silent == 0:
        return torch.ones_like(kept)
    # A selection takes a quarter of the time of a sort, which of millions of weights is longer than a step.
    threshold = magnitude.kthvalue(silent).values
    below, equal = magnitude < threshold, magnitude == threshold
    mask = ~(below | (equal & (equal.cumsum(0) <= silent - below.sum())))
    return mask.view(weight.shape)


def reshaped(
    weight: Float[Tensor, " *shape"],
    lower_clip: bool,
    noise: Number,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " *shape"]:
    """What a mask round does to the weights that remain in a small layer.

    Magnitudes up to 0.005 become 0.005 (`lower_clip`), those above 1.2 become 1.2, and those in (0.5, 1.2] get
    U(-noise, noise) on top; a weight has one of the three at most, as in the authors' code.
    """
    magnitude, sign = weight.abs(), torch.where(weight > 0, 1.0, -1.0).to(weight)
    drawn = torch.rand(weight.shape, generator=generator).to(weight)
    loud = (magnitude > LOUD) & (magnitude <= UPPER)
    result = torch.where(loud, weight + noise * (2 * drawn - 1), weight)
    result = torch.where(magnitude > UPPER, sign * UPPER, result)
    return torch.where(magnitude <= LOWER, sign * LOWER, result) if lower_clip else result


@dataclass(frozen=True)
class Layer:
    """How one layer is suppressed."""

    name: str
    """Of the module, as `named_modules` gives it or its last parts: `conv1` is `network.client.conv1`."""
    min_num: int = 0
    """Weights that stay in any case."""
    lower_clip: bool = False
    noise: bool = False
    """Both only act in layers of at most 10,000 weights."""


def usual(name: str, module: nn.Module) -> Layer:
    """How a layer is suppressed that nobody described; on LeNet-5 these are the published settings.

    Published: at least 10 of 150, 50 of 2,400 and 50 of 840 weights stay, layers of more than 10,000 have no floor;
    convolutions are clipped from below.
    """
    count = _weight(module).numel()
    least = min(50, count // 15) if count <= SMALL else 0
    return Layer(name, least, isinstance(module, _ConvNd), True)


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _find(module: nn.Module, layer: Layer) -> nn.Module:
    fitting = {
        name: part
        for name, part in module.named_modules()
        if f".{name}".endswith(f".{layer.name}")
        and isinstance(getattr(part, "weight", None), nn.Parameter)
    }
    if len(fitting) != 1:
        there = sorted(n for n, m in module.named_modules() if isinstance(m, _ConvNd | nn.Linear))
        raise UsageError(
            f"{len(fitting)} layers with weights are called {layer.name!r}; name one of {there}"
        )
    return next(iter(fitting.values()))


class Suppression(Callback):
    """Set the smallest weights of each layer to zero for good, more and more of them, while any module trains.

    In a mask round, after the optimiser's step, the ⌊n·s⌋ smallest weights of a layer are silenced; their gradients are
    masked ever after, and so are the weights themselves after every step, as momentum and Adam move a weight that has
    no gradient. Rounds are spread evenly from the first step of `start_epoch` on; the last one, with the full sparsity,
    follows the last step of `end_epoch`. Biases are never masked.

    Of LeNet-5's authors we depart in this: their last round is two steps before the end, and a silent weight could
    become another one in a later round; here silent is for good.

    Args:
        sparsity: Share of silent weights at the end, in (0, 1).
        start_epoch: First epoch with rounds, counted from 1; None: after 0.3 of the training (3 of 10).
        end_epoch: Last epoch with rounds; None: the last of the training.
        mask_times: Number of rounds; None: 1,000, or one a step where there are fewer steps.
        start_sparsity: Where the schedule begins, below `sparsity`.
        layers: Which layers; None: every convolution and linear layer, each in the usual way.
        weight_noise: Half width of the uniform noise on large weights, at every round; 0 is none. The authors' code had
            0.1 first and has 0.01 now. Where step sizes end near 0, training cannot make up for the last rounds.
        clip: Whether weights that remain are clipped.
        seed: Of the noise on weights: a resumed training draws what an uninterrupted one would.

    Raises:
        UsageError: If an option is out of range; when training starts, if the schedule does not fit the training, a
            layer is unknown, or there are several optimisers.
    """

    def __init__(
        self,
        sparsity: Number,
        start_epoch: int | None = None,
        end_epoch: int | None = None,
        mask_times: int | None = None,
        start_sparsity: Number = 0.0,
        layers: Sequence[Layer] | None = None,
        weight_noise: Number = 0.1,
        clip: bool = True,
        seed: int = 0,
    ) -> None:
        if not 0 <= start_sparsity < sparsity < 1:
            raise UsageError(
                f"the sparsity goes from {start_sparsity} to {sparsity}; it must rise, from 0 or more to below 1"
            )
        for name, value in {
            "first epoch of suppression": start_epoch,
            "last epoch of suppression": end_epoch,
            "number of mask rounds": mask_times,
        }.items():
            if value is not None and value < 1:
                raise UsageError(f"the {name} is {value}; it must be a whole number from 1")
        if start_epoch and end_epoch and start_epoch > end_epoch:
            raise UsageError(
                f"suppression would start in epoch {start_epoch}, after its end in epoch {end_epoch}; exchange them"
            )
        if not (math.isfinite(weight_noise) and weight_noise >= 0):
            raise UsageError(
                f"the noise on weights is {weight_noise}; it must be finite, 0 or more"
            )
        self.sparsity, self.start_sparsity = sparsity, start_sparsity
        self.start_epoch, self.end_epoch, self.mask_times = start_epoch, end_epoch, mask_times
        self.layers = layers
        self.weight_noise, self.clip, self.seed = weight_noise, clip, seed
        self.step = 0
        """Steps of the optimiser so far."""
        self.rounds = 0
        self.masks: dict[str, Tensor] = {}
        """Name of the layer → True where a weight is kept."""
        self._parts: dict[str, tuple[nn.Module, Layer]] = {}
        self._handle: Any = None

    # ------------------------------------------------------------ set-up

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found: dict[str, tuple[nn.Module, Layer]]
        if self.layers is None:
            found = {
                name: (part, usual(name, part))
                for name, part in pl_module.named_modules()
                if isinstance(part, _ConvNd | nn.Linear)
            }
        else:
            found = {layer.name: (_find(pl_module, layer), layer) for layer in self.layers}
        if not found:
            raise UsageError("the module has no convolution or linear layer to suppress")
        self._parts = found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise UsageError(
                f"the module has {len(trainer.optimizers)} optimisers; suppression counts the steps of one"
            )
        self._schedule(trainer)
        for name, (part, _) in self._parts.items():
            weight = _weight(part)
            mask = self.masks.get(name, torch.ones_like(weight, dtype=torch.bool))
            if mask.shape != weight.shape:
                raise UsageError(f"the stored mask of {name} does not fit; train from the start")
            self.masks[name] = mask.to(weight.device)
        self._handle = trainer.optimizers[0].register_step_post_hook(self._after_step)

    def _schedule(self, trainer: pl.Trainer) -> None:
        """The steps of the window and of its rounds, from the length of the training."""
        epochs, batches = trainer.max_epochs, float(trainer.num_training_batches)
        if epochs is None or epochs < 1 or not math.isfinite(batches):
            raise UsageError(
                "suppression needs a training of known length; set max_epochs and a loader with a length"
            )
        per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        end = epochs if self.end_epoch is None else self.end_epoch
        start = self.start_epoch
        if start is None:
            start = min(end, max(1, round(0.3 * epochs)))
        if end > epochs or start > end:
            raise UsageError(
                f"suppression from epoch {start} to {end} does not fit {epochs} epochs; it must start and end within"
                " them: lower --suppress_end_epoch and --suppress_start_epoch, or raise --max_epochs"
            )
        if end * per_epoch > trainer.estimated_stepping_batches:
            raise UsageError(
                f"training ends after {trainer.estimated_stepping_batches:.0f} steps, suppression only after"
                f" {end * per_epoch}; raise max_steps"
            )
        self._total = (end - start + 1) * per_epoch
        times = min(MASK_TIMES, self._total) if self.mask_times is None else self.mask_times
        if times > self._total:
            raise UsageError(
                f"{times} mask rounds do not fit the {self._total} steps of epochs {start} to {end}; lower"
                " --suppress_mask_times, or let suppression last longer"
            )
        self._first = (start - 1) * per_epoch
        self.last_epoch = end
        # After these steps of the window, counted from 0; the schedule says how far it is before each.
        self._due = {count * self._total // times for count in range(times)}

    # ------------------------------------------------------------ a step

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for name, (part, _) in self._parts.items():
            gradient = _weight(part).grad
            if gradient is not None:
                gradient.mul_(self.masks[name])

    @torch.no_grad()
    def _after_step(self, *step: Any) -> None:
        elapsed = self.step - self._first
        self.step += 1
        last = elapsed == self._total - 1
        if last or elapsed in self._due:
            # The last round reaches the end of the schedule.
            reached = self._total if last else elapsed
            self._round(sparsity_at(reached, self._total, self.sparsity, self.start_sparsity))
        for name, (part, _) in self._parts.items():
            # Not a product: -1 · 0 is a zero with a sign, and inf · 0 none at all.
            _weight(part).masked_fill_(~self.masks[name], 0)

    def _round(self, sparsity: float) -> None:
        self.rounds += 1
        generator = torch.Generator().manual_seed(derived_seed(self.seed, 5, self.rounds))
        for name, (part, layer) in self._parts.items():
            weight = _weight(part)
            count = weight.numel()
            self.masks[name] = grow_mask(
                weight, self.masks[name], silent_count(count, sparsity, layer.min_num)
            )
            if count <= SMALL and self.clip:
                noise = self.weight_noise if layer.noise else 0.0
                weight.copy_(reshaped(weight, layer.lower_clip, noise, generator))

    # ------------------------------------------------------------ what is seen from outside

    def achieved(self) -> dict[str, float]:
        """Share of silent weights by layer."""
        return {name: 1 - mask.double().mean().item() for name, mask in self.masks.items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict({f"sparsity/{name}": share for name, share in self.achieved().items()})

    def state_dict(self) -> dict[str, Any]:
        masks = {name: mask.cpu() for name, mask in self.masks.items()}
        return {"masks": masks, "step": self.step, "rounds": self.rounds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.masks = dict(state_dict["masks"])
        self.step, self.rounds = int(state_dict["step"]), int(state_dict["rounds"])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")
