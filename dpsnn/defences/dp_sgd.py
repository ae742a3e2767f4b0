"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) for any LightningModule with one optimiser, as a callback.

It protects the examples that a model is *trained* on: whoever sees the weights learns little about whether any one of
them took part. It does not protect inputs that are sent through the finished model; noise on the wire does that.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader
from torchmetrics import Metric

from dpsnn.defences.base import DefenceList
from dpsnn.defences.nopeek import NoPeek
from dpsnn.defences.per_example import PerExampleGradients
from dpsnn.errors import UsageError, one_of
from dpsnn.metrics.privacy import dp_sgd_epsilon, dp_sgd_noise_multiplier, dp_sgd_steps
from dpsnn.specs import ACCOUNTANTS
from dpsnn.tensors import Number

PROBE = 8
"""Examples on which the first step checks that the module can be trained privately at all."""

GRADIENTS = ("auto", "explicit")


def poisson(loader: "DataLoader[Any]", seed: int | None = None) -> "DataLoader[Any]":
    """The same data and expected batch size, sampled as amplification by subsampling assumes: every example by itself.

    Args:
        loader: A loader of a map-style dataset with a batch size.
        seed: Seed of the draws; whoever knows it knows who took part in which step.
    """
    from opacus.data_loader import DPDataLoader

    generator = None if seed is None else torch.Generator().manual_seed(seed)
    made: DataLoader[Any] = DPDataLoader.from_data_loader(loader, generator=generator)
    return made


