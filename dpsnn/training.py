"""One way to train a LightningModule: seeded, repeatable, resumable, best epoch kept."""

import contextlib
import gc
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from dpsnn import ddp, signals
from dpsnn.batches import Share, derived_seed
from dpsnn.errors import Diverged, UsageError
from dpsnn.memory import keep_memory
from dpsnn.pools import compiled_pools
from dpsnn.progress_file import ProgressIO, Resumed

FULL, HALF = "32-true", "bf16-mixed"


def device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(name: str) -> str:
    """Lightning's name for `32`, `bf16`, or `auto`: bf16 where the machine has instructions for it, else float32."""
    if name == "32":
        return FULL
    if name == "bf16":
        return HALF
    if torch.cuda.is_available():
        return HALF if torch.cuda.get_device_capability() >= (8, 0) else FULL
    # Without these instructions bf16 is emulated, several times slower than float32.
    able = torch.cpu.get_capabilities()
    return HALF if able.get("avx512_bf16") or able.get("amx_bf16") else FULL


def not_finite(module: torch.nn.Module) -> str:
    """The name of the first parameter or buffer that holds infinity or NaN; empty if none does.

    What is monitored does not tell: accuracy is a number whatever the weights are.
    """
    tensors = (*module.named_parameters(), *module.named_buffers())
    bad = (name for name, tensor in tensors if not bool(tensor.detach().isfinite().all()))
    return next(bad, "")


class KeepBest(Callback):
    """Remember the weights of the epoch in which a validation quantity was best; survive interruption with them.

    Args:
        monitor: Logged quantity, for instance `val/accuracy`.
        mode: `max` or `min`; `last` keeps the last epoch, whatever the value.
        patience: Epochs without improvement after which training stops; None never stops it.
        first_epoch: Epoch, from 0, before which none is a candidate.

    Raises:
        Diverged: In the first epoch after which a weight, a buffer or the quantity is not finite.
    """

    def __init__(
        self, monitor: str, mode: str, patience: int | None = None, first_epoch: int = 0
    ) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1
        self.last = mode == "last"
        self.patience = patience
        self.first_epoch = first_epoch
        self.epoch = -1
        self.value = float("nan")
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics[self.monitor].item()
        # Also after a good epoch: whether weights of a training that broke are any good is not for the luck of when.
        broken = not_finite(pl_module) or ("" if math.isfinite(value) else self.monitor)
        if broken:
            raise Diverged(
                f"training diverged: {broken} is not finite after epoch {trainer.current_epoch + 1}; lower"
                " --learning_rate, or the noise"
            )
        if trainer.current_epoch < self.first_epoch:
            return
        if self.last or self.epoch < 0 or self.sign * value > self.sign * self.value:
            self.epoch, self.value = trainer.current_epoch, value
            self.weights = {k: v.detach().cpu().clone() for k, v in pl_module.state_dict().items()}
        elif self.patience is not None and trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "value": self.value, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.value = state_dict["epoch"], state_dict["value"]
        self.weights = state_dict["weights"]


class _SeedEpochs(Callback):
    """Give every epoch its own seed, so that a resumed training draws what an uninterrupted one would.

    So does every process of one: the same noise on two images would be none on what tells them apart. What is drawn
    after a training is the same as well where it was found finished, and no epoch of it was left.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed = seed
        self.streams = (rank,) if rank else ()
        self.after: list[Tensor] = []
        """States of the generators after the epochs that were done before."""

    def state_dict(self) -> dict[str, Any]:
        states = [torch.get_rng_state()]
        if torch.cuda.is_available():
            states.append(torch.cuda.get_rng_state())
        return {"after": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.after = state_dict["after"]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for state, restore in zip(self.after, (torch.set_rng_state, torch.cuda.set_rng_state)):
            restore(state)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.after = []
        torch.manual_seed(derived_seed(self.seed, 2, trainer.current_epoch, *self.streams))


class _Interruptible(Callback):
    """Ask before every batch whether a signal got lost in a library."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        signals.check()

    def on_validation_batch_start(self, *arguments: Any) -> None:
        signals.check()


