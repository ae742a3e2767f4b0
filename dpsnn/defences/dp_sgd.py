"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) for any LightningModule with one optimiser, as a callback.

It protects the examples that a model is *trained* on: whoever sees the weights learns little about whether any one of
them took part. It does not protect inputs that are sent through the finished model; noise on the wire does that.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpsnn.defences import lots
from dpsnn.defences.base import DefenceList
from dpsnn.defences.nopeek import NoPeek
from dpsnn.defences.per_example import OneByOne, PerExampleGradients
from dpsnn.defences.preparation import check_preparation
from dpsnn.defences.sampling import poisson, sampling, steps_of
from dpsnn.defences.secret import Secret
from dpsnn.defences.trial import SEEDS, MeanLosses, Step, Trial, loss_of
from dpsnn.errors import Diverged, UsageError, one_of
from dpsnn.metrics.privacy import dp_sgd_epsilon, dp_sgd_noise_multiplier, dp_sgd_steps
from dpsnn.specs import ACCOUNTANTS
from dpsnn.tensors import Number

__all__ = ["DPSGD", "poisson"]

GRADIENTS = ("auto", "explicit", "single")

TRIED = (0, 1, 8, 64)
"""Steps of a training on which it is tried as well as on the first of each epoch: weights that begin at zero may hide
what later steps show."""

ENOUGH = 12
"""Examples of a lot on which a trial is not repeated for want of examples, and how often it is at most."""

LOTS, NOISE = 1, 2
"""Streams of the secret."""


