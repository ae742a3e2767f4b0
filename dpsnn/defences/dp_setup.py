"""What a training must be for DP-SGD to make it private, seen before it starts and before each step."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpsnn.defences.base import DefenceModule
from dpsnn.defences.per_example import PerExampleGradients
from dpsnn.errors import Diverged, UsageError
from dpsnn.metrics.privacy import dp_sgd_noise_multiplier, dp_sgd_steps
from dpsnn.tensors import Number


def check_trainer(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse what Lightning would do between the gradients and the step.

    Raises:
        UsageError: With the cure.
    """
    if not module.automatic_optimization:
        raise UsageError(
            "DP-SGD needs automatic optimisation; let Lightning call backward and step"
        )
    check_accumulation(trainer)
    if trainer.precision not in ("32-true", "64-true"):
        raise UsageError(
            f"precision is {trainer.precision}; DP-SGD clips in full precision, lest rounding let a gradient"
            " exceed its norm: use --precision 32"
        )
    if trainer.world_size != 1:
        raise UsageError("DP-SGD runs on one device; set devices=1")


def check_accumulation(trainer: pl.Trainer) -> None:
    """Refuse steps over several batches."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    scheduled = any(isinstance(c, GradientAccumulationScheduler) for c in callbacks)
    if trainer.accumulate_grad_batches != 1 or scheduled:
        raise UsageError(
            f"DP-SGD does not go with {'GradientAccumulationScheduler' if scheduled else 'accumulate_grad_batches'}"
            "; set the lot by the loader's batch size and DPSGD(physical_batch=...) by the memory"
        )


def count_optimisers(module: pl.LightningModule) -> None:
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


def check_lots(trainer: pl.Trainer, population: int, delta: Number) -> None:
    """Refuse optimisers that look at a lot twice, and a δ at which an example may be given away.

    Raises:
        UsageError: With the cure.
    """
    for optimiser in trainer.optimizers:
        if isinstance(optimiser, torch.optim.LBFGS):
            raise UsageError(
                "LBFGS looks at a lot several times in a step, each of which DP-SGD would have to account for; use"
                " another optimiser"
            )
    if delta >= 1 / population:
        raise UsageError(
            f"delta is {delta}, but with {population} examples only below"
            f" {1 / population:.2g} does it protect any one of them; lower --dp_delta"
        )


def noise_for(epsilon: Number, rate: float, steps: float, delta: Number, accountant: str) -> float:
    """The noise multiplier with which a whole training stays within a budget.

    Raises:
        UsageError: If nothing ends the training, or no noise is enough.
    """
    if math.isinf(steps):
        raise UsageError(
            "a budget alone sets the noise for a whole training, but nothing ends this one; give max_epochs,"
            " max_steps or a noise multiplier"
        )
    try:
        return dp_sgd_noise_multiplier(epsilon, rate, int(steps), delta, accountant)
    except ValueError as error:
        raise UsageError(f"{error}; train for fewer epochs or allow more") from error


def steps_for(
    epsilon: Number, noise_multiplier: Number, rate: float, delta: Number, accountant: str
) -> int:
    """Steps that a budget allows.

    Raises:
        UsageError: If it is none.
    """
    allowed = dp_sgd_steps(epsilon, noise_multiplier, rate, delta, accountant)
    if allowed < 1:
        raise UsageError(
            f"target epsilon {epsilon} does not allow a single step with noise multiplier"
            f" {noise_multiplier}; raise one of them"
        )
    return allowed


def check_parameters(watch: PerExampleGradients, optimizer: torch.optim.Optimizer) -> None:
    """Every weight that the optimiser moves must be clipped and noised here."""
    watched = set(watch.parameters)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in watched or not (parameter.requires_grad or parameter.grad is not None):
                continue
            raise UsageError(
                f"the optimiser holds a weight of shape {tuple(parameter.shape)}"
                f" ({watch.names.get(parameter, 'which the module does not list')}) whose gradient would be"
                " neither clipped nor noised; keep layers in attributes or nn.ModuleList, and freeze what is not"
                " trained before the step"
            )


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
        if isinstance(layer, DefenceModule) and layer.couples:
            raise UsageError(f"{layer.couples}, which voids the guarantee of DP-SGD; leave it out")


def signature(module: nn.Module) -> tuple[Any, ...]:
    """What is trained, and in which mode: when it changes, all that was tried must be tried again."""
    trained = tuple(id(p) for p in module.parameters() if p.requires_grad)
    return (*trained, *(m.training for m in module.modules()))


def not_finite(norms: Tensor, step: int) -> UsageError:
    """What to say of the norms of gradients some of which are not finite."""
    wrong = (~norms.isfinite()).nonzero().flatten().tolist()
    if len(wrong) == len(norms) > 1:
        return Diverged(
            f"no gradient of step {step} is a finite number: training diverged; lower --learning_rate"
        )
    return UsageError(
        f"the gradient of example {wrong[0]} in the lot of step {step} is not a finite number; look for NaN or infinite"
        " values in the training data and take the example out"
    )