class DPSGD(Callback):
    """Clip the gradient of every example, add Gaussian noise to their sum, and account for what that reveals.

    Each step replaces the gradient by (Σ clip(gᵢ, C) + N(0, (σC)²)) / (expected examples of a step), for examples
    drawn independently with the same rate (Poisson sampling); a step that draws none is noise alone. Neighbouring data
    sets differ by the presence of one example.

    The loss of the module must be the mean over the examples of a batch. On the first step a few examples are tried:
    should gradients of single examples not add up to the module's own, or should one depend on its neighbours, training
    is refused.

    Args:
        noise_multiplier: σ, standard deviation of the noise over the clip norm; None: as little as
            `target_epsilon` allows.
        target_epsilon: Budget; training stops before the step that would exceed it.
        max_grad_norm: C, the L2 norm to which the gradient of an example is clipped.
        delta: δ of the guarantee, below one over the number of examples.
        accountant: `rdp`, `prv` or `gdp` (approximate, not a bound).
        physical_batch: Largest number of examples in memory at once; larger lots are processed in parts.
        gradients: `auto`, the fastest, or `explicit`: all gradients formed, as opacus' hooks do.
        amplified: False accepts a loader that shuffles, and accounts for it without amplification by sampling: every
            epoch shows every example once. Neighbours then differ by an example that adds nothing.
        coupled: Train although examples of a batch mix (batch normalisation), as some published studies did; there is
            no guarantee then, and `epsilon` is infinite.

    Raises:
        UsageError: If an option is out of range; when training starts, if the set-up voids the guarantee.
    """

    def __init__(
        self,
        noise_multiplier: Number | None = None,
        target_epsilon: Number | None = None,
        max_grad_norm: Number = 1.0,
        delta: Number = 1e-5,
        accountant: str = "rdp",
        physical_batch: int | None = None,
        gradients: str = "auto",
        amplified: bool = True,
        coupled: bool = False,
    ) -> None:
        if noise_multiplier is None and target_epsilon is None:
            raise UsageError("DP-SGD needs a noise multiplier, a target epsilon, or both")
        for name, value in {
            "noise multiplier": noise_multiplier,
            "target epsilon": target_epsilon,
            "clip norm": max_grad_norm,
            "physical batch": physical_batch,
        }.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"the {name} is {value}; it must be a finite number above 0")
        if not 0 < delta < 1:
            raise UsageError(f"delta is {delta}; it must be between 0 and 1")
        one_of(accountant, ACCOUNTANTS, "accountant")
        one_of(gradients, GRADIENTS, "gradients")
        self.noise_multiplier = noise_multiplier
        self.target_epsilon = target_epsilon
        self.max_grad_norm = max_grad_norm
        self.delta = delta
        self.accountant = accountant
        self.physical_batch = physical_batch
        self.gradients = gradients
        self.amplified = amplified
        self.coupled = coupled
        self.history: list[tuple[float, float, int]] = []
        self._per_example: PerExampleGradients | None = None
        self._sums: dict[Tensor, Tensor] = {}
        self._lot = 0

    # ------------------------------------------------------------ the guarantee

    @property
    def steps(self) -> int:
        """Steps (without amplification: epochs) accounted for so far."""
        return sum(count for _, _, count in self.history)

    @property
    def epsilon(self) -> float:
        """ε at `delta` of everything trained so far, resumed parts included."""
        if self.coupled:
            return math.inf
        return dp_sgd_epsilon(self.history, self.delta, self.accountant) if self.history else 0.0

    def spent(self) -> dict[str, float]:
        """What stands beside a model that was trained so, all epochs counted: choosing the best of them is not free."""
        assert self.noise_multiplier is not None
        return {
            "dp_epsilon": self.epsilon,
            "dp_noise_multiplier": self.noise_multiplier,
            "dp_steps": self.steps,
        }

    def _account(self, noise_multiplier: float, rate: float) -> None:
        last = self.history[-1] if self.history else None
        if last and last[:2] == (noise_multiplier, rate):
            self.history[-1] = (noise_multiplier, rate, last[2] + 1)
        else:
            self.history.append((noise_multiplier, rate, 1))

    def state_dict(self) -> dict[str, Any]:
        return {"history": list(self.history), "noise_multiplier": self.noise_multiplier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(float(s), float(q), int(n)) for s, q, n in state_dict["history"]]
        # Noise that was given stands; noise that was found for a budget goes on as it began.
        if self.noise_multiplier is None:
            self.noise_multiplier = state_dict["noise_multiplier"]

    # ------------------------------------------------------------ set-up

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not self.coupled:
            refuse_coupling(pl_module)
        if not pl_module.automatic_optimization:
            raise UsageError(
                "DP-SGD needs automatic optimisation; let Lightning call backward and step"
            )
        if trainer.accumulate_grad_batches != 1:
            raise UsageError(
                "DP-SGD does not go with accumulate_grad_batches; set the lot by the loader's batch size and"
                " DPSGD(physical_batch=...) by the memory"
            )
        if trainer.precision not in ("32-true", "64-true"):
            raise UsageError(
                f"precision is {trainer.precision}; DP-SGD clips in full precision, lest rounding let a gradient"
                " exceed its norm: use --precision 32"
            )
        if trainer.world_size != 1:
            raise UsageError("DP-SGD runs on one device; set devices=1")
        self._check_optimisers(pl_module)

    def _check_optimisers(self, module: pl.LightningModule) -> None:
        """Count what the module makes, before Lightning looks at it."""
        original = module.configure_optimizers

        def configure_optimizers() -> Any:
            made: Any = original()
            several = isinstance(made, list | tuple)
            first = made[0] if several else made
            count = len(first) if isinstance(first, list) else len(made) if several else 1
            if made is None or count != 1:
                raise UsageError(
                    f"the module has {0 if made is None else count} optimisers; DP-SGD accounts for the steps of one:"
                    " give it all parameters"
                )
            return made

        module.configure_optimizers = configure_optimizers  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._population, self._rate, steps = self._sampling(trainer)
        if self.delta >= 1 / self._population:
            raise UsageError(
                f"delta is {self.delta}, but with {self._population} examples only below"
                f" {1 / self._population:.2g} does it protect any one of them; lower --dp_delta"
            )
        if self.noise_multiplier is None:
            assert self.target_epsilon is not None
            try:
                self.noise_multiplier = dp_sgd_noise_multiplier(
                    self.target_epsilon, self._rate, steps, self.delta, self.accountant
                )
            except ValueError as error:
                raise UsageError(f"{error}; train for fewer epochs or allow more") from error
        self._allowed = math.inf
        if self.target_epsilon is None and not self.coupled:
            # What cannot be accounted for in the end is refused here rather than after an epoch.
            dp_sgd_epsilon(
                [(self.noise_multiplier, self._rate, steps)], self.delta, self.accountant
            )
        if self.target_epsilon is not None:
            done = [
                part for part in self.history if part[:2] != (self.noise_multiplier, self._rate)
            ]
            if done:
                raise UsageError(
                    "a training with a budget cannot be resumed with other noise or lots"
                )
            self._allowed = dp_sgd_steps(
                self.target_epsilon, self.noise_multiplier, self._rate, self.delta, self.accountant
            )
            if self._allowed < 1:
                raise UsageError(
                    f"target epsilon {self.target_epsilon} does not allow a single step with noise multiplier"
                    f" {self.noise_multiplier}; raise one of them"
                )
            trainer.should_stop |= self.steps >= self._allowed
        self._per_example = PerExampleGradients(pl_module, explicit=self.gradients == "explicit")
        self._per_example.attach()
        self._wrap(pl_module)

    def _sampling(self, trainer: pl.Trainer) -> tuple[int, float, int]:
        """Number of examples, rate of a draw, and draws over the whole training."""
        loader: Any = trainer.train_dataloader
        rate = getattr(loader, "sample_rate", None)
        if self.amplified and rate is None:
            raise UsageError(
                "the training loader does not sample every example by itself, so that an amplified epsilon would be"
                " wrong; wrap it in dpsnn.defences.dp_sgd.poisson, or set amplified=False"
            )
        population = getattr(loader, "population", None)
        if population is None:
            population = len(loader.dataset)
        steps = int(trainer.estimated_stepping_batches)
        self._expected = population / len(loader) if rate is None else rate * population
        if not self.amplified:
            assert trainer.max_epochs is not None
            return population, 1.0, trainer.max_epochs
        assert rate is not None
        return population, float(rate), steps

    # ------------------------------------------------------------ a step

    def _wrap(self, module: pl.LightningModule) -> None:
        """Let `training_step` see no lot that is empty or too large for memory, and try the first one."""
        original = module.training_step
        tried = False

        def training_step(batch: Any, *rest: Any, **named: Any) -> Any:
            nonlocal tried
            self._sums, self._lot = {}, _length(batch)
            if self._lot == 0:
                return sum(p.sum() for p in self._watch.parameters) * 0.0
            if not (tried or self.coupled):
                tried = True
                self._try(module, original, batch, rest, named)
            parts = list(_parts(batch, self._lot, self.physical_batch))
            for part in parts[:-1]:
                _loss(original(part, *rest, **named)).backward()
                self._collect(module)
            return original(parts[-1], *rest, **named)

        module.training_step = training_step  # type: ignore[method-assign]

    @property
    def _watch(self) -> PerExampleGradients:
        assert self._per_example is not None, "training has not started"
        return self._per_example

    def _collect(self, module: pl.LightningModule) -> None:
        """Add the clipped gradients of the examples that just went through the backward pass."""
        watch = self._watch
        if missed := watch.unwatched():
            raise UsageError(
                f"{missed[0]} is used outside the layer that owns it, so gradients of single examples are not known;"
                " use it through its layer or freeze it"
            )
        norms = watch.norms()
        # Below 1 where the norm exceeds the clip norm; the tiny term keeps an all-zero gradient finite.
        weights = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1)
        for parameter, total in watch.weighted_sum(weights).items():
            if parameter in self._sums:
                self._sums[parameter] += total
            else:
                self._sums[parameter] = total
        watch.clear()
        for parameter in watch.parameters:
            parameter.grad = None

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self._lot:
            self._collect(pl_module)
        for parameter in self._watch.parameters:
            noisy = self._noise(parameter)
            if parameter in self._sums:
                noisy += self._sums[parameter]
            parameter.grad = noisy.div_(self._expected)
        self._sums = {}
        if self.amplified:
            assert self.noise_multiplier is not None
            self._account(self.noise_multiplier, self._rate)
            trainer.should_stop |= self.steps >= self._allowed

    def _noise(self, parameter: Tensor) -> Tensor:
        assert self.noise_multiplier is not None
        return torch.empty_like(parameter).normal_(0, self.noise_multiplier * self.max_grad_norm)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.amplified:
            assert self.noise_multiplier is not None
            self._account(self.noise_multiplier, 1.0)
            trainer.should_stop |= self.steps >= self._allowed
        pl_module.log("dp/epsilon", self.epsilon)

    # ------------------------------------------------------------ the trial

    def _try(
        self,
        module: pl.LightningModule,
        step: Callable[..., Any],
        batch: Any,
        rest: Any,
        named: Any,
    ) -> None:
        """Check on a few examples what the guarantee rests on.

        Raises:
            UsageError: If gradients of single examples do not add up to the module's own, or depend on neighbours.
        """
        few = tree_map(lambda t: _repeated(t, self._lot), batch)
        other = tree_map(lambda t: _second_half_moved(t, PROBE), few)
        twice = tree_map(lambda t: _repeated(t, PROBE, 2 * PROBE), few)
        watch = self._watch
        with _untouched(module):
            watch.detach()
            own = self._gradient(step, few, rest, named)
            watch.attach()
            self._gradient(step, few, rest, named)
            norms = watch.norms()
            if len(norms) != PROBE:
                raise UsageError(
                    f"layers see {len(norms)} rows for {PROBE} examples; the first axis must be the examples throughout"
                )
            together = watch.weighted_sum(torch.full_like(norms, 1 / len(norms)))
            beside_others, of_twice = (self._norms(step, b, rest, named) for b in (other, twice))
        # Noise and dropout make the two differ a little, a sum instead of a mean doubles it.
        if not 0.67 < of_twice.mean() / norms.mean().clamp(min=1e-30) < 1.5:
            raise UsageError(
                "the loss grows with the number of examples in a batch; DP-SGD needs their mean, not their sum"
            )
        for parameter, gradient in own.items():
            total = together.get(parameter, torch.zeros_like(gradient))
            near = 1e-3 * gradient.abs().max().item() + 1e-9
            if not torch.allclose(gradient, total, rtol=1e-2, atol=near):
                raise UsageError(
                    f"gradients of single examples do not add up to the batch's for {watch.names[parameter]}; use every"
                    " parameter through its layer only, or freeze it"
                )
        half = PROBE // 2
        if not torch.allclose(norms[:half], beside_others[:half], rtol=1e-2, atol=1e-6):
            raise UsageError(
                "the gradient of an example depends on the others of its batch, so that clipping it bounds nothing;"
                " take out what couples them (batch statistics, penalties over a batch)"
            )

    def _norms(self, step: Callable[..., Any], batch: Any, rest: Any, named: Any) -> Tensor:
        self._watch.clear()
        self._gradient(step, batch, rest, named)
        norms = self._watch.norms()
        self._watch.clear()
        return norms

    def _gradient(
        self, step: Callable[..., Any], batch: Any, rest: Any, named: Any
    ) -> dict[Tensor, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _loss(step(batch, *rest, **named)).backward()
        found: dict[Tensor, Tensor] = {
            p: p.grad for p in self._watch.parameters if p.grad is not None
        }
        for parameter in found:
            parameter.grad = None
        return found

    # ------------------------------------------------------------ the end

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._per_example is not None:
            self._per_example.detach()
            self._per_example = None
        for name in ("training_step", "configure_optimizers"):
            pl_module.__dict__.pop(name, None)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")


def refuse_coupling(module: nn.Module) -> None:
    """Refuse what is known to make the gradient of one example depend on others.

    Raises:
        UsageError: With the cure.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            raise UsageError(
                f"{name} is a {type(layer).__name__}: it mixes the examples of a batch, which voids the guarantee of"
                " DP-SGD; use --norm group"
            )
        if isinstance(layer, DefenceList) and any(
            isinstance(d, NoPeek) and d.weight for d in layer
        ):
            raise UsageError(
                "NoPeek compares the examples of a batch with one another, which voids the guarantee of DP-SGD; leave"
                " out --nopeek_weight"
            )


def _length(batch: Any) -> int:
    """Examples in a batch: rows of its first tensor."""
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.dim():
            return len(leaf)
    raise UsageError("a batch holds no tensor of examples; DP-SGD cannot tell its size")


def _parts(batch: Any, total: int, limit: int | None) -> Iterator[Any]:
    if limit is None or total <= limit:
        yield batch
        return
    for start in range(0, total, limit):
        yield tree_map(lambda t: _rows(t, total)[start : start + limit], batch)


def _rows(leaf: Any, total: int) -> Tensor:
    if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == total:
        return leaf
    raise UsageError(
        "batches with anything but tensors of one length cannot be split; leave out physical_batch"
    )


def _repeated(leaf: Any, total: int, wanted: int = PROBE) -> Any:
    """The first examples, again and again if there are too few."""
    if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == total:
        return leaf[torch.arange(wanted) % total]
    return leaf


def _second_half_moved(leaf: Any, total: int) -> Any:
    """Other neighbours for the first half: the second half's pixels scrambled, so that even equal examples differ."""
    if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == total and leaf.is_floating_point():
        half = total // 2
        return torch.cat([leaf[:half], leaf[half:].flip(0) * 0.5 + 0.1])
    return leaf


def _loss(output: Any) -> Tensor:
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise UsageError("training_step returned no loss; under DP-SGD every lot must give one")
    return loss


@contextlib.contextmanager
def _untouched(module: pl.LightningModule) -> Iterator[None]:
    """Leave no trace of what the module does inside the block: nothing logged, buffers as they were."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    metrics = [(m, copy.deepcopy(m.__dict__)) for m in module.modules() if isinstance(m, Metric)]
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del module.log, module.log_dict
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
        for metric, state in metrics:
            metric.__dict__.update(state)