class DPSGD(Callback):
    """Clip the gradient of every example, add Gaussian noise to their sum, and account for what that reveals.

    Each step replaces the gradient by (Σ clip(gᵢ, C) + N(0, (σC)²)) / (expected examples of a step), for examples
    drawn independently with the same rate (Poisson sampling); a step that draws none is noise alone. Neighbouring data
    sets differ by the presence of one example.

    The loss of the module must be the mean over the examples of a batch. That is tried on a few examples, on the first
    step of every epoch and whenever other weights are trained (see `trial.py`): should gradients of single examples not
    add up to the module's own, should one depend on its neighbours, or training write a buffer, it is refused.

    Noise comes from a secret that the operating system gives at the start, and so do lots where the loader asks
    `lot_seed` for seeds; see `secret.py` for how strong it is. Weights, dropout and augmentation may come from a public
    seed: what is guaranteed holds whatever they are.

    Args:
        noise_multiplier: σ, standard deviation of the noise over the clip norm; None: as little as
            `target_epsilon` allows.
        target_epsilon: Budget; training stops before the step that would exceed it.
        max_grad_norm: C, the L2 norm to which the gradient of an example is clipped.
        delta: δ of the guarantee, below one over the number of examples.
        accountant: `rdp`, `prv` or `gdp` (approximate, not a bound).
        physical_batch: Largest number of examples in memory at once; larger lots are processed in parts.
        gradients: `auto`, the fastest; `explicit`: all gradients formed, as opacus' hooks do; `single`: one backward
            pass for every example, for modules that the others refuse.
        amplified: False accepts a loader that shuffles, and accounts for it without amplification by sampling: every
            epoch shows every example once. Neighbours then differ by an example that adds nothing.
        coupled: Train although examples of a batch mix (batch normalisation), as some published studies did; there is
            no guarantee then, and `epsilon` is infinite.
        repeatable: Draw the noise from torch's generator, hence from a public seed, for tests and studies on public
            data. Who knows the seed can take the noise off: `epsilon` is what it would be if the seed were secret.
        resumable: Keep the secret in this callback's state, so that a training that is resumed draws what it would
            have drawn. The file must stay private and be deleted in the end. Without, it goes on with another secret,
            which is as safe.

    Raises:
        UsageError: If an option is out of range; when training starts, or as soon as it happens, if the set-up voids
            the guarantee.
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
        repeatable: bool = False,
        resumable: bool = False,
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
        self.repeatable = repeatable
        self.resumable = resumable
        self.history: list[tuple[float, float, int]] = []
        self._secret = Secret()
        self._drawn = 0
        """Steps for which noise was drawn: no two share a stream of the secret."""
        self._per_example: PerExampleGradients | None = None
        self._sums: dict[Tensor, Tensor] = {}
        self._ours: dict[Tensor, Tensor] = {}
        self._lot = self._seen = self._here = 0
        self._trials = 0
        self._kept: Any = None
        """Examples of earlier lots, where lots are small."""
        self._signature: tuple[Any, ...] = ()
        self._fresh = self._new_epoch = False

    # ------------------------------------------------------------ the guarantee

    @property
    def steps(self) -> int:
        """Steps (without amplification: epochs) accounted for so far."""
        return sum(count for _, _, count in self.history)

    @property
    def epsilon(self) -> float:
        """ε at `delta` of everything trained so far, resumed parts included; with public noise, were it secret."""
        if self.coupled:
            return math.inf
        return dp_sgd_epsilon(self.history, self.delta, self.accountant) if self.history else 0.0

    def lot_seed(self, epoch: int) -> int | None:
        """Seed of the lots of one epoch, for a loader that draws them; None where the public seed is to be taken."""
        return None if self.repeatable else self._secret.seed(LOTS, epoch)

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
        state: dict[str, Any] = {
            "history": list(self.history),
            "noise_multiplier": self.noise_multiplier,
        }
        if self.resumable and not self.repeatable:
            state |= {"secret": self._secret.key.hex(), "drawn": self._drawn}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(float(s), float(q), int(n)) for s, q, n in state_dict["history"]]
        # Noise that was given stands; noise that was found for a budget goes on as it began.
        if self.noise_multiplier is None:
            self.noise_multiplier = state_dict["noise_multiplier"]
        if "secret" in state_dict:
            self._secret = Secret(bytes.fromhex(state_dict["secret"]))
            self._drawn = int(state_dict["drawn"])

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
        self._check_accumulation(trainer)
        if trainer.precision not in ("32-true", "64-true"):
            raise UsageError(
                f"precision is {trainer.precision}; DP-SGD clips in full precision, lest rounding let a gradient"
                " exceed its norm: use --precision 32"
            )
        if trainer.world_size != 1:
            raise UsageError("DP-SGD runs on one device; set devices=1")
        self._check_optimisers(pl_module)

    def _check_accumulation(self, trainer: pl.Trainer) -> None:
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        scheduled = any(isinstance(c, GradientAccumulationScheduler) for c in callbacks)
        if trainer.accumulate_grad_batches != 1 or scheduled:
            raise UsageError(
                f"DP-SGD does not go with {'GradientAccumulationScheduler' if scheduled else 'accumulate_grad_batches'}"
                "; set the lot by the loader's batch size and DPSGD(physical_batch=...) by the memory"
            )

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
        self._sampling = sampling(trainer, self.amplified)
        population, rate = self._sampling.population, self._sampling.rate
        lots.check_first_axis(trainer.train_dataloader)
        if not self.coupled:
            check_preparation(trainer, pl_module)
        for optimiser in trainer.optimizers:
            if isinstance(optimiser, torch.optim.LBFGS):
                raise UsageError(
                    "LBFGS looks at a lot several times in a step, each of which DP-SGD would have to account for; use"
                    " another optimiser"
                )
        if self.delta >= 1 / population:
            raise UsageError(
                f"delta is {self.delta}, but with {population} examples only below"
                f" {1 / population:.2g} does it protect any one of them; lower --dp_delta"
            )
        steps = steps_of(trainer, self.amplified)
        if self.noise_multiplier is None:
            assert self.target_epsilon is not None
            if math.isinf(steps):
                raise UsageError(
                    "a budget alone sets the noise for a whole training, but nothing ends this one; give max_epochs,"
                    " max_steps or a noise multiplier"
                )
            try:
                self.noise_multiplier = dp_sgd_noise_multiplier(
                    self.target_epsilon, rate, int(steps), self.delta, self.accountant
                )
            except ValueError as error:
                raise UsageError(f"{error}; train for fewer epochs or allow more") from error
        self._allowed = math.inf
        if self.target_epsilon is None and not self.coupled and math.isfinite(steps):
            # What cannot be accounted for in the end is refused here rather than after an epoch.
            whole = [(self.noise_multiplier, rate, int(steps))]
            dp_sgd_epsilon(whole, self.delta, self.accountant)
        if self.target_epsilon is not None:
            if any(part[:2] != (self.noise_multiplier, rate) for part in self.history):
                raise UsageError(
                    "a training with a budget cannot be resumed with other noise or lots"
                )
            self._allowed = dp_sgd_steps(
                self.target_epsilon, self.noise_multiplier, rate, self.delta, self.accountant
            )
            if self._allowed < 1:
                raise UsageError(
                    f"target epsilon {self.target_epsilon} does not allow a single step with noise multiplier"
                    f" {self.noise_multiplier}; raise one of them"
                )
            trainer.should_stop |= self.steps >= self._allowed
        self._seen = self._trials = self._here = 0
        self._new_epoch = True
        self._renew(pl_module)
        self._wrap(pl_module)

    # ------------------------------------------------------------ what is trained

    def _renew(self, module: pl.LightningModule) -> None:
        """Watch what is trained now."""
        if self._per_example is not None:
            self._per_example.detach()
        if not self.coupled:
            refuse_coupling(module)
        if self.gradients == "single":
            self._per_example = OneByOne(module)
        else:
            self._per_example = PerExampleGradients(module, explicit=self.gradients == "explicit")
        for parameter in self._per_example.parameters:
            if parameter.dtype not in (torch.float32, torch.float64):
                raise UsageError(
                    f"{self._per_example.names[parameter]} is of type {str(parameter.dtype).removeprefix('torch.')};"
                    " DP-SGD clips and adds noise in full precision, to real numbers: use float32 or float64"
                )
        self._per_example.attach()
        self._signature = _signature(module)

    @property
    def _watch(self) -> PerExampleGradients:
        assert self._per_example is not None, "training has not started"
        return self._per_example

    def _check_parameters(self, optimizer: torch.optim.Optimizer) -> None:
        """Every weight that the optimiser moves must be clipped and noised here."""
        watched = set(self._watch.parameters)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in watched or not (
                    parameter.requires_grad or parameter.grad is not None
                ):
                    continue
                raise UsageError(
                    f"the optimiser holds a weight of shape {tuple(parameter.shape)}"
                    f" ({self._watch.names.get(parameter, 'which the module does not list')}) whose gradient would be"
                    " neither clipped nor noised; keep layers in attributes or nn.ModuleList, and freeze what is not"
                    " trained before the step"
                )

    # ------------------------------------------------------------ a step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._new_epoch = True
        self._here = self._trials = 0
        if sampling(trainer, self.amplified) != self._sampling:
            raise UsageError(
                "the training loader changed its rate or its examples within a training, which the accounting does not"
                " cover; keep one"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._fresh = True

    def _wrap(self, module: pl.LightningModule) -> None:
        """Let `training_step` see no lot that is empty or too large for memory, and try it when something is new."""
        original = module.training_step
        limit = 1 if self.gradients == "single" else self.physical_batch

        def one_part(part: Any, *rest: Any, **named: Any) -> Any:
            if self.coupled:
                return original(part, *rest, **named)
            with MeanLosses(lots.length(part)):
                return original(part, *rest, **named)

        def training_step(batch: Any, *rest: Any, **named: Any) -> Any:
            self._check_accumulation(module.trainer)
            self._sums, self._lot = {}, lots.length(batch)
            self._here += self._lot
            if not self.amplified and self._here > self._sampling.population:
                raise UsageError(
                    f"an epoch shows more than the {self._sampling.population} examples that there are, some of them"
                    " twice, which the accounting without amplification does not cover; show each once"
                )
            # Lightning clears gradients after this, before its own backward pass.
            for parameter in self._watch.parameters:
                parameter.grad = None
            if self._lot == 0:
                return sum(p.sum() for p in self._watch.parameters) * 0.0
            if _signature(module) != self._signature:
                self._renew(module)
                self._trials = 0
            parts = list(lots.parts(batch, self._lot, limit))
            if not self.coupled and self._due():
                self._try(module, lambda lot: one_part(lot, *rest, **named), batch, parts[0])
            self._seen += 1
            for part in parts[:-1]:
                loss_of(one_part(part, *rest, **named)).backward()
                self._collect()
            return one_part(parts[-1], *rest, **named)

        module.training_step = training_step  # type: ignore[method-assign]

    def _due(self) -> bool:
        """Whether to try again; a lot of few examples leaves a doubt, which later ones settle."""
        return self._trials < ENOUGH or self._seen in TRIED

    def _try(self, module: pl.LightningModule, step: Step, lot: Any, part: Any) -> None:
        """Try the module on a lot, and on earlier ones where it holds too few examples."""
        some = lot
        if self._lot < ENOUGH:
            some = self._kept = lots.enlarged(lot, self._kept, 2 * ENOUGH)
        size = lots.length(some)
        self._trials += ENOUGH if size >= ENOUGH else 1
        # Every trial draws other numbers: what mixes a batch now and then is found sooner or later.
        seeds = range(SEEDS) if not self._seen else (SEEDS + self._seen,)
        trial = Trial(module, step, self._watch, seeds)
        trial(some, None if self._seen or self.gradients == "single" else part)

    def _collect(self) -> None:
        """Add the clipped gradients of the examples that just went through the backward pass."""
        watch = self._watch
        if missed := watch.unwatched():
            raise UsageError(
                f"{missed[0]} is used outside the layer that owns it, so gradients of single examples are not known;"
                " use it through its layer or freeze it"
            )
        norms = watch.norms()
        if not bool(norms.isfinite().all()):
            raise _not_finite(norms, self._seen)
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
        if not self._fresh:
            raise UsageError(
                f"{type(optimizer).__name__} looks at a lot several times in a step, each of which DP-SGD would have to"
                " account for; use another optimiser"
            )
        self._fresh = False
        if self._lot:
            self._collect()
        self._check_parameters(optimizer)
        # Before anything is changed: what is interrupted in between has been paid for.
        self._spend(trainer)
        self._ours = {}
        for position, parameter in enumerate(self._watch.parameters):
            self._position = position
            noisy = self._noise(parameter)
            if parameter in self._sums:
                noisy += self._sums[parameter]
            parameter.grad = self._ours[parameter] = noisy.div_(self._sampling.expected)
        self._drawn += 1
        self._sums = {}

    def _spend(self, trainer: pl.Trainer) -> None:
        """Account for the step that is about to be taken; without amplification for the epoch that it begins."""
        assert self.noise_multiplier is not None
        if self.amplified or self._new_epoch:
            if self.steps >= self._allowed:
                raise UsageError(
                    f"the next step would exceed the budget, epsilon {self.target_epsilon}: min_epochs or min_steps"
                    " make the trainer go on; leave them out, allow more, or add noise"
                )
            self._account(self.noise_multiplier, self._sampling.rate)
        self._new_epoch = False
        if self.amplified:
            trainer.should_stop |= self.steps >= self._allowed

    def _noise(self, parameter: Tensor) -> Tensor:
        assert self.noise_multiplier is not None
        generator = None
        if not self.repeatable:
            stream = (NOISE, self._drawn, self._position)
            generator = self._secret.generator(parameter.device, *stream)
        spread = self.noise_multiplier * self.max_grad_norm
        return torch.empty_like(parameter).normal_(0, spread, generator=generator)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._fresh:
            raise UsageError(
                "a batch went by without a step that DP-SGD could make private, so that what happened to its gradients"
                " is not known; let optimizer_step of the module call optimizer.step(closure) for every batch"
            )
        for parameter, gradient in self._ours.items():
            if parameter.grad is not None and parameter.grad is not gradient:
                raise UsageError(
                    f"the gradient of {self._watch.names[parameter]} was replaced after DP-SGD had made it, perhaps by"
                    " one from the examples; let DPSGD be the last callback and leave gradients alone"
                )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= self.steps >= self._allowed
        name = "dp/epsilon_if_seed_were_secret" if self.repeatable else "dp/epsilon"
        pl_module.log(name, self.epsilon)

    # ------------------------------------------------------------ the end

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._per_example is not None:
            self._per_example.detach()
            self._per_example = None
        self._kept = None
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
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            raise UsageError(
                f"{name} is a {type(layer).__name__}: it mixes the examples of a batch, which voids the guarantee of"
                " DP-SGD; use --norm group, or freeze it: eval()"
            )
        if isinstance(layer, DefenceList) and any(
            isinstance(d, NoPeek) and d.weight for d in layer
        ):
            raise UsageError(
                "NoPeek compares the examples of a batch with one another, which voids the guarantee of DP-SGD; leave"
                " out --nopeek_weight"
            )


def _signature(module: nn.Module) -> tuple[Any, ...]:
    """What is trained, and in which mode: when it changes, all that was tried must be tried again."""
    trained = tuple(id(p) for p in module.parameters() if p.requires_grad)
    return (*trained, *(m.training for m in module.modules()))


def _not_finite(norms: Tensor, step: int) -> UsageError:
    wrong = (~norms.isfinite()).nonzero().flatten().tolist()
    if len(wrong) == len(norms) > 1:
        return Diverged(
            f"no gradient of step {step} is a finite number: training diverged; lower --learning_rate"
        )
    return UsageError(
        f"the gradient of example {wrong[0]} in the lot of step {step} is not a finite number; look for NaN or infinite"
        " values in the training data and take the example out"
    )