class _SaveProgress(Callback):
    """After every epoch write all that is needed to go on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(self.path)


class Fitted(NamedTuple):
    """What a training gave."""

    epoch: int
    """Epoch (from 0) with the best validation; its weights are in the module now."""
    value: float
    """The monitored quantity in that epoch."""
    seconds: float
    """Wall-clock time of this call."""
    precision: str
    """Precision that was used."""
    devices: tuple[int, ...] = ()
    """On how many it was, one number after another where it was interrupted and went on with others."""


def fit(
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule | None = None,
    *,
    monitor: str,
    mode: str,
    max_epochs: int,
    seed: int,
    precision: str = "auto",
    patience: int | None = None,
    first_epoch: int = 0,
    progress_file: Path | None = None,
    loggers: Iterable[Logger] = (),
    callbacks: Iterable[Callback] = (),
    title: str = "",
    share: Share = Share(),
) -> Fitted:
    """Train `module` and leave it, in float32 on the CPU, with the weights of its best validation epoch (or the last).

    Two calls with the same arguments on the same machine give identical weights, also if one was interrupted between
    epochs and called again.

    Args:
        module: What to train; it brings its own data loaders unless `datamodule` is given.
        datamodule: Data loaders, asked anew for every epoch.
        monitor: Validation quantity that chooses the epoch.
        mode: `max` or `min` of it, or `last`: the last epoch is kept where no images are left to choose by.
        max_epochs: Passes over the training data.
        seed: Seed of everything random within training.
        precision: `auto`, `32` or `bf16`.
        patience: Epochs without improvement before stopping early; None never does.
        first_epoch: Epoch, from 0, before which none is a candidate for the best.
        progress_file: Where to keep the state of an unfinished training; it is resumed from there. The
            caller removes it once the outcome is safe.
        loggers: Lightning loggers.
        callbacks: Further Lightning callbacks.
        title: A line shown above the progress bar.
        share: Which of several processes this is that train one module, all by this call and within `ddp.joined`; the
            first one alone writes files.

    Raises:
        Diverged: If training left the finite numbers in any epoch; no progress is kept, for it would do so again.
        UsageError: If `progress_file` is damaged or that of another training, or layers to train are in evaluation
            mode.
        KeyboardInterrupt: If interrupted; the progress up to the last finished epoch is kept.
    """
    _refuse_resting(module)
    keep_memory()
    resolved = resolve_precision(precision)
    best = KeepBest(monitor, mode, patience, first_epoch)
    callbacks = list(callbacks)
    resume = progress_file if progress_file and progress_file.exists() else None
    resumed = [Resumed(resume, module, [best, *callbacks])] if resume else []
    counted = ddp.Counted(share.of)
    extra: list[Callback] = [counted]
    if share.of > 1:
        # Before anything is kept of an epoch that is not to be.
        extra += [ddp.FairMean(), ddp.OwnSignals(), ddp.Alike()]
    if progress_file:
        extra.append(_SaveProgress(progress_file))
    _quieten()
    # Trainers and their modules refer to each other: those of earlier trainings, with their data, would pile up.
    with signals.held():
        gc.collect()
    start = time.monotonic()
    # Everything on standard error: standard output carries results only.
    with contextlib.redirect_stdout(sys.stderr):
        if title:
            print(title, flush=True)
        trainer = _trainer(
            max_epochs,
            resolved,
            list(loggers),
            [_Interruptible(), best, _SeedEpochs(seed, share.rank), *callbacks, *resumed, *extra],
            share,
        )
        with contextlib.ExitStack() as while_training:
            while_training.enter_context(_no_driver_sought())
            if getattr(module, "channels_last", True):
                module.to(memory_format=torch.channels_last)
                while_training.enter_context(gradients_laid_out(module))
                while_training.enter_context(compiled_pools(module))
            try:
                _run(trainer, module, datamodule, resume)
            except Diverged:
                if progress_file and share.rank == 0:
                    progress_file.unlink(missing_ok=True)
                raise
    if best.epoch < 0:
        raise UsageError(
            f"training ended before epoch {first_epoch + 1}, the first that could be kept; let it go on for longer"
        )
    module.load_state_dict(best.weights)
    module.to("cpu", memory_format=torch.contiguous_format)
    module.eval()
    seconds = time.monotonic() - start
    return Fitted(best.epoch, best.value, seconds, resolved, (*counted.counts,))


@contextlib.contextmanager
def _no_driver_sought() -> Iterator[None]:
    """Where there is no GPU, let nobody look for its driver again: Adam does so in each step, for 0.3 ms.

    Lightning has torch look for the driver itself, which leaves a process with a GPU free to fork.
    """
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    if before is None or torch.cuda.is_available():
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = before


def _refuse_resting(module: nn.Module) -> None:
    """Raise UsageError if layers whose weights are to be trained would normalise, or drop out, as if they were not.

    So is whatever has been trained once, and every copy of it.
    """
    for name, layer in module.named_modules():
        if not layer.training and any(each.requires_grad for each in layer.parameters()):
            raise UsageError(
                f"{name or type(module).__name__} is to be trained, but in evaluation mode; call its train() first, or"
                " requires_grad_(False) if it is to stay as it is"
            )


@contextlib.contextmanager
def gradients_laid_out(module: nn.Module) -> Iterator[None]:
    """Have gradients of feature maps come out of each flattening in the memory layout in which the maps went in.

    They come in rows, and what is before would mix the two layouts: the ReLU of the paper's network then takes twenty
    times as long backward. No value changes.
    """

    def laid_out(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        (maps,) = (*given, *named.values())
        if maps.dim() == 4 and maps.requires_grad:
            maps.register_hook(lambda slope: slope.contiguous(memory_format=torch.channels_last))

    layers = [each for each in module.modules() if isinstance(each, nn.Flatten)]
    hooks = [layer.register_forward_pre_hook(laid_out, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _trainer(
    max_epochs: int,
    precision: str,
    loggers: list[Logger],
    callbacks: list[Callback],
    share: Share,
) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=max_epochs,
        precision=precision,  # type: ignore[arg-type]
        # Not "auto": Apple's GPUs lack the float64 in which distance correlation adds up.
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=share.of,
        strategy=ddp.strategy(share) if share.of > 1 else "auto",
        logger=loggers,
        callbacks=[*callbacks, *_progress_bar()],
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        plugins=[ProgressIO()],
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=50,
    )


def _run(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule | None,
    resume: Path | None,
) -> None:
    if resume:
        print(f"resuming from {resume}")
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit code 1 and leaves the signal ignored.
        raise KeyboardInterrupt from stop
    finally:
        signal.signal(signal.SIGINT, handler)


def _progress_bar() -> list[Callback]:
    if not sys.stderr.isatty():
        return [_Lines()]
    return [RichProgressBar(console_kwargs={"stderr": True})]


class _Lines(Callback):
    """One line per epoch for logs and pipes, where a progress bar would be noise."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {k: v.item() for k, v in trainer.callback_metrics.items()}
        shown = "  ".join(f"{key} {value:.4f}" for key, value in sorted(values.items()))
        print(f"  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}", flush=True)


def _quieten() -> None:
    """Silence advice that does not apply: data are resident (no workers wanted) and runs are short."""
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*LeafSpec.*",
        ".*does not have many workers.*",
        ".*log_every_n_steps.*",
        ".*tensorboard.*",
        ".*in eval mode at the start of training.*",  # what trials share
        ".*broadcast_buffers.*",  # its new name is not in every version
        ".*logging on epoch level in distributed setting.*",  # what is equal everywhere
    ):
        warnings.filterwarnings("ignore", text)


@contextlib.contextmanager
def seeded(seed: int, *streams: int) -> Iterator[None]:
    """Draw from a stream of one's own inside the block and leave the global generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, *streams))
        yield
