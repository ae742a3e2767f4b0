"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) for any LightningModule with one optimiser, as a callback.

It protects the examples that a model is *trained* on: whoever sees the weights learns little about whether any one of
them took part. It does not protect inputs that are sent through the finished model; noise on the wire does that.
"""

import contextlib
import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from dpsnn.defences import lots
from dpsnn.defences.dp_account import Account
from dpsnn.defences.dp_setup import (
    check_accumulation,
    check_lots,
    check_parameters,
    check_trainer,
    count_optimisers,
    noise_for,
    not_finite,
    refuse_coupling,
    signature,
    steps_for,
)
from dpsnn.defences.mean_losses import MeanLosses, loss_of, without_value
from dpsnn.defences.per_example import OneByOne, PerExampleGradients
from dpsnn.defences.preparation import check_preparation
from dpsnn.defences.rehearsal import silent
from dpsnn.defences.sampling import poisson, sampling, steps_of
from dpsnn.defences.trial import SEEDS, Step, Trial
from dpsnn.errors import UsageError
from dpsnn.metrics.privacy import dp_sgd_epsilon

__all__ = ["DPSGD", "poisson"]

TRIED = (0, 1, 8, 64)
"""Steps of a training on which it is tried as well as on the first of each epoch: weights that begin at zero may hide
what later steps show."""

ENOUGH = 12
"""Examples of a lot on which a trial is not repeated for want of examples, and how often it is at most."""

NOISE = 2
"""Stream of the secret from which noise is drawn; that of the lots is another."""


class DPSGD(Account):
    """Clip the gradient of every example, add Gaussian noise to their sum, and account for what that reveals.

    Each step replaces the gradient by (Σ clip(gᵢ, C) + N(0, (σC)²)) / (expected examples of a step), for examples
    drawn independently with the same rate (Poisson sampling); a step that draws none is noise alone. Neighbouring data
    sets differ by the presence of one example.

    The loss of the module must be the mean over the examples of a batch. That is tried on a few examples, on the first
    step of every epoch and whenever other weights are trained (see `trial.py`): should gradients of single examples not
    add up to the module's own, should one depend on its neighbours, or training write a buffer, it is refused.

    What `training_step` logs and returns is of the examples and has no noise: `self.log` and `log_metrics` of
    loggers do nothing while it runs, and optimisers and other callbacks are given a loss of 0 and nothing else. Not
    covered is what a module writes by other ways (`logger.experiment`, files), or keeps of a step and tells from
    another hook. Where `repeatable` protects nobody, all is heard.

    Noise comes from a secret that the operating system gives at the start, and so do lots where the loader asks
    `lot_seed` for seeds; see `secret.py` for how strong it is. Weights, dropout and augmentation may come from a public
    seed: what is guaranteed holds whatever they are.

    The settings are those of `Account`.

    Raises:
        UsageError: If an option is out of range; when training starts, or as soon as it happens, if the set-up voids
            the guarantee.
    """

    _per_example: PerExampleGradients | None = None
    _sums: dict[Tensor, Tensor]
    _ours: dict[Tensor, Tensor]
    _lot = _seen = _here = _trials = 0
    _kept: Any = None
    """Examples of earlier lots, where lots are small."""
    _signature: tuple[Any, ...] = ()
    _fresh = _new_epoch = False

    # ------------------------------------------------------------ set-up

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not self.coupled:
            refuse_coupling(pl_module)
        check_trainer(trainer, pl_module)
        count_optimisers(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._sampling = sampling(trainer, self.amplified)
        population, rate = self._sampling.population, self._sampling.rate
        lots.check_first_axis(trainer.train_dataloader)
        if not self.coupled:
            check_preparation(trainer, pl_module)
        check_lots(trainer, population, self.delta)
        steps = steps_of(trainer, self.amplified)
        how = (self.delta, self.accountant)
        if self.noise_multiplier is None:
            assert self.target_epsilon is not None
            self.noise_multiplier = noise_for(self.target_epsilon, rate, steps, *how)
        self._allowed = math.inf
        if self.target_epsilon is None and not self.coupled and math.isfinite(steps):
            # What cannot be accounted for in the end is refused here rather than after an epoch.
            dp_sgd_epsilon([(self.noise_multiplier, rate, int(steps))], *how)
        if self.target_epsilon is not None:
            if any(part[:2] != (self.noise_multiplier, rate) for part in self.history):
                raise UsageError(
                    "a training with a budget cannot be resumed with other noise or lots"
                )
            self._allowed = steps_for(self.target_epsilon, self.noise_multiplier, rate, *how)
            trainer.should_stop |= self.steps >= self._allowed
        self._seen = self._trials = self._here = 0
        self._sums, self._ours = {}, {}
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
        self._signature = signature(module)

    @property
    def _watch(self) -> PerExampleGradients:
        assert self._per_example is not None, "training has not started"
        return self._per_example

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
            with contextlib.ExitStack() as checks:
                if not self.repeatable:
                    checks.enter_context(silent(module))
                if not self.coupled:
                    checks.enter_context(MeanLosses(lots.length(part)))
                return original(part, *rest, **named)

        def hidden(output: Any) -> Any:
            return output if self.repeatable else without_value(output)

        def training_step(batch: Any, *rest: Any, **named: Any) -> Any:
            check_accumulation(module.trainer)
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
            if signature(module) != self._signature:
                self._renew(module)
                self._trials = 0
            parts = list(lots.parts(batch, self._lot, limit))
            if not self.coupled and self._due():
                self._try(module, lambda lot: one_part(lot, *rest, **named), batch, parts[0])
            self._seen += 1
            for part in parts[:-1]:
                loss_of(one_part(part, *rest, **named)).backward()
                self._collect()
            return hidden(one_part(parts[-1], *rest, **named))

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
            raise not_finite(norms, self._seen)
        # Below 1 where the norm exceeds the clip norm; the tiny term keeps an all-zero gradient finite.
        weights = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1)
        for parameter, total in watch.weighted_sum(weights).items():
            if parameter in self._sums:
                # In single precision sums that differ by one example may be rounded apart, to twice its norm.
                self._sums[parameter] = self._sums[parameter].double().add_(total)
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
        check_parameters(self._watch, optimizer)
        # Before anything is changed: what is interrupted in between has been paid for.
        self._spend(trainer)
        self._ours = {}
        for position, parameter in enumerate(self._watch.parameters):
            self._position = position
            total = self._sums.get(parameter)
            if total is None:
                total = torch.zeros_like(parameter)
            if (
                self.repeatable
            ):  # drawn in the precision of the weights, as in every earlier release
                total = total.to(parameter.dtype)
            if total.stride() != parameter.stride():  # laid out as optimisers want it
                total = torch.empty_like(parameter, dtype=total.dtype).copy_(total)
            noisy = self._noisy(total, self._sampling.expected)
            parameter.grad = self._ours[parameter] = noisy.to(parameter.dtype)
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

    def _noisy(self, total: Tensor, expected: float) -> Tensor:
        """A sum of clipped gradients with its noise, by the expected examples of a step."""
        assert self.noise_multiplier is not None
        spread = self.noise_multiplier * self.max_grad_norm
        if self.repeatable:
            return torch.empty_like(total).normal_(0, spread).add_(total).div_(expected)
        stream = NOISE, self._drawn, self._position
        return self._secret.gaussian(total, spread, *stream, over=expected)

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
